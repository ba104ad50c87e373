"""A terminal as its guide says: same key until the answer, cancel by key, close after a power loss. The table is the reference client's."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from loadtests.terminal import TABLE, Action, Step, rule

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWER_TIMEOUT_S, PATIENCE_S, TRIES = 12.0, 30.0, 5
PAUSE_S, LONGEST_PAUSE_S = 0.3, 3.0
AMOUNTS = (1000, 1000, 2500, 3900)  # few, so that a wrong answer could fit
TYPES = (("purchase", "automatic"), ("purchase", "automatic"), ("purchase", "automatic"), ("preauthorization", "manual"))

ROUNDS = 4
FOLLOWED = 0.45  # of what was sold
ROUTES = {"manual": ("captures", "captures", "captures", "captures", "increments", "voids", "refunds", "tips"),
          "automatic": ("refunds", "refunds", "refunds", "voids", "tips", "tips", "captures")}

assert TABLE["pay"]["202 pending"].action is Action.CANCEL


class PowerLoss(Exception):
    pass


class ChangedMind(Exception):
    pass


@dataclass
class Receipt:
    """The journal's entry: written before the request leaves, closed before the customer sees it. `said`: sold, not_sold, office, refused."""

    key: str
    type: str
    capture_method: str
    amount: int | None  # of a follow-up None: all there is
    partial: str  # accept or refuse: what the terminal says about partial approvals
    said: str | None = None
    charged: int = 0
    trusted: bool = False  # closed by a "pending"
    transaction_id: UUID | None = None  # as an answer named it
    route: str = ""  # of a follow-up: captures, increments, voids, tips, refunds
    original: "Receipt | None" = None
    final: bool = False
    outcome: str = ""


