"""The nemesis: kills, stand-stills, bad lines, a bad host and a bad disk under load, then peace, and three books that must agree.

`python -m tests.faults.nemesis [--kills 48] [--seconds 380] [--tills 12] [--seed N]`; the last line is one JSON object (docs/faults.md).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests import processes
from tests.faults import books, leaks
from tests.faults.line import Line, Weather
from tests.faults.stage import (
    ACQUIRERS,
    Kept,
    Keys,
    Server,
    Stub,
    Timers,
    free_port,
    furnish,
    new_database,
    postgres,
    signalled,
    sql,
    until,
)
from tests.faults.tills import Till, together

TIMERS = Timers(answer_ms=3000, grace_ms=1000)
HOST_DELAY_S = 0.08  # so that something is always on its way
ENDINGS = (0, 0, 0, 0, 0, 0, 0, 5, 10, 96)  # approved; declined; half of it, which the till refuses; in doubt
LEASE_S = 10.0
CLOSED_S, REST_S, SWEPT_S = 150.0, 150.0, 2.5
SAY_EVERY_S = 10.0
FORWARD = "UPDATE duty SET next_attempt_at = now() WHERE state = 'open' AND last_code IS DISTINCT FROM '25' AND next_attempt_at > now() + interval '10 seconds'"
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'switch_writer'"
CAUSES = "SELECT cause, count(*) FROM duty WHERE kind = 'reversal' GROUP BY cause ORDER BY cause"

Say = Callable[[str], object]


class Rig:
    """Everything that runs. `keep` starts again what dies."""

    def __init__(self, folder: Path, tills: int, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.kept: list[Kept] = []
        self.lines: dict[str, Line] = {}
        self.tills: list[Till] = []
        self.stubs: dict[str, Stub] = {}
        self.over, self.selling = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []
        self.sellers: list[threading.Thread] = []
        self.faults: list[str] = []
        self.straces: list[subprocess.Popen[bytes]] = []
        self.keeper, cluster_url = postgres(folder)
        self.home = folder / "cluster"
        try:
            self.url = new_database(cluster_url)
            self._open(tills, seed)
        except BaseException:
            self.end()
            raise

    def _open(self, tills: int, seed: int) -> None:
        for number, name in enumerate(ACQUIRERS):
            self.stubs[name] = Stub(self.folder, name, free_port(), HOST_DELAY_S)
            self.lines[name] = Line(free_port(), self.stubs[name].port, seed + number)
        self.kept += self.stubs.values()
        keys: Keys = furnish(self.url, TIMERS, {name: line.port for name, line in self.lines.items()}, (tills + 1) // 2)
        self.operator = keys.operator
        self.servers = [Server(self.folder, f"switch-{number}", self.url, workers=number + 1, SWITCH_COMMIT_BUDGET="1.5") for number in range(2)]
        self.kept += self.servers
        for server in self.servers:
            server.wait_ready()
        bases = [server.base for server in self.servers]
        for number in range(tills):
            mode = ACQUIRERS[number % 2]
            self.tills.append(Till(bases, keys.terminals[mode][number // 2], self.folder / f"till-{number}.journal", leaks.card(number),
                                   random.Random(seed * 1000 + number), power=0.01, doubled=0.05, dual=mode == "dual"))
        self.thread(self._keep)

    def thread(self, job: Callable[[], object]) -> threading.Thread:
        """What goes wrong in it is a difference."""
        def run() -> None:
            try:
                job()
            except Exception as error:
                self.faults.append(f"the run itself: {error!r}")

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        return self.threads[-1]

    def later(self, seconds: float, job: Callable[[], object]) -> None:
        """At the latest at the end."""
        self.thread(lambda: (self.over.wait(seconds), job()))

    def _keep(self) -> None:
        while not self.over.wait(0.1):
            for each in self.kept:
                each.revive()

    def sell(self) -> None:
        """All tills, until `selling` is cleared."""
        self.selling.set()
        self.sellers = [self.thread(partial(self._till, till)) for till in self.tills]

    def _till(self, till: Till) -> None:
        number = 0
        while self.selling.is_set():
            number += 1
            amount = 10_000 + till.draw.randrange(5000) * 100 + till.draw.choice(ENDINGS)
            follow_ups(till, amount, f"{number % 1_000_000:06d}")
            time.sleep(till.draw.random() * 0.1)

    def in_flight(self, port: int | None = None, acquirer: str | None = None) -> int:
        """Payments that wait for an answer just now: of one switch, of one acquirer, or all."""
        return sum(till.in_flight > 0 for number, till in enumerate(self.tills)
                   if port in (None, till.url.port) and acquirer in (None, ACQUIRERS[number % 2]))

    def postmaster(self) -> int:
        """Its pid, once there is one again."""
        until(lambda: processes.alive(processes.postmaster(self.home)), 30, 0.02)
        return processes.postmaster(self.home)

    def receipts(self) -> int:
        return sum(len(till.journal.entries) for till in self.tills)

    def heal(self) -> None:
        """Peace: nothing is stopped, refused, delayed or ordered any more."""
        for strace in self.straces:
            let_go(strace)
        for pid in processes.family(self.postmaster()):
            signalled(pid, signal.SIGCONT)
        for line in self.lines.values():
            line.heal()
        for each in self.kept:
            for pid in processes.family(each.process.pid):
                signalled(pid, signal.SIGCONT)
        for stub in self.stubs.values():
            until(lambda stub=stub: bool(stub.call("DELETE", "/faults")), 20)
        for server in self.servers:
            server.wait_ready()

    def end(self) -> None:
        self.selling.clear()
        self.over.set()
        for strace in self.straces:
            let_go(strace)
        for each in self.kept:
            for pid in processes.family(each.process.pid):
                signalled(pid, signal.SIGCONT)
        for thread in self.threads:
            thread.join(120)
        for each in (*self.kept, *self.lines.values(), *self.tills):
            each.end()
        with suppress(OSError, ValueError, IndexError):
            for pid in processes.family(processes.postmaster(self.home)):
                signalled(pid, signal.SIGCONT)
        self.keeper.stop(seconds=60)


def follow_ups(till: Till, amount: int, trace: str) -> None:
    """A sale, and sometimes what follows one: any verb, whether or not it is possible there."""
    chance, dual = till.draw.random(), till.dual
    if chance < 0.1 and dual:
        held = till.sell(amount, terminal_trace=trace, type="preauthorization")
        till.follow_up(held, "increments", amount=500)
        till.follow_up(held, "captures", amount=amount // 4)
        till.follow_up(held, till.draw.choice(("captures", "voids", "refunds")))
        return
    sold = till.sell(amount, terminal_trace=trace)
    if chance < 0.25:
        till.follow_up(sold, "voids") if chance < 0.15 else till.follow_up(sold, "refunds", amount=amount // 3)


def let_go(strace: "subprocess.Popen[bytes]") -> None:
    if strace.poll() is None:
        strace.terminate()
        try:
            strace.wait(5)
        except subprocess.TimeoutExpired:
            strace.kill()
            strace.wait()


class Fault(NamedTuple):
    """`make` does it and returns how many payments were on their way at what it hits."""

    kind: str
    make: Callable[[Rig], int]


def kill_server(number: int, rig: Rig) -> int:
    server = rig.servers[number]
    hit = rig.in_flight(port=server.port)
    server.kill()
    return hit


def kill_worker(rig: Rig) -> int:
    """One child of the switch that has several; its parent starts another."""
    server = rig.servers[1]
    hit = rig.in_flight(port=server.port)
    if found := server.workers():
        signalled(rig.draw.choice(found), signal.SIGKILL)
    return hit


def kill_stub(name: str, rig: Rig) -> int:
    hit = rig.in_flight(acquirer=name)
    rig.stubs[name].kill()
    return hit


def kill_postgres(rig: Rig) -> int:
    dead, hit = rig.postmaster(), rig.in_flight()
    signalled(dead, signal.SIGKILL)
    until(lambda: processes.postmaster(rig.home) != dead, 30, 0.05)
    return hit


def a_switch(rig: Rig) -> tuple[list[int], int]:
    server = rig.draw.choice(rig.servers)
    return [rig.draw.choice(server.workers() or [server.process.pid])], rig.in_flight(port=server.port)


def a_stub(rig: Rig) -> tuple[list[int], int]:
    name = rig.draw.choice(ACQUIRERS)
    return [rig.stubs[name].process.pid], rig.in_flight(acquirer=name)


def the_database(rig: Rig) -> tuple[list[int], int]:
    return processes.family(rig.postmaster()), rig.in_flight()


def stand_still(target: Callable[[Rig], tuple[list[int], int]], shortest: float, longest: float, rig: Rig) -> int:
    """SIGSTOP, and SIGCONT later."""
    found, on_their_way = target(rig)
    stopped = [pid for pid in found if signalled(pid, signal.SIGSTOP)]

    rig.later(rig.draw.uniform(shortest, longest), lambda: [signalled(pid, signal.SIGCONT) for pid in stopped])
    return on_their_way


def of_line(verb: Callable[[Rig, Line], None], rig: Rig) -> int:
    name = rig.draw.choice(ACQUIRERS)
    hit = rig.in_flight(acquirer=name)
    verb(rig, rig.lines[name])
    return hit


def weather(rig: Rig, line: Line) -> None:
    line.weather = Weather(rig.draw.uniform(0, 0.3), rig.draw.uniform(0, 0.3), rig.draw.choice((0.0, 0.02, 0.2)))


def of_host(rig: Rig) -> int:
    name = rig.draw.choice(ACQUIRERS)
    action, value = rig.draw.choice((("silence", None), ("late", 3.5), ("wrong", "4"), ("wrong", "-39"), ("code", "96"), ("garbage", None), ("cut", None),
                                     ("duplicate", None), ("half_open", None), ("delay", 1.0)))
    with suppress(OSError):
        rig.stubs[name].order(action, value, count=rig.draw.randrange(1, 6))
    if action == "half_open":
        rig.later(4, lambda: until(lambda: bool(rig.stubs[name].call("DELETE", "/faults")), 5))
    return rig.in_flight(acquirer=name)


def of_disk(injection: str, rig: Rig) -> int:
    """strace between PostgreSQL's backends and their disk."""
    with suppress(OSError, Exception):
        pids = [str(row["pid"]) for row in sql(rig.url, BACKENDS)]
        if pids:
            command = ["strace", "-qq", "-o", os.devnull, "-e", "trace=fdatasync", "-e", f"inject=fdatasync:{injection}",
                       *(part for pid in pids for part in ("-p", pid))]
            strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            rig.straces.append(strace)
            rig.later(3, lambda: let_go(strace))
    return rig.in_flight()


