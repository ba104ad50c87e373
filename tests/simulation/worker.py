"""One worker after the other at the same place: the real app.Switch, started, asked, killed and started again."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import asyncpg

from switch import settings
from switch.api import terminal as door
from switch.app import Switch
from switch.callers import TerminalCaller
from switch.database import UNKNOWN
from switch.errors import Problem, StartError
from switch.payments.asked import Door
from switch.payments.desk import stands
from switch.payments.follow_ups import Wanted
from switch.payments.transaction import REVERSING, SENT, STATUS, Transaction
from switch.payments.translation import Order
from switch.security.pan import Pan
from tests.simulation.loop import NODE, Node

if TYPE_CHECKING:
    from tests.simulation.terminal import Receipt, Terminal
    from tests.simulation.world import World

SETTINGS = settings.load({"SWITCH_HOME": "/nowhere", "SWITCH_DATABASE_URL": "postgresql://simulated", "SWITCH_SIGN_ON_WAIT": "1"})
PAN, EXPIRY = Pan("4111111111111111"), "3012"


class Worker:
    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number, self.lives = world, number, 0
        self.node: Node | None = None
        self.switch: Switch | None = None
        self.starting: Switch | None = None  # from before its start on: one that holds a line may write to it before it serves
        self.serving = False
        self.open: dict[asyncio.Future[Any], None] = {}

    def start(self) -> None:
        if self.node is not None:
            return
        self.lives += 1
        self.node = Node(f"w{self.number}.{self.lives}")
        self.world.trace(self.node.name, "starts")
        start = self.node.context.run(self.world.loop.create_task, self._serve(self.node), context=self.node.context)
        start.add_done_callback(self._ended, context=self.world.context)

    async def _serve(self, node: Node) -> None:
        self.starting = switch = Switch(SETTINGS, "postgresql://simulated", alone=False)
        try:
            await switch.start()
        except (StartError, *UNKNOWN, asyncpg.PostgresError, Problem) as error:
            self.world.trace(node.name, "did not start:", repr(error))
            self.world.later(0, self.kill)
            return
        self.switch, self.serving = switch, True
        await switch.lease.lost.wait()  # its process ends, and another one begins
        if self.node is node:
            self.world.later(0, self.kill)

    def kill(self) -> None:
        """kill -9."""
        node, self.node, self.switch, self.starting, self.serving = self.node, None, None, None, False
        if node is None:
            return
        self.world.trace(node.name, "dies")
        self.world.loop.kill(node)
        self.world.dead.append(node)
        self.world.server.cut(node)
        for host in self.world.hosts.values():
            for line in [line for line in host.lines if line.node is node]:
                line.cut()
        for pipe in [pipe for pipe in self.world.pipes if pipe.node is node]:
            pipe.abort()
        for answer in self.open:
            if not answer.done():
                answer.set_result(("broken", 0))
        self.open = {}
        self.world.later(self.world.chance.uniform(0.1, 12.0) if not self.world.faults.healed else 0.1, self.start)

    def drain(self) -> None:
        """SIGTERM: the real drain, then the end of the process."""
        if self.switch is None or self.node is None or not self.serving:
            return
        self.world.trace(self.node.name, "drains")
        node, switch = self.node, self.switch
        self.serving = False

        async def stop() -> None:
            await switch.stop()
            if self.node is node:
                self.world.later(0, self.kill)

        node.context.run(self.world.loop.create_task, stop(), context=node.context)

    def serve(self, call: str, terminal: "Terminal", receipt: "Receipt", answer: "asyncio.Future[tuple[str, int]]") -> None:
        """A call that has arrived. What it comes to travels back, unless the worker dies first."""
        if self.node is None or not self.serving or self.switch is None:
            self.world.later(0.001, self._answer, answer, ("no_connection", 0))
            return
        self.open[answer] = None
        self.world.trace(self.node.name, "is asked to", call, receipt.key)
        job = {"pay": self._pay, "ask": self._ask, "cancel": self._cancel, "follow": self._follow}[call]
        node, switch = self.node, self.switch

        async def run() -> None:
            said = await _said(job(switch, terminal, receipt))
            self.world.later(self.world.chance.uniform(0.001, 0.01), self._answer, answer, said)

        node.context.run(self.world.loop.create_task, run(), context=node.context)

    def _ended(self, start: "asyncio.Task[None]") -> None:
        """A start that fails for another reason than the database is a fault of our own."""
        if (error := start.exception()) is not None:
            self.world.loop.faults.append(error)
            self.world.loop.stop = True

    def _answer(self, answer: "asyncio.Future[tuple[str, int]]", said: tuple[str, int]) -> None:
        self.open.pop(answer, None)
        if not answer.done():
            answer.set_result(said)

    async def _pay(self, switch: Switch, terminal: "Terminal", receipt: "Receipt") -> tuple[str, int]:
        now, received_at = self.world.loop.now, door.clock.now()
        assert receipt.amount is not None
        order = Order(receipt.type, receipt.amount, "CNY", receipt.capture_method, receipt.partial, 0, 0, "chip", PAN, EXPIRY, None, None, None, None,
                      None, None, None)
        record = switch.directory.terminals[terminal.terminal_id]
        seller = TerminalCaller(switch.directory.merchants[record.merchant_id], switch.directory.stores[record.store_id], record)
        switch.admit()
        told = await switch.authorizations.authorize(order, seller, receipt.key, receipt.key.encode().ljust(32), Door(now, received_at, None))
        receipt.transaction_id = told.transaction.transaction_id
        return self._told(told.transaction, receipt)

    async def _follow(self, switch: Switch, terminal: "Terminal", receipt: "Receipt") -> tuple[str, int]:
        now, received_at = self.world.loop.now, door.clock.now()
        switch.admit()
        assert receipt.original is not None
        original = await switch.history.transaction(receipt.original.transaction_id)
        assert original is not None
        told = await switch.follow_ups.follow(Wanted(receipt.route, receipt.amount, receipt.final), original, terminal.terminal_id, receipt.key,
                                              receipt.key.encode().ljust(32), Door(now, received_at, None))
        return self._told(told.transaction, receipt)

    def _told(self, row: Transaction, receipt: "Receipt") -> tuple[str, int]:
        said = f"201 {STATUS[row.outcome]}" if stands(row) and row.outcome else f"202 {STATUS[row.state]}"
        self.world.checkers.told(row.transaction_id, said)
        if said == "202 pending":
            self.world.pending[receipt.key] = NODE.get()
            said += " none" if row.exchange == "advice" else ""
        return said, row.approved_amount or 0

    async def _ask(self, switch: Switch, terminal: "Terminal", receipt: "Receipt") -> tuple[str, int]:
        record = switch.directory.terminals[terminal.terminal_id]
        known = await switch.history.key(record.merchant_id, terminal.terminal_id, receipt.key)
        if known is None:
            raise Problem("not_found")
        if known.transaction_id is None:
            raise Problem("cancelled_by_terminal")
        row = await switch.history.sale(known.transaction_id)
        assert row is not None
        return f"200 {STATUS[row.state]}", 0

    async def _cancel(self, switch: Switch, terminal: "Terminal", receipt: "Receipt") -> tuple[str, int]:
        record = switch.directory.terminals[terminal.terminal_id]
        row = await switch.cancellations.cancel(record.merchant_id, terminal.terminal_id, receipt.key)
        if row is None:
            return "200 cancelled", 0
        return f"{202 if row.state in (REVERSING, SENT) else 200} {STATUS[row.state]}", 0


async def _said(job: Awaitable[tuple[str, int]]) -> tuple[str, int]:
    try:
        return await job
    except Problem as problem:
        if problem.status == 503 and problem.extra.get("processed") is False:
            return "503 processed:false", 0
        return f"{problem.status} {problem.code}", 0


