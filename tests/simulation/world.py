"""One run: a seed in, a verdict out. Faults first (safety), then everything is healed and must come to rest (liveness)."""

import gc
import random
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from tests.simulation import doors, lines
from tests.simulation.books import Books
from tests.simulation.checkers import Checkers, Violated
from tests.simulation.faults import Faults
from tests.simulation.ground import Here
from tests.simulation.host import Host
from tests.simulation.loop import NODE, Node, VirtualLoop
from tests.simulation.people import Operator
from tests.simulation.server import Server
from tests.simulation.terminal import Terminal
from tests.simulation.worker import Worker

WORKERS, TERMINALS, ORDERS = 3, 5, 12
FAULTY_S, REST_S, CALM_S = 60.0, 240.0, 10.0  # the longest a run may be faulty, and then take to come to rest; hosts may be 9.5 s late
NEMESIS_S = 0.25
BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
MERCHANT, STORE = UUID(int=50), UUID(int=60)
ANY_SALE: dict[str, Any] = dict.fromkeys((
    "name", "bin_low", "bin_high", "amount_min", "amount_max", "currencies", "mccs", "entry_modes", "weekdays", "time_from", "time_until", "weight",
    "cost_basis_points", "cost_fixed", "healthy_percent", "stores", "date_from", "date_until", "retired_at")) | {"state": "active", "activated_at": BEGIN}
OUR_FAULTS = ("job_failed", "walk_failed", "journal_row_unsendable", "journal_batch_unsendable", "directory_record_refused", "card_unreadable")
TRACE_MAX = 100_000
BASIS_POINTS = 1500, 2000  # beyond what is authorised: completions by hand, tips


class Report(NamedTuple):
    seed: int
    transactions: int
    states: Counter[str]
    pairs: Counter[tuple[str, str]]
    faults: Counter[str]
    virtual_s: float

    def __add__(self, other: "Report") -> "Report":  # type: ignore[override]
        return Report(self.seed, *(mine + theirs for mine, theirs in zip(self[1:], other[1:], strict=True)))  # type: ignore[operator]


NOTHING = Report(-1, 0, Counter(), Counter(), Counter(), 0.0)


def _give(future: Any, result: Any) -> None:
    if not future.done():
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