def kills() -> list[Fault]:
    return [*(Fault(f"kill.switch-{number}", partial(kill_server, number)) for number in range(2)), Fault("kill.worker", kill_worker),
            *(Fault(f"kill.stub-{name}", partial(kill_stub, name)) for name in ACQUIRERS), Fault("kill.postgres", kill_postgres)]


def others(say: Say) -> list[Fault]:
    found = [
        Fault("stop.switch", partial(stand_still, a_switch, 0.3, 4.0)),
        Fault("stop.switch_longer_than_its_lease", partial(stand_still, a_switch, LEASE_S + 1, LEASE_S + 3)),
        Fault("stop.stub", partial(stand_still, a_stub, 0.5, 5.0)),
        Fault("stop.postgres", partial(stand_still, the_database, 0.5, 4.0)),
        Fault("line.cut", partial(of_line, lambda rig, line: line.cut())),
        Fault("line.half_open", partial(of_line, lambda rig, line: line.half_open(rig.draw.uniform(2, 8)))),
        Fault("line.refused", partial(of_line, lambda rig, line: line.refuse(rig.draw.uniform(0.5, 3)))),
        Fault("line.weather", partial(of_line, weather)),
        Fault("host", of_host), Fault("host", of_host),
    ]
    if shutil.which("strace"):
        found += [Fault("disk.slow", partial(of_disk, "delay_enter=250000")), Fault("disk.error", partial(of_disk, "error=EIO:when=1"))]
    else:
        say("skipped: slow and failing disk calls, since strace is not installed")
    return found


