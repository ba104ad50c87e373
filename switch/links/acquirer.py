"""One acquirer's line, kept connected: reconnect with full jitter, the operator's verbs, and one future per request."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from messages.dialect import Dialect
from switch.links import Bounced, CutOver, LinkSettings, Reply, Silence, Unmatched
from switch.links.connection import LineConnection, Outcome
from switch.links.protocol import LinkProtocol
from switch.links.sealing import LineKeys

__all__ = ["AcquirerLink", "Bounced", "LinkSettings", "Reply", "Silence", "Unmatched"]


class AcquirerLink:
    """The line to one acquirer. `state`: connecting signing_on up draining down (by the operator) disconnected.

    The callbacks run from the event loop soon after what they report, one by one and in order; one that raises harms no request.
    `next_stan` numbers our own 0800; None means that no number is left at the moment. `may_write` is asked just before each write:
    without it nothing leaves, requests are Bounced lease_lost. `keys`: the acquirer's, for MACs.
    """

    def __init__(
        self,
        acquirer_id: str,
        name: str,
        dialect: Dialect,
        settings: LinkSettings,
        *,
        next_stan: Callable[[], str | None],
        on_unmatched: Callable[[Unmatched], None],
        on_cut_over: Callable[[str], None],
        on_state: Callable[[str, str], None] | None = None,
        may_write: Callable[[], bool] = lambda: True,
        keys: LineKeys | None = None,
    ) -> None:
        self.acquirer_id, self.name, self.dialect, self.settings = acquirer_id, name, dialect, settings
        self.state, self.since = "disconnected", datetime.now(UTC)
        self.reconnects = 0
        self._on_unmatched, self._on_cut_over, self._on_state = on_unmatched, on_cut_over, on_state
        self._protocol = LinkProtocol(acquirer_id, dialect, settings, next_stan=next_stan, draw=random.random, keys=keys)
        self._connection: LineConnection | None = None
        self._wanted, self._connecting, self._may_write = True, False, may_write
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and stay connected until `close`. To be called once, inside the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name=f"link {self.name}")

    def usable(self) -> bool:
        """Signed on, not draining, window not full."""
        return self._connection is not None and self._protocol.usable()

    def request(self, message: Mapping[str, str], *, send_not_after: float, deadline: float) -> asyncio.Future[Outcome]:
        """Reply, Bounced or Silence. Both limits are instants of the loop's clock: the first is checked just before the write, the second
        ends the wait within 25 ms. `message` must not change until then.
        """
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        connection = self._connection
        bounced = Bounced("line_down") if connection is None else connection.request(message, answer, send_not_after, deadline)
        if bounced is not None:
            answer.set_result(bounced)
        return answer

    async def drain(self, timeout: float) -> None:
        """Take no new requests, wait for those in flight for at most `timeout` seconds, sign off, close; stay down until `up`.

        Ends at the latest `sign_on_timeout` after that, when the host does not answer the sign-off.
        """
        self._wanted = False
        self._wake.set()
        connection = self._connection
        if connection is not None:
            self._protocol.drain(asyncio.get_running_loop().time() + timeout)
            self._show_state()
            await asyncio.wait([connection.closed])
        self._show_state()

    async def down(self) -> None:
        """Sign off and close without waiting for what is in flight (its outcome is then unknown); stay down until `up`."""
        await self.drain(0.0)

    async def up(self) -> None:
        """Connect again after `drain` or `down`, and at once when waiting to reconnect. Does not wait for the line."""
        self._wanted = True
        self._wake.set()
        self._show_state()

    async def sign_on(self) -> None:
        """Sign on again over the standing connection; until it is answered the line is not usable. Without a connection nothing happens."""
        if self._connection is not None:
            self._connection.sign_on()

    async def close(self) -> None:
        """End the line for good, at once. What is in flight becomes Silence line_lost."""
        self._wanted = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.close("closed by the switch", orderly=True)
            await asyncio.wait([self._connection.closed])
            self._connection = None
        self._show_state()

    def snapshot(self) -> dict[str, Any]:
        """For GET /v1/links; times are aware datetimes."""
        protocol, settings = self._protocol, self.settings
        return {
            "acquirer_id": self.acquirer_id,
            "name": self.name,
            "host": settings.host,
            "port": settings.port,
            "state": self.state,
            "since": self.since,
            "pending": protocol.in_flight,
            "window": settings.window,
            **asdict(protocol.counters),
            "reconnects": self.reconnects,
            "echo_failures": protocol.echo_failures,
            "last_error": protocol.last_error,
            "last_answer_at": protocol.last_answer_at,
        }

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            delay = None
            if self._wanted:
                await self._connect()
                delay = self._protocol.next_delay(loop.time())
            self._show_state()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self.reconnects += self._wanted

    async def _connect(self) -> None:
        """One connection from the attempt to its end."""
        connection = LineConnection(self._protocol, self._record, self._show_state, self._may_write)
        self._connecting = True
        self._show_state()
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await asyncio.get_running_loop().create_connection(lambda: connection, self.settings.host, self.settings.port)
        except (OSError, ValueError, OverflowError) as fault:  # TimeoutError is an OSError; the others are addresses that are none
            self._protocol.last_error = f"not connected: {type(fault).__name__}"
            if self._protocol.phase != "closed":  # made in the last moment, and given up by the timeout
                connection.close("connect timeout")
                await asyncio.wait([connection.closed])
            return
        finally:
            self._connecting = False
        self._connection = connection
        if not self._wanted:
            connection.close("taken down while connecting", orderly=True)
        await asyncio.wait([connection.closed])
        self._connection = None

    def _record(self, event: Unmatched | CutOver) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(event, CutOver):
            loop.call_soon(self._on_cut_over, event.date)
        else:
            loop.call_soon(self._on_unmatched, event)

    def _show_state(self) -> None:
        phase = self._protocol.phase
        if phase != "closed":
            state = "draining" if self._protocol.draining else "up" if phase == "up" else "signing_on"
        elif not self._wanted:
            state = "down"
        else:
            state = "connecting" if self._connecting else "disconnected"
        if state != self.state:
            self.state, self.since = state, datetime.now(UTC)
            if self._on_state is not None:
                asyncio.get_running_loop().call_soon(self._on_state, self.acquirer_id, state)
