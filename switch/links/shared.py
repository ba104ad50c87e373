"""A line that workers share: the worker with a slot connects it, the others of its machine hand their requests to that one."""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from messages.dialect import Dialect, match_key
from switch import logs
from switch.clock import clock
from switch.links import Bounced, Counters, Health, LinkSettings, Reply, Silence, Unmatched
from switch.links.acquirer import AcquirerLink
from switch.links.breaker import Terms
from switch.links.connection import Outcome
from switch.links.group import LineGroup
from switch.links.handover import Ask, HandoverError, Hello, Reader, Status, Told, encode
from switch.links.holder import here
from switch.links.slots import Place, Slots

CONNECT_S = 1.0
IDLE_LOOKS_MAX = 3  # about seconds with a holder whose line is not usable
GUARD_S = 0.25  # past the deadline, for a holder that stands still
GIVEN_UP_MAX = 4096  # requests given up by the asker, remembered to call their answers late


class Errand(asyncio.Protocol):
    """The asker's end: requests go to the holder, and come back as Reply, Bounced or Silence. When the holder is lost, what was handed to it
    is Silence: whether it took it, nobody can know.
    """

    def __init__(self, acquirer_id: str, dialect: Dialect, on_unmatched: Callable[[Unmatched], None], counters: Counters) -> None:
        self.acquirer_id, self.dialect, self.on_unmatched, self.counters = acquirer_id, dialect, on_unmatched, counters
        self.loop, self.reader = asyncio.get_running_loop(), Reader()
        self.usable, self.line_state, self.sells, self.lost = False, "connecting", False, False
        self.number = 0
        self.asked: dict[int, tuple[asyncio.Future[Outcome], datetime, asyncio.TimerHandle]] = {}
        self.given_up: deque[int] = deque(maxlen=GIVEN_UP_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(encode(Hello(self.acquirer_id, time.monotonic())))

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable, self.sells, self.lost = False, False, True
        self.counters.line_losses += 1
        for number in list(self.asked):
            self.end(number, lambda handed_at: Silence("line_lost", handed_at))

    def request(self, message: Mapping[str, str], answer: asyncio.Future[Outcome], send_not_after: float, deadline: float) -> None:
        self.number += 1
        try:
            content = encode(Ask(self.number, message, send_not_after, deadline))
        except HandoverError:
            answer.set_result(Bounced("not_encodable"))
            return
        guard = self.loop.call_at(deadline + GUARD_S, self.give_up, self.number)
        self.asked[self.number] = answer, clock.now(), guard
        self.counters.sent += 1
        self.transport.write(content)

    def give_up(self, number: int) -> None:
        self.counters.timeouts += 1
        self.given_up.append(number)
        self.end(number, lambda handed_at: Silence("timeout", handed_at))

    def end(self, number: int, result: Callable[[datetime], Outcome]) -> None:
        answer, handed_at, guard = self.asked.pop(number)
        guard.cancel()
        if not answer.done():
            answer.set_result(result(handed_at))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.reader.feed(data):
                if isinstance(frame, Status):
                    self.usable, self.line_state, self.sells = frame.usable, frame.state, frame.sells
                elif isinstance(frame, Told):
                    self.told(frame)
                else:
                    raise HandoverError("a frame is out of place")
        except HandoverError as fault:
            logs.warning("handover_refused", detail=str(fault))
            self.transport.abort()

    def told(self, frame: Told) -> None:
        result = frame.result
        if frame.number in self.asked and not self.asked[frame.number][0].done():
            self.counters.answered += isinstance(result, Reply)
            self.counters.timeouts += isinstance(result, Silence)
            self.counters.sent -= isinstance(result, Bounced)
            self.end(frame.number, lambda _: result)
        elif isinstance(result, Reply):  # nobody waits any more: the answer is evidence
            if frame.number in self.asked:
                self.end(frame.number, lambda _: result)
            self.counters.late += 1
            reason = "late" if frame.number in self.given_up else "no_request"
            self.on_unmatched(Unmatched(self.acquirer_id, result.message, reason, None, match_key(self.dialect, result.message), 0,
                                        result.answered_at, result.sent_at))


class SharedLink:
    """One acquirer's line, or lines, among several workers, with the interface of an own one. `state` of one that is handed over: handed_over.

    `make` builds the own line, which may write only while its slot is ours; `may_send`: this worker's lease.
    """

    def __init__(self, acquirer_id: str, name: str, dialect: Dialect, settings: LinkSettings, *, slots: Slots, limit: int,
                 make: Callable[[Callable[[], bool]], AcquirerLink | LineGroup], may_send: Callable[[], bool],
                 on_unmatched: Callable[[Unmatched], None]) -> None:
        self.acquirer_id, self.name, self.dialect, self.settings = acquirer_id, name, dialect, settings
        self.slots, self.limit, self.make, self.may_send, self.on_unmatched = slots, limit, make, may_send, on_unmatched
        self.own: AcquirerLink | LineGroup | None = None
        self.terms: Terms | None = None  # of the breaker
        self.errand: Errand | None = None
        self.counters, self.since, self.reconnects = Counters(), datetime.now(UTC), 0
        self.wanted = True
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.connecting, self.idle_looks = False, 0

    @property
    def state(self) -> str:
        if self.own is not None:
            return self.own.state
        if not self.wanted:
            return "down"
        return "handed_over" if self.errand is not None and self.errand.usable else "disconnected"

    def start(self) -> None:
        self.slots.want(UUID(self.acquirer_id), self.limit, self._placed)

    def limit_to(self, limit: int) -> None:
        self.limit = limit
        if UUID(self.acquirer_id) in self.slots.wanted:
            self.start()

    def usable(self) -> bool:
        if self.own is not None:
            return self.own.usable()
        errand = self.errand
        return self.wanted and errand is not None and errand.usable and len(errand.asked) < self.settings.window

    def sells(self) -> bool:
        if self.own is not None:
            return self.own.sells()
        return self.usable() and self.errand is not None and self.errand.sells

    def tripped(self) -> bool:
        return self.own.tripped() if self.own is not None else self.usable() and not self.sells()

    def guard(self, terms: Terms | None) -> None:
        self.terms = terms
        if self.own is not None:
            self.own.guard(terms)

    def health(self) -> Iterable[Health]:
        """Of lines that this worker holds: the others' are their holder's."""
        return self.own.health() if self.own is not None else ()

    def request(self, message: Mapping[str, str], *, send_not_after: float, deadline: float) -> asyncio.Future[Outcome]:
        """As AcquirerLink.request; what cannot be handed over is Bounced."""
        if self.own is not None:
            return self.own.request(message, send_not_after=send_not_after, deadline=deadline)
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        errand = self.errand
        if errand is None or not self.wanted or not errand.usable:
            answer.set_result(Bounced("line_down" if self.wanted else "draining"))
        elif time.monotonic() > send_not_after:
            answer.set_result(Bounced("too_late"))
        elif not self.may_send():
            answer.set_result(Bounced("lease_lost"))
        elif len(errand.asked) >= self.settings.window:
            answer.set_result(Bounced("window_full"))
        else:
            errand.request(message, answer, send_not_after, deadline)
        return answer

    async def drain(self, timeout: float) -> None:
        """As AcquirerLink.drain; without a slot, only what is handed over is waited for."""
        self.wanted = False
        if self.own is not None:
            await self.own.drain(timeout)
        elif self.errand is not None and self.errand.asked:
            await asyncio.wait([answer for answer, _, _ in self.errand.asked.values()], timeout=timeout)

    async def down(self) -> None:
        await self.drain(0.0)

    async def up(self) -> None:
        self.wanted = True
        if self.own is not None:
            await self.own.up()

    async def sign_on(self) -> None:
        if self.own is not None:
            await self.own.sign_on()

    async def close(self) -> None:
        """Ends the line, then gives the slot back: never two lines for one slot."""
        self.wanted = False
        acquirer_id = UUID(self.acquirer_id)
        self.slots.wanted.pop(acquirer_id, None)
        for task in self.tasks:
            task.cancel()
        if self.errand is not None:
            self.errand.transport.abort()
        own, self.own = self.own, None
        if own is not None:
            await own.close()
            await self.slots.release(acquirer_id)

    def snapshot(self) -> dict[str, Any]:
        """As AcquirerLink.snapshot; of a handed-over line, what this worker handed over."""
        if self.own is not None:
            return self.own.snapshot()
        return {
            "acquirer_id": self.acquirer_id, "name": self.name, "host": self.settings.host, "port": self.settings.port, "state": self.state,
            "since": self.since, "pending": len(self.errand.asked) if self.errand else 0, "window": self.settings.window,
            **asdict(self.counters), "reconnects": self.reconnects, "echo_failures": 0, "last_error": None, "last_answer_at": None,
            "breaker": "none", "lines": [],
        }

    def _placed(self, place: Place) -> None:
        """What the slots say, each second: with one of our own, connect; without, find a holder on this machine."""
        if place.held and self.own is None:
            self._later(self._hold())
        elif not place.held and self.own is not None:
            self._later(self._let_go())
        elif not place.held:
            self._look_for_holder([path for path in map(here, place.holders) if path is not None])

    def _look_for_holder(self, paths: list[Path]) -> None:
        """Any holder of this machine; another one when the line of this one has been down for a while."""
        errand = self.errand
        self.idle_looks = 0 if errand is not None and errand.usable else self.idle_looks + 1
        idle = errand is not None and not errand.asked and self.idle_looks > IDLE_LOOKS_MAX and len(paths) > 1
        if paths and not self.connecting and (errand is None or errand.lost or idle):
            if errand is not None:
                errand.transport.abort()
            self.connecting, self.idle_looks = True, 0
            self._later(self._connect(random.choice(paths)))

    def _later(self, job: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(job)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _hold(self) -> None:
        errand, self.errand = self.errand, None
        self.own = self.make(lambda: self.may_send() and self.slots.may_write(UUID(self.acquirer_id)))
        self.own.guard(self.terms)
        self.own.start()
        if not self.wanted:
            await self.own.down()
        if errand is not None and not errand.lost:  # what is with the former holder is answered by it, or lost with it
            if errand.asked:
                await asyncio.wait([answer for answer, _, _ in errand.asked.values()])
            errand.transport.close()

    async def _let_go(self) -> None:
        own, self.own = self.own, None
        if own is not None:
            logs.warning("slot_lost", acquirer=self.name)
            await own.close()

    async def _connect(self, path: Path) -> None:
        errand = Errand(self.acquirer_id, self.dialect, self.on_unmatched, self.counters)
        folder = None
        try:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            async with asyncio.timeout(CONNECT_S):
                await self.loop.create_unix_connection(lambda: errand, f"/proc/self/fd/{folder}/{path.name}")
            if self.own is None:
                self.errand, self.since = errand, datetime.now(UTC)
                self.reconnects += 1
            else:
                errand.transport.abort()
        except OSError as error:
            logs.warning("handover_not_connected", acquirer=self.name, error=type(error).__name__)
        finally:
            self.connecting = False
            if folder is not None:
                os.close(folder)
