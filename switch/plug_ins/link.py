"""A plug-in's host as a line of the switch: deadlines, the lease, the window and the evidence are kept here, whatever the plug-in does."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from messages.dialect import Dialect, match_key
from switch import logs
from switch.clock import clock
from switch.links import Bounced, Counters, Health, LinkSettings, Reply, Silence, Unmatched
from switch.links.breaker import Terms
from switch.plug_ins import UNKNOWN, UNSENT, Account, Answer, Asked, Host, PlugIn, Said, Unknown, Unsent, orders

BOUNCED = {"not_connected": "line_down", "busy": "window_full", "too_late": "too_late", "lease_lost": "lease_lost", "unfit": "not_encodable"}
SILENT = {"timeout": "timeout", "line_lost": "line_lost", "unreadable": "unreadable", "differs": "unreadable", "not_authentic": "not_authentic"}


class Permission:
    """Asked just before the first byte: from then on nobody can say that nothing was sent."""

    def __init__(self, may_write: Callable[[], bool], send_not_after: float) -> None:
        self.may_write, self.send_not_after, self.refusal = may_write, send_not_after, ""
        self.at: datetime | None = None

    def __call__(self) -> bool:
        if self.at is None and asyncio.get_running_loop().time() > self.send_not_after:
            self.refusal = "too_late"
        elif not self.may_write():
            self.refusal = "lease_lost"
        else:
            self.at = self.at or clock.now()
            return True
        return False


class PlugInLink:
    """`state`: connecting up draining down (by the operator) disconnected. One that cannot be reached is tried again until it can."""

    def __init__(self, acquirer_id: str, name: str, dialect: Dialect, settings: LinkSettings, plug_in: PlugIn, account: Account, limit_s: int, *,
                 on_unmatched: Callable[[Unmatched], None], on_state: Callable[[str, str, str | None], None], may_write: Callable[[], bool]) -> None:
        self.acquirer_id, self.name, self.dialect, self.settings = acquirer_id, name, dialect, settings
        self.account, self.limit_s = account, limit_s
        self.on_unmatched, self.on_state, self.may_write = on_unmatched, on_state, may_write
        self.host: Host = plug_in.open(account)
        self.state, self.since = "disconnected", datetime.now(UTC)
        self.counters, self.pending, self.reconnects = Counters(), 0, 0
        self.last_error: str | None = None
        self.last_answer_at: datetime | None = None
        self.wanted, self.wake = True, asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reach it and stay within reach until `close`. To be called once, inside the running loop."""
        self.task = asyncio.get_running_loop().create_task(self._keep_reaching(), name=f"plug-in {self.name}")

    def usable(self) -> bool:
        return self.state == "up" and self.pending < self.settings.window

    def sells(self) -> bool:
        return self.usable()

    def tripped(self) -> bool:
        return False

    def guard(self, terms: Terms | None) -> None:
        """A breaker is probed with echoes, and no plug-in has one."""

    def health(self) -> Iterable[Health]:
        yield Health(self.settings.line, self.state, "none", 0, None)

    def request(self, message: Mapping[str, str], *, send_not_after: float, deadline: float) -> Awaitable[Reply | Bounced | Silence]:
        """Reply, Bounced or Silence. Both limits are instants of the loop's clock."""
        return self._request(message, send_not_after, deadline)

    async def _request(self, message: Mapping[str, str], send_not_after: float, deadline: float) -> Reply | Bounced | Silence:
        if not self.usable():
            return Bounced("window_full" if self.state == "up" else "draining" if self.state == "draining" else "line_down")
        try:
            asked = orders.asked(message, self.limit_s)
        except (LookupError, ValueError):
            return Bounced("not_encodable")
        permission = Permission(self.may_write, send_not_after)
        self.pending += 1
        self.idle.clear()
        try:
            said = await self._said(asked, permission, deadline)
        finally:
            self.pending -= 1
            if not self.pending:
                self.idle.set()
        return self._result(message, permission, said)

    async def _said(self, asked: Asked, permission: Permission, deadline: float) -> Said:
        try:
            async with asyncio.timeout_at(deadline):
                said = await self.host.ask(asked, permission, clock.now())
        except TimeoutError:
            return Unknown("timeout") if permission.at else Unsent("too_late")
        except Exception as error:  # code of others: whatever it raises, what it sent is unknown
            logs.error("plug_in_failed", acquirer=self.name, error=type(error).__name__, where=logs.place(error))
            return Unknown("line_lost") if permission.at else Unsent("not_connected")
        if isinstance(said, Unsent) and permission.at is not None:
            return Unknown("line_lost")
        if isinstance(said, Answer):
            return orders.believed(asked, said) if permission.at is not None else Unsent("unfit")
        return said

    def _result(self, message: Mapping[str, str], permission: Permission, said: Said) -> Reply | Bounced | Silence:
        counters, now = self.counters, clock.now()
        if isinstance(said, Unsent):
            if said.reason == "not_connected":
                self._lost("not connected")
            return Bounced(BOUNCED[said.reason if said.reason in UNSENT else "unfit"])
        assert permission.at is not None
        counters.sent += 1
        if isinstance(said, Answer):
            counters.answered += 1
            self.last_answer_at = datetime.now(UTC)
            return Reply(orders.message(message, said), permission.at, now)
        reason = said.reason if said.reason in UNKNOWN else "unreadable"
        if reason == "timeout":
            counters.timeouts += 1
        elif reason == "line_lost":
            counters.line_losses += 1
            self._lost("connection lost")
        else:
            self._recorded(message, said, reason, now)
        return Silence(SILENT[reason], permission.at)

    def _recorded(self, message: Mapping[str, str], said: Unknown, reason: str, now: datetime) -> None:
        """An answer that is not believed is evidence, under the key of what it was to answer."""
        if reason == "unreadable":
            self.counters.undecodable += 1
        else:
            self.counters.unmatched += 1
        key = match_key(self.dialect, message) if message["0"] == "0200" else None
        recorded = {"unreadable": "undecodable"}.get(reason, reason)
        asyncio.get_running_loop().call_soon(self.on_unmatched, Unmatched(self.acquirer_id, None, recorded, said.field, key, said.size, now))

    async def drain(self, timeout: float) -> None:
        """Take no new requests, wait for those in flight for at most `timeout` seconds; stay down until `up`."""
        self.wanted = False
        self._show("draining")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.idle.wait()
        if not self.wanted:
            self._show("down")

    async def down(self) -> None:
        await self.drain(0.0)

    async def up(self) -> None:
        """Reach it again after `drain` or `down`. Does not wait for it."""
        self.wanted = True
        if self.state in ("down", "draining"):
            self._show("disconnected")
        self.wake.set()

    async def sign_on(self) -> None:
        """Whether it can still be reached is looked at anew."""
        if self.wanted:
            self._lost("asked by the operator")

    async def close(self) -> None:
        """The end: what is in flight is cut and unknown."""
        self.wanted = False
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.host.close()
        self._show("down")

    def snapshot(self) -> dict[str, Any]:
        """For GET /v1/links; times are aware datetimes."""
        return {
            "acquirer_id": self.acquirer_id, "name": self.name, "host": self.settings.host, "port": self.settings.port, "state": self.state,
            "since": self.since, "pending": self.pending, "window": self.settings.window, **asdict(self.counters), "reconnects": self.reconnects,
            "echo_failures": 0, "last_error": self.last_error, "last_answer_at": self.last_answer_at, "breaker": "none", "lines": [self._shown()],
        }

    def _shown(self) -> dict[str, Any]:
        """As the one line that it has; how that is secured is the plug-in's."""
        settings = self.settings
        return {
            "line": settings.line, "number": settings.number, "priority": settings.priority, "host": settings.host, "port": settings.port,
            "state": self.state, "since": self.since, "pending": self.pending, "last_error": self.last_error,
            "breaker": "none", "breaker_since": None, "breaker_trips": 0, "tls": None, "certificate_ends_at": None,
        }

    async def _keep_reaching(self) -> None:
        attempt = 0
        while True:
            self.wake.clear()
            delay = None
            if self.wanted and self.state != "up":
                self._show("connecting")
                if await self._reached():
                    attempt = 0
                else:
                    attempt += 1
                    least, most = self.settings.backoff_min, self.settings.backoff_max
                    delay = random.uniform(least, min(most, least * 2.0**min(attempt, 10)))
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.wake.wait()
            self.reconnects += self.wanted and self.state != "up"

    async def _reached(self) -> bool:
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await self.host.reach()
        except (OSError, ValueError) as error:  # TimeoutError and failures of TLS are OSErrors; the others are addresses that are none
            self.last_error = f"not connected: {type(error).__name__}"
            if self.wanted:
                self._show("disconnected")
            return False
        if self.wanted:
            self._show("up")
        return True

    def _lost(self, why: str) -> None:
        self.last_error = why
        if self.state == "up":
            self._show("disconnected")
        self.wake.set()

    def _show(self, state: str) -> None:
        if state != self.state:
            self.state, self.since = state, datetime.now(UTC)
            asyncio.get_running_loop().call_soon(self.on_state, self.acquirer_id, state, self.last_error if state == "disconnected" else None)