def haunt(rig: Rig, count: int, seconds: float, say: Say) -> dict[str, list[int]]:
    """`count` kills, evenly over the targets, and between them the other faults. Kind -> payments on their way at each."""
    made: defaultdict[str, list[int]] = defaultdict(list)
    targets, rest = kills(), others(say)
    plan = [targets[number % len(targets)] for number in range(count)]
    rig.draw.shuffle(plan)
    bag: list[Fault] = []
    begun, said = time.monotonic(), 0.0
    for number, fault in enumerate(plan):
        for each, at in ((None, number), (fault, number + 0.5)):
            if each is None:
                bag = bag or rig.draw.sample(rest, len(rest))
                each = bag.pop()
            time.sleep(max(0.0, begun + seconds * at / count + rig.draw.random() * 0.3 * seconds / count - time.monotonic()))
            until(lambda: rig.in_flight() >= len(rig.tills) // 4, 2, 0.002)
            made[each.kind].append(each.make(rig))
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            say(f"{said - begun:5.0f} s: {number + 1} of {count} kills, {sum(map(len, made.values()))} faults, {rig.receipts()} payments")
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    return made


def settle(rig: Rig, say: Say) -> list[str]:
    """Peace, until every till has closed what it had open and no duty moves; then a start that finds nothing to do."""
    rig.heal()
    rig.selling.clear()
    for seller in rig.sellers:
        seller.join(CLOSED_S)
    closed: dict[Path, bool] = {}
    together([lambda till=till: closed.update({till.path: until(till.closed, CLOSED_S)}) for till in rig.tills])
    found = [f"{till.path.name} cannot close {till.unfinished}" for till in rig.tills if not closed[till.path]]
    say("the tills have closed")
    sql(rig.url, FORWARD)
    if not until(lambda: books.at_rest(rig.url), REST_S):
        found.append(f"not at rest after {REST_S:g} s: {[tuple(row) for row in sql(rig.url, MOVING_ROWS)]}")
    say("nothing moves any more")
    before = books.snapshot(rig.url)
    for server in rig.servers:
        server.kill()
    for server in rig.servers:
        server.wait_ready()
    time.sleep(SWEPT_S)
    return found + books.moved(before, books.snapshot(rig.url))


MOVING_ROWS = """SELECT t.state, t.type, d.kind, d.state, d.last_code, d.transmissions, count(*) FROM transaction t LEFT JOIN duty d USING (transaction_id)
WHERE t.state = 'SENT' OR d.state = 'open' AND d.last_code IS DISTINCT FROM '25' GROUP BY 1, 2, 3, 4, 5, 6 LIMIT 20"""


def judged(rig: Rig, made: dict[str, list[int]], found: list[str], seed: int, seconds: float) -> dict[str, Any]:
    """The last line."""
    answers = leaks.answers(rig.servers[0].base, rig.tills[0].key, rig.operator)
    compared = books.compare(rig.url, {name: stub.book for name, stub in rig.stubs.items()}, rig.tills)
    leaked = leaks.scan(rig.folder, rig.url, answers)
    codes = [server.stop() for server in rig.servers]
    different = found + rig.faults + compared.differences + [f"a drain ended with {code}" for code in codes if code]
    different += [f"a traceback in {each.name}: ...{each.said[each.said.index('Traceback'):][:2500]}" for each in rig.kept if "Traceback" in each.said]
    causes = {row["cause"]: row["count"] for row in sql(rig.url, CAUSES)}
    weather_made: Counter[str] = sum((line.made for line in rig.lines.values()), Counter())
    return {
        "seed": seed, "seconds": round(seconds), "kills": sum(len(hits) for kind, hits in made.items() if kind.startswith("kill.")),
        "faults": {kind: {"made": len(hits), "hit": sum(hit > 0 for hit in hits)} for kind, hits in sorted(made.items())},
        "frames": dict(weather_made), "power_cuts": sum(till.cuts for till in rig.tills), "doubled_posts": sum(till.doubles for till in rig.tills),
        "transactions": sum(compared.counts[state] for state in ("SENT", "APPROVED", "DECLINED", "NOT_SENT", "REVERSING", "REVERSED", "PARKED", "CONFIRMED")),
        "sold": compared.counts["sold"], "not_sold": compared.counts["not sold"], "in_doubt": sum(causes.values()), "by_cause": causes,
        "reversed": compared.counts["REVERSED"], "not_found_once": compared.counts["REVERSING"], "parked": len(compared.parked),
        "parked_list": compared.parked[:50], "original_after_its_reversal": compared.counts["original after its reversal"],
        "leaks": leaked[:20], "different": different[:50], "differences": len(different) + len(leaked),
    }


def run(folder: Path, count: int, seconds: float, tills: int, seed: int, say: Say) -> dict[str, Any]:
    """The whole run; cleans up after itself whatever happens."""
    begun = time.monotonic()
    rig = Rig(folder, tills, seed)
    try:
        say(f"seed {seed}: two switches, one of them with two workers, two stubs, PostgreSQL {processes.postmaster(rig.home)}, {tills} tills in {folder}")
        rig.sell()
        made = haunt(rig, count, seconds, say)
        found = settle(rig, say)
        return judged(rig, made, found, seed, time.monotonic() - begun)
    finally:
        rig.end()


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults.nemesis", description=__doc__)
    parser.add_argument("--kills", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=380.0, help="of faults; peace and comparing come on top")
    parser.add_argument("--tills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # and so everything is ended
    folder = Path(tempfile.mkdtemp(prefix="nemesis-"))
    told = run(folder, options.kills, options.seconds, options.tills, options.seed, lambda line: print(line, flush=True))
    if told["differences"]:
        print(f"what it left stands in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(told))
    return 1 if told["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
