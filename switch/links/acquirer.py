"""One acquirer's line, kept connected: reconnect with full jitter, the operator's verbs, and one future per request."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from messages.dialect import Dialect
from switch import logs
from switch.clock import clock
from switch.links import Bounced, CutOver, Health, KeyChange, LinkSettings, Reply, Silence, Unmatched, tls
from switch.links.breaker import Breaker, Terms
from switch.links.connection import LineConnection, Outcome, Record
from switch.links.exchange import Exchanges
from switch.links.protocol import LinkProtocol
from switch.links.sealing import LineKeys

__all__ = ["AcquirerLink", "Bounced", "LinkSettings", "Reply", "Silence", "Unmatched"]


class AcquirerLink:
    """A line to one acquirer. `state`: connecting signing_on up draining down (by the operator) disconnected certificate_refused (the host's or
    ours; `last_error` says which and why) certificate_unusable (a file of ours).

    The callbacks run from the event loop soon after what they report, one by one and in order; one that raises harms no request.
    `next_stan` numbers our own 0800; None means that no number is left at the moment. `may_write` is asked just before each write:
    without it nothing leaves, requests are Bounced lease_lost. `exchanges` is what the acquirer's lines share; `keys` are its own, for MACs.
    `on_key_change` gets the host's message, which holds keys, and gives the DE39 of its answer; without it a key change is refused.
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
        on_state: Callable[[str, str, str | None], None] | None = None,
        may_write: Callable[[], bool] = lambda: True,
        exchanges: Exchanges | None = None,
        keys: LineKeys | None = None,
        on_key_change: Callable[[Mapping[str, str]], Awaitable[str]] | None = None,
    ) -> None:
        self.acquirer_id, self.name, self.dialect, self.settings = acquirer_id, name, dialect, settings
        self.state, self.since = "disconnected", datetime.now(UTC)
        self.reconnects = 0
        self._on_unmatched, self._on_cut_over, self._on_state = on_unmatched, on_cut_over, on_state
        self._on_key_change, self.exchanges = on_key_change, exchanges or Exchanges(dialect)
        self._protocol = LinkProtocol(acquirer_id, dialect, settings, next_stan=next_stan, draw=random.random, exchanges=self.exchanges, keys=keys,
                                      keyed=on_key_change is not None)
        self.breaker: Breaker | None = None
        self._certificate_ends: datetime | None = None
        self._refused: str | None = None  # a state: why there is no connection, where that is known
        self._key_changes: set[asyncio.Task[None]] = set()
        self._connection: LineConnection | None = None
        self._wanted, self._connecting, self._may_write = True, False, may_write
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and stay connected until `close`. To be called once, inside the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name=f"link {self.name}")

    @property
    def started(self) -> bool:
        return self._task is not None

    def usable(self) -> bool:
        """Signed on, not draining, window not full."""
        return self._connection is not None and self._protocol.usable()

    def sells(self) -> bool:
        breaker = self.breaker
        return self._connection is not None and self._protocol.usable() and (breaker is None or breaker.state == "closed")

    def tripped(self) -> bool:
        return self.breaker is not None and self.breaker.state != "closed" and self.usable()

    def guard(self, terms: Terms | None) -> None:
        if terms is None:
            self.breaker = None
        elif self.breaker is None or self.breaker.terms != terms:
            self.breaker = Breaker(terms, self._loop.time(), clock.now())
        if self._connection is not None:
            self._connection.breaker = self.breaker

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
            "breaker": self.health_now.breaker,
            "lines": [self.shown()],
        }

    def shown(self) -> dict[str, Any]:
        """This line alone, as one of its acquirer's."""
        protocol, settings, breaker = self._protocol, self.settings, self.breaker
        return {
            "line": settings.line, "number": settings.number, "priority": settings.priority, "host": settings.host, "port": settings.port,
            "state": self.state, "since": self.since, "pending": protocol.in_flight, "last_error": protocol.last_error,
            "breaker": self.health_now.breaker, "breaker_since": breaker.since if breaker else None, "breaker_trips": breaker.trips if breaker else 0,
            "tls": settings.tls is not None, "certificate_ends_at": self._certificate_ends,
        }

    @property
    def health_now(self) -> Health:
        breaker = self.breaker
        return Health(self.settings.line, self.state, breaker.state if breaker else "none", breaker.trips if breaker else 0, self._certificate_ends)

    def health(self) -> Iterable[Health]:
        yield self.health_now

    @property
    def in_flight(self) -> int:
        return self._protocol.in_flight

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            delay = None
            if self._wanted:
                await self._connect()
                delay = self._protocol.backoff.delay(loop.time())
            self._show_state()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self.reconnects += self._wanted

    async def _connect(self) -> None:
        """One connection from the attempt to its end."""
        connection = LineConnection(self._protocol, self._record, self._show_state, self._may_write, self.breaker)
        self._connecting = True
        self._show_state()
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await self._dial(connection)
        except (OSError, ValueError, OverflowError) as fault:  # TimeoutError is an OSError; the others are addresses that are none
            refused = tls.refusal(fault)
            self._refused = "certificate_unusable" if isinstance(fault, tls.Unusable) else "certificate_refused" if refused else None
            self._protocol.last_error = str(fault) if isinstance(fault, tls.Unusable) else refused or f"not connected: {type(fault).__name__}"
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
        self._refused = "certificate_refused" if connection.refused else None

    async def _dial(self, connection: LineConnection) -> None:
        """Raises OSError, ValueError, OverflowError; tls.Unusable is an OSError."""
        host, port, secured = self.settings.host, self.settings.port, self.settings.tls
        loop = asyncio.get_running_loop()
        if secured is None:
            await loop.create_connection(lambda: connection, host, port)
            return
        context, ends = await asyncio.to_thread(tls.context, secured)  # anew each time: who renews a certificate restarts nothing
        transport, _ = await loop.create_connection(lambda: connection, host, port, ssl=context, server_hostname=secured.server_name,
                                                    ssl_handshake_timeout=self.settings.connect_timeout)
        self._certificate_ends = min(filter(None, (ends, tls.ends(cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))))), default=None)

    def _record(self, event: Record) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(event, CutOver):
            loop.call_soon(self._on_cut_over, event.date)
        elif isinstance(event, KeyChange):
            task = loop.create_task(self._change_keys(event.message, self._connection))
            self._key_changes.add(task)
            task.add_done_callback(self._key_changes.discard)
        else:
            loop.call_soon(self._on_unmatched, event)

    async def _change_keys(self, message: Mapping[str, str], connection: LineConnection | None) -> None:
        """Whatever goes wrong with the keys is refused: the host then keeps the old ones."""
        assert self._on_key_change is not None
        try:
            code = await self._on_key_change(message)
        except Exception as error:
            logs.error("key_change_failed", acquirer=self.name, error=type(error).__name__, where=logs.place(error))
            code = self.dialect.network_rule.refused
        if connection is not None and connection is self._connection:
            connection.answer_key_change(message, code)

    def _show_state(self) -> None:
        phase = self._protocol.phase
        if phase == "closed" and not self._wanted:
            state = "down"
        elif phase != "closed" and self._protocol.draining:
            state = "draining"
        elif phase == "up":
            state = "up"
        elif self._refused is not None:  # until it is up: each further attempt is no news
            state = self._refused
        else:
            state = "signing_on" if phase != "closed" else "connecting" if self._connecting else "disconnected"
        if state != self.state:
            self.state, self.since = state, datetime.now(UTC)
            if self._on_state is not None:
                why = self._protocol.last_error if state == "disconnected" or phase == "signed_off" else None
                asyncio.get_running_loop().call_soon(self._on_state, self.acquirer_id, state, why)