class Terminal:
    def __init__(self, world: "World", number: int, orders: int) -> None:
        self.world, self.number, self.orders = world, number, orders
        self.terminal_id = UUID(int=100 + number)
        self.receipts: dict[str, Receipt] = {}
        self.trusting = world.chance.random() < 0.3  # takes any 202 at its word: this sale did not happen
        self.done = False

    async def work(self) -> None:
        chance = self.world.chance
        for count in range(self.orders):
            await asyncio.sleep(chance.expovariate(1 / 0.4))
            type_, capture_method = chance.choice(TYPES)
            receipt = Receipt(f"key-{self.number}-{count:04d}-000000", type_, capture_method, chance.choice(AMOUNTS),
                              chance.choice(("accept", "accept", "refuse")))
            self.receipts[receipt.key] = receipt
            try:
                await self._pay(receipt)
            except PowerLoss:
                await asyncio.sleep(chance.uniform(0.5, 6))
            except ChangedMind:
                await asyncio.sleep(0)
            await self._settled(receipt)
            if receipt.said == "sold" and chance.random() < FOLLOWED:
                await self._steps(receipt, count)
        self.done = True

    async def _settled(self, receipt: Receipt) -> None:
        while receipt.said is None:
            try:
                await self._settle(receipt)
            except PowerLoss:
                await asyncio.sleep(self.world.chance.uniform(0.5, 6))

    async def _steps(self, sold: Receipt, count: int) -> None:
        """What follows a sale: one step after the other, or two at once; or the sale is taken back meanwhile."""
        chance, faults = self.world.chance, self.world.faults
        for step in range(chance.randint(1, 3)):
            if chance.random() < 0.5:
                await asyncio.sleep(chance.expovariate(1 / 0.4))
            jobs = [self._carry_on(self._follow_up(sold, f"{count:04d}-{step:03d}{each}")) for each in range(1 + faults.hit("two_steps_at_once"))]
            if faults.hit("taken_back"):
                sold.said, sold.charged = None, 0
                jobs.append(self._settled(sold))
            await asyncio.gather(*jobs)

    def _follow_up(self, sold: Receipt, name: str) -> Receipt:
        chance = self.world.chance
        route = chance.choice(ROUTES[sold.capture_method])
        amount = sold.charged or 1000
        amounts = {"voids": (None,), "tips": (amount // 10, amount // 5), "increments": (amount // 2,)}.get(route, (None, amount, amount // 2, amount // 4))
        receipt = Receipt(f"step-{self.number}-{name}-0000", route, "", chance.choice(amounts), "refuse", route=route, original=sold,
                          final=route == "captures" and chance.random() < 0.2)
        self.receipts[receipt.key] = receipt
        return receipt

    async def _carry_on(self, receipt: Receipt) -> None:
        """The same key again until it has an outcome, over power losses too: it holds no card data."""
        chance, open_before, rounds = self.world.chance, False, 0
        while receipt.said is None:
            rounds += 1
            try:
                step, outcome, charged, unsure = await self._repeat("follow", receipt)
                open_before = open_before or unsure
                if step.action is Action.CANCEL or rounds > ROUNDS:  # out of patience: taken back by its key
                    await self._settled(receipt)
                elif open_before and step.action in (Action.AGAIN, Action.REFUSED):
                    await asyncio.sleep(chance.uniform(1, 4))
                else:
                    self._close(receipt, step, outcome, charged)
            except PowerLoss:
                open_before = True
                await asyncio.sleep(chance.uniform(0.5, 6))

    async def _pay(self, receipt: Receipt) -> None:
        step, outcome, charged, unsure = await self._repeat("pay", receipt)
        if step.action in (Action.SOLD, Action.NOT_SOLD, Action.OFFICE):
            self._close(receipt, step, outcome, charged)
        elif not unsure:
            self._close(receipt, step, outcome, 0)
        if receipt.said == "sold" and self.world.faults.hit("changed_mind"):  # the chip refuses: cancel by key
            receipt.said, receipt.charged = None, 0

    async def _settle(self, receipt: Receipt) -> None:
        outcome, charged = await self._exchange("ask", receipt)
        step = rule("ask", outcome)
        if step.action is Action.CANCEL:
            step, outcome, charged, _ = await self._repeat("cancel", receipt)
        if outcome == "409 follow_up_open" and self.world.operator.left:  # a person left a step of it parked: this waits for that person
            step = Step(Action.OFFICE)
        if step.action in (Action.AGAIN, Action.REFUSED):
            await asyncio.sleep(self.world.chance.uniform(1, 4))
        else:
            self._close(receipt, step, outcome, charged)

    def _close(self, receipt: Receipt, step: Step, outcome: str, charged: int) -> None:
        sold = step.action is Action.SOLD
        receipt.said = step.action.value if step.action is not Action.AGAIN else "not_sold"
        receipt.charged, receipt.outcome = charged if sold else 0, outcome
        self.world.trace(f"t{self.number}", receipt.key, "told", receipt.said, outcome)

    async def _repeat(self, call: str, receipt: Receipt) -> tuple[Step, str, int, bool]:
        loop, chance, unsure = self.world.loop, self.world.chance, False
        end = loop.now + PATIENCE_S
        for count in range(TRIES):
            outcome, charged = await self._exchange(call, receipt)
            step = rule(call, outcome)
            if self.trusting and outcome == "202 pending" and call == "pay":
                step = Step(Action.NOT_SOLD)
                receipt.trusted = True
            unsure = unsure or step.unsure
            pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**count) * chance.uniform(1.0, 1.5)
            if step.action is not Action.AGAIN or loop.now + pause > end or count == TRIES - 1:
                break
            await asyncio.sleep(pause)
        return step, outcome, charged, unsure

    async def _exchange(self, call: str, receipt: Receipt) -> tuple[str, int]:
        """One call to one of the workers -> (outcome, approved amount)."""
        world, faults = self.world, self.world.faults
        worker = world.chance.choice(world.workers)
        answer: asyncio.Future[tuple[str, int]] = world.loop.create_future()
        twice = call in ("pay", "follow") and not self.trusting and faults.hit("asked_twice")
        if twice:
            world.later(world.chance.uniform(0, 0.05), world.chance.choice(world.workers).serve, call, self, receipt, world.loop.create_future())
        if not faults.hit("request_lost"):
            world.later(world.chance.uniform(0.001, 0.01), worker.serve, call, self, receipt, answer)
        lost = faults.hit("answer_lost")
        if faults.hit("power_loss"):
            await asyncio.wait([answer], timeout=world.chance.choice((0.0, 0.02, 0.5, 4.0)))
            raise PowerLoss
        if call == "pay" and faults.hit("cancels_at_once"):  # the customer walks away: the cancellation may meet the request on its way
            await asyncio.wait([answer], timeout=world.chance.choice((0.01, 0.05, 1.0)) * world.chance.random())
            raise ChangedMind
        broken = faults.hit("connection_broken")
        await asyncio.wait([answer], timeout=world.chance.uniform(0.02, 2.0) if broken else ANSWER_TIMEOUT_S)
        if broken and not answer.done():
            return "broken", 0
        if not answer.done():
            return "timeout", 0
        outcome: Any = answer.result()
        if lost or (twice and outcome[0] in ("no_connection", "503 processed:false")):  # the other copy may have been heard
            return ("broken", 0)
        return outcome
