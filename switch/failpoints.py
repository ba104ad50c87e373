"""Failpoints: named places at which a test kills, stops, delays or fails this process. Without the setting each is an empty call.

SWITCH_FAILPOINT holds, comma between several: `name:occurrence:action` with action kill, stop, raise or sleep=SECONDS, or `record:FILE`, which
appends each name as it is passed. It is obeyed only beside SWITCH_TESTING=1; settings.load refuses it otherwise.
"""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

NAMES = (
    "claim.before", "t1.before_commit", "t1.after_commit", "send.before", "send.half", "send.after", "resp.read", "t2.before_commit",
    "t2.after_commit", "reply.before", "reply.after", "rev.queued", "rev.sent", "rev.acked_uncommitted", "recover.row_taken", "lease.renewed",
    "drain.mid", "webhook.sent",
)
# Of a cut-over: before each commit of a step, and after those that are many.
SETTLEMENT = tuple(f"cutover.{place}" for place in (
    "open", "confirm", "wait", "take", "price", "priced", "price_end", "post", "posted", "post_end", "state", "stated", "release", "state_end"))
# Of disputes and terminal batches: before the commit.
CASES = ("keyed.work", "dispute.file", "batch.sent", "batch.uploaded")
# Of payouts: before a request commits; before a file commits; when the file is written and nobody knows yet that it was sent.
PAYOUTS = ("payout.requested", "payout.file", "payout.written")
ALL = (*NAMES, *SETTLEMENT, *CASES, *PAYOUTS)
HELD_S = 0.05
ORDER = re.compile(r"(?P<name>[a-z0-9_.]+):(?P<occurrence>[1-9][0-9]{0,5}):(?P<action>kill|stop|raise|sleep=(?P<seconds>[0-9]{1,3}(\.[0-9]{1,3})?))")


class InjectedFault(Exception):
    """What the action `raise` raises: nothing in the switch expects it."""


class Order(NamedTuple):
    name: str
    occurrence: int  # the how-manieth passing in this process, from 1
    action: str
    seconds: float


class Plan(NamedTuple):
    """What SWITCH_FAILPOINT asks for. `fault`: why it is no plan, else empty."""

    orders: tuple[Order, ...] = ()
    record: str = ""
    fault: str = ""


def plan(environment: Mapping[str, str]) -> Plan:
    text = environment.get("SWITCH_FAILPOINT", "")
    if not text:
        return Plan()
    if environment.get("SWITCH_TESTING") != "1":
        return Plan(fault="SWITCH_FAILPOINT is for tests alone: it makes this process die or stand still, and needs SWITCH_TESTING=1 beside it")
    orders, record = [], ""
    for part in text.split(","):
        found = ORDER.fullmatch(part)
        if part.startswith("record:") and len(part) > len("record:"):
            record = part.removeprefix("record:")
        elif found is not None and found["name"] in ALL:
            orders.append(Order(found["name"], int(found["occurrence"]), found["action"].partition("=")[0], float(found["seconds"] or 0)))
        else:
            names = ", ".join(ALL)
            return Plan(fault=f"SWITCH_FAILPOINT must be name:occurrence:action or record:FILE; names are: {names}")
    return Plan(tuple(orders), record)


def _nothing(_name: str) -> None:
    """Every failpoint of a process that is not under test."""


def armed(wanted: Plan) -> Callable[[str], None]:
    """The function that counts passings and does what was asked for."""
    passed: Counter[str] = Counter()
    record = os.open(wanted.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if wanted.record else None

    def pass_by(name: str) -> None:
        assert name in ALL, name
        passed[name] += 1
        if record is not None:
            os.write(record, f"{name}\n".encode())
        for order in wanted.orders:
            if order.name == name and order.occurrence == passed[name]:
                act(order)

    return pass_by


def act(order: Order) -> None:
    if order.action == "sleep":
        time.sleep(order.seconds)  # the whole process stands still, as it would in a long pause of the machine
    elif order.action == "raise":
        raise InjectedFault(order.name)
    else:
        os.kill(os.getpid(), signal.SIGKILL if order.action == "kill" else signal.SIGSTOP)


PLAN = plan(os.environ)
ARMED = bool(PLAN.orders or PLAN.record)
failpoint: Callable[[str], None] = armed(PLAN) if ARMED else _nothing


def _after_this_turn(name: str) -> None:
    """uvloop hands written bytes to the kernel at the end of a turn of the loop: the place is passed in the next one."""
    asyncio.get_running_loop().call_soon(failpoint, name)


failpoint_written: Callable[[str], None] = _after_this_turn if ARMED else _nothing


def _whole(_name: str, write: Callable[[bytes], object], frames: Sequence[bytes]) -> None:
    """Every write of a process that is not under test."""
    write(b"".join(frames))


def _in_half(name: str, write: Callable[[bytes], object], frames: Sequence[bytes]) -> None:
    """Where an order waits for this passing, the last frame leaves in two parts, and the place is passed when the first has left."""
    global written
    written += 1
    data, second = b"".join(frames), len(frames[-1]) // 2
    if not any((order.name, order.occurrence) == (name, written) for order in PLAN.orders):
        failpoint(name)
        write(data)
        return
    write(data[:-second])

    def rest() -> None:
        failpoint(name)
        write(data[-second:])

    asyncio.get_running_loop().call_soon(rest)


written = 0  # frames that were written through here
failpoint_half: Callable[[str, Callable[[bytes], object], Sequence[bytes]], None] = _in_half if ARMED else _whole


async def _nothing_held(_name: str) -> None:
    """Before every commit of a process that is not under test."""


async def _held(name: str) -> None:
    """Before a commit: whatever does not wait for it goes on for a while, and only then the place is passed."""
    if any(order.name == name for order in PLAN.orders):
        await asyncio.sleep(HELD_S)
    failpoint(name)


failpoint_held: Callable[[str], Awaitable[None]] = _held if ARMED else _nothing_held
