"""Totals of closed batches to their acquirers, and what they do not agree with, uploaded. A lost answer is asked for again under the same numbers,
and nothing is ever reversed for it: a batch moves no money.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import Dialect
from switch import alerts, logs
from switch.background import Background
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.directory import Directory
from switch.failpoints import failpoint
from switch.ids import show, uuid7
from switch.links import Bounced, Link, Reply, Silence
from switch.links.numbering import Numbers
from switch.payments.translation import de7
from switch.records import Acquirer
from switch.security.vault import Vault
from switch.settlement.batches import uploads, wording
from switch.settlement.batches.sending import Owed, asked, numbered
from switch.settlement.batches.totals import Sums
from switch.settlement.batches.uploads import Uploads
from switch.settlement.batches.wording import Figures, Said, Unsayable

LOOK_S = 0.5
AT_ONCE = 20
OWED = Owed("batch_total", "merchant_id", "batch_id", "acquirer_id", "currency")

ANY = """SELECT EXISTS (SELECT FROM batch_total WHERE state = 'waiting' AND next_attempt_at <= now())
  OR EXISTS (SELECT FROM batch_upload WHERE state = 'waiting' AND next_attempt_at <= now())"""
# Not while something of it is still on its way to this acquirer: it would be counted here and not there, or the other way round. And not before
# the one before it is answered and uploaded, since the acquirer counts from one to the next.
DUE = """SELECT b.merchant_id, b.batch_id, b.acquirer_id, b.currency, b.business_date, b.stan, b.transmitted_at, b.transmissions,
  n.card_acceptor_terminal, n.card_acceptor
FROM batch_total b JOIN acquirer_terminal n USING (merchant_id, acquirer_id, terminal_id)
WHERE b.state = 'waiting' AND b.next_attempt_at <= now() AND b.acquirer_id = ANY($1::uuid[])
  AND NOT EXISTS (SELECT FROM batch_total p WHERE p.terminal_id = b.terminal_id AND p.acquirer_id = b.acquirer_id AND p.currency = b.currency
                  AND p.state = 'waiting' AND p.batch_id < b.batch_id)
  AND NOT EXISTS (SELECT FROM batch_upload u JOIN batch_total p USING (merchant_id, batch_id, acquirer_id, currency) WHERE u.state = 'waiting'
                  AND p.terminal_id = b.terminal_id AND p.acquirer_id = b.acquirer_id AND p.currency = b.currency AND p.batch_id < b.batch_id)
  AND NOT EXISTS (SELECT FROM duty d WHERE d.terminal_id = b.terminal_id AND d.acquirer_id = b.acquirer_id AND d.kind = 'reversal'
                  AND d.state = 'open')
  AND NOT EXISTS (SELECT FROM batch_entry e JOIN duty d ON d.merchant_id = e.merchant_id AND d.transaction_id = e.transaction_id
                  WHERE e.batch_id = b.batch_id AND d.kind = 'advice' AND d.state = 'open')
  AND NOT EXISTS (SELECT FROM batch_entry e JOIN transaction c ON c.merchant_id = e.merchant_id AND c.original_id = e.transaction_id
                  JOIN duty d ON d.merchant_id = c.merchant_id AND d.transaction_id = c.transaction_id
                  WHERE e.batch_id = b.batch_id AND c.idempotency_key IS NULL AND d.kind = 'advice' AND d.state = 'open')
ORDER BY b.next_attempt_at LIMIT $2 FOR NO KEY UPDATE OF b SKIP LOCKED"""
# What was sold and voided within the batch is nothing in our books; where the host counts both ($6), it is told of both.
FIGURES = """SELECT t.brand = ANY($5::text[]) AS own,
  (count(*) FILTER (WHERE e.amount > 0))::integer AS sales_count, coalesce(sum(e.amount) FILTER (WHERE e.amount > 0), 0)::bigint AS sales,
  (count(*) FILTER (WHERE e.amount < 0))::integer AS refunds_count, coalesce(-sum(e.amount) FILTER (WHERE e.amount < 0), 0)::bigint AS refunds
FROM (SELECT transaction_id, amount FROM batch_entry WHERE merchant_id = $1 AND batch_id = $2
  UNION ALL SELECT transaction_id, amount FROM batch_void WHERE merchant_id = $1 AND batch_id = $2 AND $6
  UNION ALL SELECT void_id, -sum(amount) FROM batch_void WHERE merchant_id = $1 AND batch_id = $2 AND $6 GROUP BY 1) e
