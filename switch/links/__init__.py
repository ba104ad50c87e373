"""The acquirers' lines: multiplexed TCP connections, one or several per acquirer. Here: what a line is told and what it gives back, as values."""

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from switch.links.breaker import Terms


class Tls(NamedTuple):
    """How a line is secured. Paths are of the machine that connects; `server_name` is what the host's certificate must be for."""

    server_name: str
    ca_file: str | None = None  # None: who the machine trusts
    certificate_file: str | None = None  # ours, with its chain; None: we show none
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One line's address and limits; times in seconds, `window` in requests in flight (queued ones included)."""

    host: str
    port: int
    connect_timeout: float = 3.0
    sign_on_timeout: float = 5.0
    echo_idle: float = 30.0
    echo_timeout: float = 5.0
    echo_failures: int = 3
    write_deadline: float = 2.0
    window: int = 2048
    backoff_min: float = 0.1
    backoff_max: float = 10.0
    line: str = ""  # its id
    number: int = 1  # of several connections to one host
    priority: int = 0  # the lowest that is usable carries
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The acquirer's answer: key, amount, currency and terminal agree with the request. The message is unmasked."""

    message: dict[str, str] = field(repr=False)
    sent_at: datetime
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class Bounced:
    """Never handed to write(), provably no byte left: line_down window_full too_late lease_lost duplicate_key draining not_encodable."""

    reason: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Written and not answered so that it can be believed, outcome unknown: timeout line_lost; bad_mac (an answer came whose MAC was wrong or
    missing); of plug-ins unreadable not_authentic."""

    reason: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Evidence: a frame that answers nothing in flight. `message` is unmasked, None if undecodable; `field` is the one that did not match.

    Reasons: no_request, differs (right key, wrong content), late (its request had ended unanswered), duplicate (had been answered),
    undecodable, unknown_mti (a request that hosts have no business to send), bad_mac (wrong or missing: whatever it says is not believed),
    not_authentic (the same of a plug-in's signature). `sent_at`: of the request that it comes too late for, where the line remembers it.
    `fault`: why bytes could not be read, and where, or why the host did not take ours; without what they say.
    """

    acquirer_id: str
    message: dict[str, str] | None = field(repr=False)
    reason: str
    field: str | None
    match_key: str | None
    raw_length: int
    received_at: datetime
    sent_at: datetime | None = None
    fault: str | None = None


class Settled(NamedTuple):
    """The one outcome of a request, for the holder of `token`."""

    token: object
    result: Reply | Bounced | Silence
    match_key: str
    raw_length: int


class CutOver(NamedTuple):
    """The host's 0800/201: the new business date, MMDD of DE15."""

    date: str


class KeyChange(NamedTuple):
    """The host's key change: answered by `answer_key_change`. The message is unmasked, and holds keys."""

    message: dict[str, str]


class EchoEnded(NamedTuple):
    """An echo of ours: answered, or its time was up."""

    answered: bool


class LineClosed(NamedTuple):
    """The connection is of no further use: abort it. Whatever was in flight has been settled before this event."""

    reason: str


Event = Settled | Unmatched | CutOver | KeyChange | EchoEnded | LineClosed


@dataclass(slots=True)
class Counters:
    """What happened on a line since the start. `unmatched` counts what is neither late nor undecodable."""

    sent: int = 0
    answered: int = 0
    timeouts: int = 0
    unmatched: int = 0
    late: int = 0
    undecodable: int = 0
    line_losses: int = 0

    def count(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)


class Share(NamedTuple):
    """This worker among those that are signed on at an acquirer: how many they are, and its place among them, from 0."""

    workers: int
    place: int

    def of(self, whole: int) -> int:
        """Its part of what comes in whole ones: the parts of all add up to `whole`, and some are 0 when there are more workers."""
        return whole // self.workers + (self.place < whole % self.workers)


class Health(NamedTuple):
    """How one line is, for whoever looks after it. `breaker`: closed open half_open, or none."""

    line: str
    state: str
    breaker: str
    trips: int  # of the breaker, since the start
    certificate_ends: datetime | None  # the first of the host's and ours


class Link(Protocol):
    """A way to one acquirer: a line of this worker's own (acquirer.py), several (group.py), or what workers share (shared.py)."""

    acquirer_id: str
    name: str

    @property
    def settings(self) -> LinkSettings: ...
    @property
    def state(self) -> str: ...
    def start(self) -> None: ...
    def usable(self) -> bool: ...
    def sells(self) -> bool:
        """Usable, and no breaker is in the way: for new requests. What is owed asks `usable`."""
    def tripped(self) -> bool:
        """Whether a breaker alone is in the way."""
    def guard(self, terms: Terms | None) -> None:
        """From now on with this breaker, or none; one whose terms are the same goes on as it is."""
    def health(self) -> Iterable[Health]: ...
    def request(self, message: Mapping[str, str], *, send_not_after: float, deadline: float) -> Awaitable[Reply | Bounced | Silence]: ...
    async def drain(self, timeout: float) -> None: ...
    async def down(self) -> None: ...
    async def up(self) -> None: ...
    async def sign_on(self) -> None: ...
    async def close(self) -> None: ...
    def snapshot(self) -> dict[str, Any]: ...
