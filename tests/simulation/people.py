"""Two people who look at parked reversals: they ask the host, and send it again or resolve it by hand."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from switch.database import UNKNOWN
from switch.errors import Problem
from switch.payments.resolution import Person

if TYPE_CHECKING:
    from tests.simulation.world import World


QUIET_S = 7.0


class Operator:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.left: set[Any] = set()  # what they leave parked

    def parked(self) -> list[Any]:
        return [key for key, duty in self.world.books.table("duty").items() if duty["state"] == "parked" and key not in self.left]

    def ripe(self) -> list[Any]:
        """People are slow: no copy of the reversal is still on its way to the host when they look."""
        duties, quiet = self.world.books.table("duty"), self.world.books.now() - timedelta(seconds=QUIET_S)
        return [key for key in self.parked() if duties[key]["last_sent_at"] is None or duties[key]["last_sent_at"] < quiet]

    def done(self) -> bool:
        return not self.parked()

    async def work(self) -> None:
        chance = self.world.chance
        while True:
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            worker, parked = chance.choice(self.world.workers), self.ripe()
            if parked and worker.serving and worker.node is not None and worker.switch is not None:
                key = chance.choice(parked)
                if chance.random() < 0.2:
                    self.left.add(key)
                    continue
                action = self._act(worker.switch.resolution, key, chance.random())
                worker.node.context.run(self.world.loop.create_task, action, context=worker.node.context)

    async def _act(self, resolution: Any, key: Any, draw: float) -> None:
        """Whether the host holds money is what they find out by telephone."""
        row = self.world.books.table("transaction")[key]
        entry = self.world.checkers.entry_of(row)
        try:
            if draw < 0.5 or row["exchange"] == "advice":
                await resolution.retry(key, Person("ann", "k1"))
                return
            standing = entry.standing if entry is not None else 0
            said = {"resolution": "confirmed", "approved_amount": standing} if standing else {"resolution": "reversed"}
            payload = {**said, "version": row["version"]}
            async with resolution.pool.acquire() as connection, connection.transaction():
                await resolution.resolve(connection, key, payload, {"by": "ann", "with": "bob"})
        except (*UNKNOWN, asyncpg.PostgresError, Problem):
            return