JOIN transaction t ON t.merchant_id = $1 AND t.transaction_id = e.transaction_id
WHERE t.acquirer_id = $3 AND t.currency = $4 GROUP BY 1"""


class Total(NamedTuple):
    """One row that is due, with how its acquirer knows the terminal."""

    merchant_id: UUID
    batch_id: UUID
    acquirer_id: UUID
    currency: str
    business_date: date
    stan: str | None
    transmitted_at: str | None
    transmissions: int
    card_acceptor_terminal: str
    card_acceptor: str

    @property
    def key(self) -> tuple[UUID, UUID, UUID, str]:
        return self.merchant_id, self.batch_id, self.acquirer_id, self.currency


class Forwarding:
    """Every worker sends what is due over the lines that it has; a row is taken by one of them at a time."""

    def __init__(self, pool: Pool, directory: Directory, links: Mapping[UUID, Link], numbers: Numbers, vault: Vault) -> None:
        self.pool, self.directory, self.links, self.numbers = pool, directory, links, numbers
        self.background = Background()
        self.asked = asyncio.Event()
        self.uploads = Uploads(pool, directory, links, numbers, vault, self.asked)

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            self.asked.clear()
            try:
                if await self.pool.fetchval(ANY):
                    await self.look()
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("batches_not_forwarded", error=type(error).__name__)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.asked.wait()
            except TimeoutError:
                continue

    async def look(self) -> int:
        """Sends what is due and can be sent now; returns how many. Raises what UNKNOWN lists."""
        usable = [acquirer_id for acquirer_id, link in self.links.items() if link.usable() and acquirer_id in self.directory.acquirers]
        if not usable:
            return 0
        totals = await self._take(usable)
        for total, message in totals:
            self.background.later(self._send(total, message))
        pages = await self.uploads.take(usable, AT_ONCE)
        for page, message in pages:
            self.background.later(self.uploads.send(page, message))
        return len(totals) + len(pages)

    async def _take(self, acquirers: list[UUID]) -> list[tuple[Total, dict[str, str]]]:
        """The numbers and the count of transmissions are durable before anything leaves."""
        taken, unsaid = [], []
        async with self.pool.acquire() as connection, connection.transaction():
            for row in await connection.fetch(DUE, acquirers, AT_ONCE):
                total, acquirer = Total(*row), self.directory.acquirers[row["acquirer_id"]]
                numbers = numbered(self.numbers, total.acquirer_id, total.stan, total.transmitted_at, de7(clock.now()))
                if numbers is None:
                    continue
                said = Said(total.currency, total.business_date, *numbers, total.transmissions, total.card_acceptor_terminal, total.card_acceptor)
                try:
                    message = wording.totals(said, await _figures(connection, total, acquirer.dialect), acquirer.dialect)
                except Unsayable:
                    await _disagreed(connection, total, acquirer.dialect, "refused", None)
                    unsaid.append(total)
                    continue
                await OWED.sending(connection, total.key, *numbers, acquirer.answer_timeout_s)
                taken.append((total, message))
        for total in unsaid:
            _tell(self.directory.acquirers[total.acquirer_id], total, "refused", None)
        return taken

    async def _send(self, total: Total, message: Mapping[str, str]) -> None:
        acquirer = self.directory.acquirers[total.acquirer_id]
        try:
            result = await asked(self.links.get(total.acquirer_id), message, asyncio.get_running_loop().time(), acquirer.answer_timeout_s)
            failpoint("batch.sent")
            await self._settle(acquirer, total, result)
        except (*UNKNOWN, asyncpg.PostgresError) as error:  # its lease runs out, and it is asked again
            logs.warning("batch_answer_not_written", acquirer=acquirer.name, error=type(error).__name__)

    async def _settle(self, acquirer: Acquirer, total: Total, result: Reply | Bounced | Silence) -> None:
        heard = await OWED.heard(self.pool, total.key, total.transmissions, result, lambda answer: wording.verdict(answer, acquirer.dialect))
        if heard is None:
            return
        found, code = heard
        if found == "in_balance":
            await OWED.answered(self.pool, total.key, found, code)
            return
        async with self.pool.acquire() as connection, connection.transaction():
            if not await _disagreed(connection, total, acquirer.dialect, found, code):
                return
        _tell(acquirer, total, found, code)
        self.asked.set()

    async def stop(self) -> None:
        """What is on its way is asked for again by whoever comes next."""
        await self.background.end()


async def _figures(connection: Connection, total: Total, dialect: Dialect) -> Figures:
    form = dialect.batch
    rows = await connection.fetch(FIGURES, *total.key, list(form.own_brands), form.voids)
    return {row["own"]: Sums(row["sales_count"], row["sales"], row["refunds_count"], row["refunds"]) for row in rows}


async def _disagreed(connection: Connection, total: Total, dialect: Dialect, found: str, code: str | None) -> bool:
    """Writes it, the alert and the upload that is due now as one. False: somebody else wrote it before."""
    if not await OWED.answered(connection, total.key, found, code):
        return False
    identity = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
    await connection.execute(alerts.RAISE, identity, "batch_out_of_balance", show("batch", total.batch_id))
    if found == "out_of_balance":
        await uploads.plan(connection, total.key, dialect)
    return True


def _tell(acquirer: Acquirer, total: Total, found: str, code: str | None) -> None:
    alerts.announce("batch_out_of_balance", show("batch", total.batch_id))
    logs.warning("batch_not_in_balance", acquirer=acquirer.name, code=code, state=found)