class World:
    def __init__(self, seed: int, tracing: bool = False) -> None:
        self.seed, self.tracing = seed, tracing
        self.chance = random.Random(seed)
        self.log: deque[str] = deque(maxlen=TRACE_MAX)
        self.context = Context()
        self.loop = VirtualLoop()
        self.loop.dial = lambda factory, host, port: lines.dial(self, factory, host, port)  # type: ignore[method-assign]
        self.loop.visit = lambda factory, path: doors.visit(self, factory, path)  # type: ignore[method-assign]
        self.doors: dict[str, tuple[Node, Any]] = {}  # name of a socket -> who takes requests there
        self.pipes: dict[doors.Pipe, None] = {}
        self.begin = BEGIN + timedelta(seconds=self.chance.choice((0, self.chance.randrange(86_400), 43_180)))  # some runs pass midnight
        self.faults = Faults(self.chance)
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.checkers = Checkers(self)
        self.books = Books(self.database_now, self.checkers.changed)
        self.server = Server(self)
        self.hosts = {number: Host(self, number, f"acquirer{number}") for number in (1, 2)}
        self.workers = [Worker(self, number) for number in range(WORKERS)]
        self.terminals = [Terminal(self, number, ORDERS) for number in range(TERMINALS)]
        self.dead: list[Node] = []
        self.pending: dict[str, Node | None] = {}  # key -> who told "pending" last
        self.operator = Operator(self)
        self.resting = False
        self._directory()

    # what everything stands on

    def database_now(self) -> datetime:
        return self.begin + timedelta(seconds=self.loop.now)

    def wall(self) -> datetime:
        """The wall clock of whoever is running."""
        node = NODE.get()
        return self.begin + timedelta(seconds=self.loop.now + (node.wall if node is not None else 0.0))

    def later(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Something that belongs to no node: it happens whoever is dead."""
        self.loop.call_later(delay, callback, *args, context=self.context)

    def answer(self, future: Any, result: Any, node: Node | None) -> None:
        """Hands a result or an error to a node after the way back."""
        self.loop.call_later(0.003 * self.chance.random(), _give, future, result, context=node.context if node is not None else self.context)

    def between(self, node: Node) -> None:
        """The database has done what a node asked, and the node does not know yet: here it may die or stand still."""
        worker = next((worker for worker in self.workers if worker.node is node), None)
        if worker is not None and worker.serving and self.faults.hit("crash_at_answer"):
            self.later(0, worker.kill)
        elif not node.paused and self.faults.hit("pause_at_answer"):
            self._pause(node)

    def epoch_of(self, node: Node) -> int | None:
        found = next((worker for worker in self.workers if worker.node is node), None)
        lease = getattr(found.starting, "lease", None) if found is not None else None
        return lease.epoch if lease is not None else None

    def trace(self, *parts: Any) -> None:
        if self.tracing:
            self.log.append(f"{self.loop.now:9.3f}  " + " ".join(str(part) for part in parts))

    def logged(self, level: str, event: str, fields: dict[str, Any]) -> None:
        node = NODE.get()
        if event in OUR_FAULTS:
            raise_later = Violated(f"a fault of our own: {event} {fields}")
            self.loop.faults.append(raise_later)
            self.loop.stop = True
        if self.tracing:
            self.trace(node.name if node else "-", "logs", event, {name: str(value)[:80] for name, value in fields.items() if value is not None})

    def _directory(self) -> None:
        zone, put = "Asia/Shanghai", self.books.table
        put("directory_merchant")[1] = {"merchant_id": MERCHANT, "organisation_id": UUID(int=40), "name": "Shop", "status": "active",
                                        "mcc": "5411", "time_zone": zone, "duplicate_policy": "warn", "unreferenced_refunds": False,
                                        "sells_until": None}
        put("directory_store")[1] = {"store_id": STORE, "merchant_id": MERCHANT, "name": "Shop", "city": "Shanghai", "country": "CN",
                                     "time_zone": zone}
        for host in self.hosts.values():
            put("directory_acquirer")[host.number] = {
                "acquirer_id": UUID(int=host.number), "name": host.name, "dialect": "iso87_ascii", "message_mode": ("single", "dual")[host.number - 1],
                "status": "active", "institution_code": None, "time_zone": zone, "answer_timeout_ms": 3000, "reversal_grace_ms": 5000,
                "max_in_flight": 2048, "reversal_codes": "{}",
                "terms": [("*", "*", *BASIS_POINTS)], "stand_in": [], "min_in_flight": 4, "max_links": self.chance.choice((0, 0, 1, 2)), "sign_on_at": None,
                "reversal_max_age_s": (600, 25)[host.number - 1], "reversals_per_second": 1000, "reversals_at_once": self.chance.choice((1, 4, 200)),
                "options": "{}", "secret_at": None, "reroute_codes": None,
                "reversal_first": host.number == 2 and self.chance.random() < 0.3, "lines": [(UUID(int=host.number), host.name, host.number, 0, 1, None, None, None, None)], "breaker": None,
                "business_date": date(2026, 11, 25)}
        for terminal in self.terminals:
            put("directory_terminal")[terminal.number] = {
                "terminal_id": terminal.terminal_id, "merchant_id": MERCHANT, "store_id": STORE, "name": "Till", "status": "active",
                "acquirers": [UUID(int=number) for number in self.hosts], "terminals": [f"T{terminal.number:07d}"] * 2,
                "acceptors": ["M00000000000001"] * 2}
            first = self.chance.choice((1, 2))
            put("directory_route")[terminal.number] = {**ANY_SALE, "route_id": UUID(int=200 + terminal.number), "acquirer_id": UUID(int=first),
                                                       "merchant_id": None, "brand": None, "priority": 10}
        for number in self.hosts:
            put("directory_route")[100 + number] = {**ANY_SALE, "route_id": UUID(int=300 + number), "acquirer_id": UUID(int=number), "merchant_id": None,
                                                    "brand": None, "priority": 100}
        put("directory_bin_range")[1] = {"low": "411111", "high": "411111", "brand": "visa", "card_type": "credit", "pan_lengths": [16]}

    # what goes wrong by itself

    def _nemesis(self) -> None:
        if self.faults.healed:
            return
        faults, chance = self.faults, self.chance
        for worker in self.workers:
            if faults.hit("crash", NEMESIS_S):
                worker.kill()
            elif faults.hit("restart", NEMESIS_S):
                worker.drain()
            elif worker.node is not None:
                self._bother(worker.node)
        if not self.server.down and faults.hit("database_outage", NEMESIS_S):
            self.trace("database down")
            self.server.down = True
            self.server.cut()
            self.later(chance.choice((0.3, 2.0, 8.0)) * chance.random(), self._database_back)
        for host in self.hosts.values():
            if not host.down and faults.hit("host_down", NEMESIS_S):
                self.trace(host.name, "down")
                host.stop()
                self.later(chance.uniform(0.5, 8), setattr, host, "down", False)
            if faults.hit("host_stray"):
                host.stray()
        self.later(NEMESIS_S, self._nemesis)

    def _bother(self, node: Node) -> None:
        faults, chance = self.faults, self.chance
        if not node.paused and faults.hit("pause", NEMESIS_S):
            self._pause(node)
        if faults.hit("clock_jump", NEMESIS_S):
            node.wall = chance.choice((0.0, -1.0, 1.0, -30.0, 30.0, -3600.0, 3600.0, -86_400.0, 86_400.0))
            self.trace(node.name, "clock is off by", node.wall)
        if faults.hit("database_cut_off", NEMESIS_S) and node.name not in self.server.cut_off:
            self.cut_off(node, chance.choice((0.5, 5.0, 12.0)) * chance.random())

    def cut_off(self, node: Node, seconds: float) -> None:
        self.trace(node.name, "cannot reach the database")
        self.server.cut_off.add(node.name)
        self.server.cut(node)
        self.later(seconds, self.server.cut_off.discard, node.name)

    def _pause(self, node: Node) -> None:
        self.trace(node.name, "pauses")
        node.paused = True
        self.later(self.chance.choice((0.5, 4.0, 20.0)) * self.chance.random(), self._resume, node)

    def _database_back(self) -> None:
        self.trace("database back")
        self.server.down = False

    def _resume(self, node: Node) -> None:
        if node.alive and node.paused:
            self.trace(node.name, "goes on")
            self.loop.resume(node)

    def _heal(self) -> None:
        self.trace("healed")
        self.faults.heal()
        self.server.down = False
        self.server.cut_off.clear()
        for host in self.hosts.values():
            host.down = False
            for line in list(host.lines):
                if line.half_open:
                    line.cut()
        for worker in self.workers:
            if worker.node is not None:
                self._resume(worker.node)
                worker.node.wall = 0.0

    def _look(self) -> None:
        """Whether everything has come to rest: asked now and then, since it is not cheap."""
        self.resting = all(terminal.done for terminal in self.terminals) and not any(self.books.live.values()) and self.operator.done()
        self.loop.stop = self.resting
        self.later(0.5, self._look)

    def _sold_out(self) -> None:
        if not self.faults.healed:
            self.loop.stop = all(terminal.done for terminal in self.terminals)
            self.later(0.5, self._sold_out)

    # the run

    def run(self) -> Report:
        """Raises Violated."""
        Here.world = self
        for worker in self.workers:
            self.context.run(worker.start)
        tasks = [self.context.run(self.loop.create_task, terminal.work(), context=self.context) for terminal in self.terminals]
        self.later(NEMESIS_S, self._nemesis)
        self.later(0.5, self._sold_out)
        tasks.append(self.context.run(self.loop.create_task, self.operator.work(), context=self.context))
        try:
            self._until(FAULTY_S)
            self.context.run(self._heal)
            self.later(CALM_S, self._look)
            self._until(self.loop.now + REST_S)
            self._second_recovery()
            self.checkers.finish()
        finally:
            self._bury(tasks)
            gc.collect()  # nothing else does (ground)
        rows = self.books.table("transaction").values()
        return Report(self.seed, len(rows), Counter(row["state"] for row in rows), self.pairs, self.faults.seen, self.loop.now)

    def _until(self, limit: float) -> None:
        self.loop.run_until(limit)
        if self.loop.faults:
            raise self.loop.faults[0]

    def _second_recovery(self) -> None:
        """I-29: recovery of a world at rest changes nothing."""
        before = {key: row["version"] for key, row in self.books.table("transaction").items()}
        found: list[int] = []
        for worker in self.workers:
            if worker.switch is not None and worker.node is not None:
                async def sweep(recovery: Any = worker.switch.recovery) -> None:
                    found.append(await recovery.sweep())
                    self.loop.stop = len(found) == WORKERS

                worker.node.context.run(self.loop.create_task, sweep(), context=worker.node.context)
        if self.resting:
            self._until(self.loop.now + 5)
            if any(found) or before != {key: row["version"] for key, row in self.books.table("transaction").items()}:
                raise Violated(f"I-29: a second recovery changed {sum(found)} rows")

    def _bury(self, tasks: list[Any]) -> None:
        """Ends every coroutine now, so that none is closed later by the collector, in another run."""
        for worker in self.workers:
            if worker.node is not None:
                self.loop.kill(worker.node)
                self.dead.append(worker.node)
        for task in [*tasks, *(task for node in self.dead for task in node.tasks)]:
            task._log_destroy_pending = False
            if not task.done():
                try:
                    task.get_coro().close()
                except BaseException:  # its finally block wanted to wait
                    continue

