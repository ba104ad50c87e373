"""What may be wrong, told from what the switch has recorded, each with its evidence. Pure: facts in, causes out, the most telling first."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

LOOK_BACK = timedelta(hours=24)
CERTIFICATE_SOON = timedelta(days=14)  # as the alert certificate_ends
BATTERY_LOW = 15  # percent, while it is not charging
DECLINES_FROM = 3  # of one code within LOOK_BACK


class Line(NamedTuple):
    """An acquirer of the terminal as one worker last wrote it down."""

    acquirer: str
    signed_on: bool
    state: str
    breaker: str | None
    certificate_ends_at: datetime | None
    at: datetime


class Health(NamedTuple):
    """What the terminal's device last said, and how it stands."""

    device: str
    state: str
    tampered_at: datetime | None
    last_at: datetime | None
    silent_since: datetime | None
    battery_percent: int | None
    charging: bool | None
    paper: str | None


class Declines(NamedTuple):
    """Of one code within LOOK_BACK; `last` is the newest of them."""

    code: str | None
    reason: str | None
    times: int
    last: str
    last_at: datetime


class Facts(NamedTuple):
    """What was read for one ticket at `now`."""

    now: datetime
    merchant_status: str
    terminal_status: str | None = None
    keys: int | None = None  # of the terminal that are good; None without a terminal
    health: Health | None = None
    lines: tuple[Line, ...] = ()
    declines: tuple[Declines, ...] = ()
    limits: tuple[tuple[str, int, datetime], ...] = ()  # why, how often, when last
    alerts: tuple[tuple[str, str, datetime], ...] = ()  # kind, object, when last: trouble with keys of acquirers


class Cause(NamedTuple):
    kind: str
    says: str
    evidence: Mapping[str, Any]


KINDS: Mapping[str, str] = {
    "merchant_not_active": "The merchant is not active: none of its terminals sells.",
    "terminal_not_active": "The terminal is not active, or its device may not sell.",
    "terminal_tampered": "The device said that it was opened: its keys were ended.",
    "terminal_without_key": "The terminal has no good key: it cannot identify itself.",
    "line_down": "No worker is signed on at an acquirer of the terminal.",
    "breaker_open": "A breaker is open: the acquirer's host does not answer, new sales are not sent to it.",
    "certificate_ends": "A certificate of an acquirer's line has ended or ends soon.",
    "key_trouble": "Keys of an acquirer are refused or answers fail their MAC.",
    "terminal_silent": "The device has not been heard of for longer than it may be silent.",
    "paper_out": "The device said that its paper is out or low.",
    "battery_low": "The device's battery is nearly empty and it is not charging.",
    "limit_reached": "Sales were refused or flagged by a limit of the merchant.",
    "declined": "Issuers or the acquirer declined several sales with one code.",
}


def causes(facts: Facts) -> list[Cause]:
    """Suggestions, not judgements: whoever works on the ticket decides."""
    return [Cause(kind, KINDS[kind], evidence) for kind, find in _FINDERS for evidence in find(facts)]


def _merchant(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.merchant_status != "active":
        yield {"status": facts.merchant_status}


def _terminal(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.terminal_status not in (None, "active"):
        device = facts.health
        yield {"status": facts.terminal_status, "device": device and device.device, "device_state": device and device.state}


def _tampered(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.health is not None and facts.health.tampered_at is not None:
        yield {"device": facts.health.device, "since": facts.health.tampered_at}


def _keyless(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.keys == 0:
        yield {"good_keys": 0}


def _by_acquirer(facts: Facts) -> Iterator[tuple[str, list[Line]]]:
    for acquirer in dict.fromkeys(line.acquirer for line in facts.lines):
        yield acquirer, [line for line in facts.lines if line.acquirer == acquirer]


def _down(facts: Facts) -> Iterator[dict[str, Any]]:
    for acquirer, lines in _by_acquirer(facts):
        if not any(line.signed_on for line in lines):
            yield {"acquirer": acquirer, "state": lines[0].state, "as_of": max(line.at for line in lines)}


def _breaker(facts: Facts) -> Iterator[dict[str, Any]]:
    for acquirer, lines in _by_acquirer(facts):
        if tripped := [line for line in lines if line.breaker in ("open", "half_open")]:
            yield {"acquirer": acquirer, "breaker": tripped[0].breaker, "as_of": tripped[0].at}


def _certificate(facts: Facts) -> Iterator[dict[str, Any]]:
    for acquirer, lines in _by_acquirer(facts):
        ends = min((line.certificate_ends_at for line in lines if line.certificate_ends_at is not None), default=None)
        if ends is not None and ends - facts.now < CERTIFICATE_SOON:
            yield {"acquirer": acquirer, "ends_at": ends}


def _key_trouble(facts: Facts) -> Iterator[dict[str, Any]]:
    for kind, object_, last_at in facts.alerts:
        yield {"alert": kind, "object": object_, "last_at": last_at}


def _silent(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.health is not None and facts.health.silent_since is not None:
        yield {"device": facts.health.device, "last_heartbeat_at": facts.health.last_at, "silent_since": facts.health.silent_since}


def _paper(facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.health is not None and facts.health.paper in ("low", "out"):
        yield {"device": facts.health.device, "paper": facts.health.paper, "said_at": facts.health.last_at}


def _battery(facts: Facts) -> Iterator[dict[str, Any]]:
    health = facts.health
    if health is not None and health.battery_percent is not None and health.battery_percent < BATTERY_LOW and not health.charging:
        yield {"device": health.device, "battery_percent": health.battery_percent, "said_at": health.last_at}


def _limit(facts: Facts) -> Iterator[dict[str, Any]]:
    for why, count, last_at in facts.limits:
        yield {"why": why, "count": count, "last_at": last_at}


def _declined(facts: Facts) -> Iterator[dict[str, Any]]:
    for each in facts.declines:
        if each.times >= DECLINES_FROM:
            yield {"response_code": each.code, "reason": each.reason, "count": each.times, "last": each.last, "last_at": each.last_at}


_FINDERS: tuple[tuple[str, Callable[[Facts], Iterator[dict[str, Any]]]], ...] = (
    ("merchant_not_active", _merchant), ("terminal_not_active", _terminal), ("terminal_tampered", _tampered), ("terminal_without_key", _keyless),
    ("line_down", _down), ("breaker_open", _breaker), ("certificate_ends", _certificate), ("key_trouble", _key_trouble),
    ("terminal_silent", _silent), ("paper_out", _paper), ("battery_low", _battery), ("limit_reached", _limit), ("declined", _declined),
)
