"""What the switch stands on, exchanged for a simulated one while runs last: clocks, chance, database, logs, and periods made fit for it."""

import datetime as real_datetime
import gc
import importlib
import os
import random
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from switch import alerts, alike, app, clock, database, logs
from switch.links import holder
from switch.merchants.support import overdue
from switch.notices import post
from switch.payments import counting, hits, transaction
from switch.security.vault import Keyring, Vault
from switch.settlement.jobs import foreman
from switch.terminals import silence
from tests.simulation import doors
from tests.simulation.loop import NODE
from tests.simulation.server import Pool

if TYPE_CHECKING:
    from tests.simulation.world import World

KEYRING = Keyring("k1", "t1", {"k1": bytes(31) + b"k", "t1": bytes(31) + b"t"})
VAULT = Vault(KEYRING)
# Polling costs the simulation its speed and finds nothing; small number spaces wrap within a run.
PERIODS: dict[tuple[str, str], Any] = {
    ("switch.links.connection", "TICK"): 0.5, ("switch.payments.journal", "TICK_S"): 1.0, ("switch.payments.reservations", "TICK_S"): 1.0,
    ("switch.payments.reversals", "POLL_S"): 0.8, ("switch.payments.reversals", "BUSY_POLL_S"): 0.1, ("switch.payments.recovery", "SWEEP_S"): 1.5,
    ("switch.payments.duties", "PAUSE_MAX_S"): 4.0, ("switch.payments.duties", "NOT_FOUND_SETTLE_S"): 10.0,
    ("switch.payments.undelivered", "LOOK_S"): 20.0, ("switch.payments.watch", "LOOK_S"): 20.0, ("switch.notices.subscribed", "LOOK_S"): 20.0,
    ("switch.settlement.batches.forwarding", "LOOK_S"): 20.0, ("switch.security.keystore", "POLL_S"): 20.0,
    ("switch.app", "CONFIRM_S"): 5.0,
    ("switch.directory", "POLL_S"): 1.5, ("switch.links.slots", "LOOK_S"): 1.5, ("switch.links.holder", "LOOK_S"): 0.8,
    ("switch.links.roster", "LOOK_S"): 2.5, ("switch.links.roster", "WRITE_S"): 20.0, ("switch.links.roster", "KNOWN_S"): 8.0,
    ("switch.links.numbering", "STAN_BLOCK"): 20, ("switch.links.numbering", "STANS_READY"): 30, ("switch.links.numbering", "STAN_MAX"): 300,
    ("switch.links.numbering", "RRN_BLOCK"): 200, ("switch.links.numbering", "RRNS_READY"): 100, ("switch.lines", "FIRST_BLOCKS"): 1,
}


class Here:
    """The run that is on."""

    world: "World"


class Datetime(real_datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return Here.world.wall().astimezone(tz)


class Clock(ModuleType):
    """`time`, virtual where the switch asks it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return float(Here.world.wall().timestamp())

    def time_ns(self) -> int:
        return int(self.time() * 1000) * 1_000_000

    def monotonic(self) -> float:
        return Here.world.loop.now

    perf_counter = monotonic


class System(ModuleType):
    """`os` with drawn random bytes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def urandom(self, count: int) -> bytes:
        return Here.world.chance.randbytes(count)

    def open(self, *_: Any) -> int:
        """The folder of the workers' sockets, which are not files here."""
        return -1

    def close(self, folder: int) -> None:
        assert folder == -1


class Chance(ModuleType):
    """`random` of the run's seed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(Here.world.chance, name)


class Log:
    """What the switch logs goes into the trace; a fault of our own is a finding."""

    lost_lines = 0

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        Here.world.logged(level, event, fields)


def counted(state: str, event: Any, *rest: Any, **named: Any) -> Any:
    """The life's step; who asks what of it is counted."""
    Here.world.pairs[state, event.value] += 1
    return STEP(state, event, *rest, **named)


class OwnClock:
    """The clock that each process has of its own."""

    def __getattr__(self, name: str) -> Any:
        node = NODE.get()
        return getattr(node.own.setdefault("clock", clock.Clock()) if node is not None else clock.clock, name)


STEP = transaction.step
INSTEAD = {id(real_datetime.datetime): Datetime, id(time): Clock("time"), id(os): System("os"), id(random): Chance("random"), id(STEP): counted,
           id(clock.clock): OwnClock()}


async def _nothing(*_: Any) -> None:
    pass


async def _connect(url: str, role: str, **settings: str) -> Any:
    return await Here.world.server.connect()


async def _pool(url: str, role: str, size: int, **settings: str) -> Any:
    pool = Pool(Here.world.server, size)
    async with pool.acquire():  # asyncpg connects once at the start
        pass
    return pool


@contextmanager
def exchanged() -> Iterator[None]:
    """The switch of this process stands on the simulated ground until the end of the block."""
    places: list[tuple[Any, str, Any]] = []

    def exchange(module: Any, name: str, value: Any) -> None:
        places.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for module in [module for name, module in sorted(sys.modules.items()) if name.startswith("switch.")]:
        for name, value in list(vars(module).items()):
            if id(value) in INSTEAD and not (module is transaction and name == "step") and not (module is clock and name == "clock"):
                exchange(module, name, INSTEAD[id(value)])
    for (module_name, name), value in PERIODS.items():
        exchange(importlib.import_module(module_name), name, value)
    exchange(logs, "log", Log())
    exchange(app.Switch, "_gauge", _nothing)
    exchange(app, "pulse", _nothing)
    exchange(foreman.Foreman, "work", _nothing)  # background jobs are not part of it
    exchange(silence.Silence, "work", _nothing)  # no devices
    exchange(overdue.Overdue, "work", _nothing)  # no tickets
    exchange(alerts.Alerts, "seen", _nothing)  # a mark for people, who are not part of it
    exchange(hits.Hits, "work", _nothing)  # no rules that sales could hit
    exchange(counting.Counting, "work", _nothing)
    exchange(post, "ssl", SimpleNamespace(create_default_context=lambda: None, SSLError=ssl.SSLError))  # the roots that the machine trusts: read at each start
    exchange(holder.Holder, "open", doors.open_door)
    exchange(database, "migrate", _nothing)
    exchange(database, "connect", _connect)
    exchange(database, "pool", _pool)
    exchange(alike, "gc", SimpleNamespace(collect=int, freeze=int, isenabled=bool, disable=int, enable=int))
    exchange(alike, "_give_back", int)
    exchange(app, "gc", SimpleNamespace(collect=int, freeze=int, set_threshold=lambda *_: None))
    exchange(app, "Keyring", SimpleNamespace(create=lambda path: KEYRING))
    exchange(app, "Vault", lambda keyring: VAULT)
    gc.collect()
    gc.freeze()
    gc.disable()  # a run makes rings of objects and nothing else: World.run collects them once, at its end
    try:
        yield
    finally:
        gc.enable()
        for place in reversed(places):
            setattr(*place)


