"""Uploads of batches that an acquirer does not agree with: every transaction, then the end, one message after the answer to the other."""

import asyncio
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import Dialect
from switch import logs
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.directory import Directory
from switch.failpoints import failpoint
from switch.links import Link
from switch.links.numbering import Numbers
from switch.payments.cards import QR
from switch.payments.translation import de7
from switch.security.vault import Vault, VaultError
from switch.settlement.batches import wording
from switch.settlement.batches.sending import Owed, asked, numbered
from switch.settlement.batches.wording import BATCH_UPLOAD, Item, Said

OWED = Owed("batch_upload", "merchant_id", "batch_id", "acquirer_id", "currency", "number")

# A sale and its void within the batch are both said, where the host counts both ($5).
ENTRIES = """SELECT e.transaction_id, e.amount FROM (
  SELECT transaction_id, amount FROM batch_entry WHERE merchant_id = $1 AND batch_id = $2
  UNION ALL SELECT transaction_id, amount FROM batch_void WHERE merchant_id = $1 AND batch_id = $2 AND $5
  UNION ALL SELECT void_id, sum(amount)::bigint FROM batch_void WHERE merchant_id = $1 AND batch_id = $2 AND $5 GROUP BY 1) e
JOIN transaction t ON t.merchant_id = $1 AND t.transaction_id = e.transaction_id
WHERE t.acquirer_id = $3 AND t.currency = $4 ORDER BY e.transaction_id"""
ADD = """INSERT INTO batch_upload (merchant_id, batch_id, acquirer_id, currency, number, transactions, amounts)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""
DUE = """SELECT u.merchant_id, u.batch_id, u.acquirer_id, u.currency, u.number, u.transactions, u.amounts, b.business_date, u.stan, u.transmitted_at,
  u.transmissions, n.card_acceptor_terminal, n.card_acceptor
FROM batch_upload u JOIN batch_total b USING (merchant_id, batch_id, acquirer_id, currency)
JOIN acquirer_terminal n USING (merchant_id, acquirer_id, terminal_id)
WHERE u.state = 'waiting' AND u.next_attempt_at <= now() AND u.acquirer_id = ANY($1::uuid[])
  AND NOT EXISTS (SELECT FROM batch_upload p WHERE p.merchant_id = u.merchant_id AND p.batch_id = u.batch_id AND p.acquirer_id = u.acquirer_id
                  AND p.currency = u.currency AND p.state = 'waiting' AND p.number < u.number)
ORDER BY u.next_attempt_at LIMIT $2 FOR NO KEY UPDATE OF u SKIP LOCKED"""
ITEMS = """SELECT t.transaction_id, i.amount, t.brand = ANY($4::text[]) AS own, t.stan, coalesce(t.acquirer_rrn, t.rrn) AS rrn,
  coalesce(o.approval_code, t.approval_code) AS approval_code, coalesce(o.business_date, t.business_date) AS original_date,
  coalesce(o.stan, t.stan) AS original_stan, coalesce(o.local_date, t.local_date) AS original_local_date,
  t.entry_mode, t.pan_key, t.pan_sealed, t.pan_sealed_on
FROM unnest($2::uuid[], $3::bigint[]) WITH ORDINALITY AS i(transaction_id, amount, at)
JOIN transaction t ON t.merchant_id = $1 AND t.transaction_id = i.transaction_id
LEFT JOIN transaction o ON o.merchant_id = $1 AND o.transaction_id = t.original_id ORDER BY i.at"""
TAKEN = """SELECT coalesce(sum(cardinality(transactions)), 0)::integer FROM batch_upload
WHERE merchant_id = $1 AND batch_id = $2 AND acquirer_id = $3 AND currency = $4 AND state = 'accepted'"""


class Page(NamedTuple):
    """One message that is due; without transactions it is the end."""

    merchant_id: UUID
    batch_id: UUID
    acquirer_id: UUID
    currency: str
    number: int
    transactions: list[UUID]
    amounts: list[int]
    business_date: date
    stan: str | None
    transmitted_at: str | None
    transmissions: int
    card_acceptor_terminal: str
    card_acceptor: str

    @property
    def key(self) -> tuple[UUID, UUID, UUID, str, int]:
        return self.merchant_id, self.batch_id, self.acquirer_id, self.currency, self.number


async def plan(connection: Connection, key: tuple[UUID, UUID, UUID, str], dialect: Dialect) -> None:
    """Writes what is to be said, if the dialect has words for it, in the caller's database transaction."""
    if BATCH_UPLOAD not in dialect.messages:
        return
    entries = [(row["transaction_id"], row["amount"]) for row in await connection.fetch(ENTRIES, *key, dialect.batch.voids)]
    pages = [*wording.pages(entries, dialect), []]
    await connection.executemany(ADD, [(*key, number, [each for each, _ in page], [amount for _, amount in page])
                                       for number, page in enumerate(pages, 1)])


class Uploads:
    """What is due of all uploads. `asked` is set when there may be more to do at once."""

    def __init__(self, pool: Pool, directory: Directory, links: Mapping[UUID, Link], numbers: Numbers, vault: Vault, asked: asyncio.Event) -> None:
        self.pool, self.directory, self.links, self.numbers, self.vault, self.asked = pool, directory, links, numbers, vault, asked

    async def take(self, acquirers: list[UUID], at_most: int) -> list[tuple[Page, dict[str, str]]]:
        """With what is said. Numbers and the count of transmissions are durable before anything leaves."""
        taken = []
        async with self.pool.acquire() as connection, connection.transaction():
            for row in await connection.fetch(DUE, acquirers, at_most):
                page, acquirer = Page(*row), self.directory.acquirers[row["acquirer_id"]]
                numbers = numbered(self.numbers, page.acquirer_id, page.stan, page.transmitted_at, de7(clock.now()))
                if numbers is None:
                    continue
                said = Said(page.currency, page.business_date, *numbers, page.transmissions, page.card_acceptor_terminal, page.card_acceptor)
                await OWED.sending(connection, page.key, *numbers, acquirer.answer_timeout_s)
                taken.append((page, await self._said(connection, page, said, acquirer.dialect)))
        return taken

    async def _said(self, connection: Connection, page: Page, said: Said, dialect: Dialect) -> dict[str, str]:
        if not page.transactions:
            return wording.end(said, await connection.fetchval(TAKEN, *page.key[:4]), dialect)
        rows = await connection.fetch(ITEMS, page.merchant_id, page.transactions, page.amounts, list(dialect.batch.own_brands))
        return wording.upload(said, [self._item(row) for row in rows], dialect)

    def _item(self, row: asyncpg.Record) -> Item:
        return Item(row["transaction_id"], row["amount"], row["own"], self._pan(row), row["stan"], row["rrn"], row["approval_code"],
                    row["original_date"], row["original_stan"], row["original_local_date"])

    def _pan(self, row: asyncpg.Record) -> str:
        """Nothing for a sale by payment code, and for a card that may not be read any more."""
        if row["entry_mode"] == QR:
            return ""
        try:
            return self.vault.open(row["pan_key"], row["pan_sealed"], row["transaction_id"].bytes, row["pan_sealed_on"])[0].reveal()
        except VaultError as error:
            logs.warning("card_unreadable", transaction=row["transaction_id"], reason=str(error))
            return ""

    async def send(self, page: Page, message: Mapping[str, str]) -> None:
        acquirer = self.directory.acquirers[page.acquirer_id]
        try:
            result = await asked(self.links.get(page.acquirer_id), message, asyncio.get_running_loop().time(), acquirer.answer_timeout_s)
            failpoint("batch.uploaded")
            heard = await OWED.heard(self.pool, page.key, page.transmissions, result, lambda answer: wording.taken(answer, acquirer.dialect))
            if heard is None:
                return
            found, code = heard
            await OWED.answered(self.pool, page.key, found, code)
        except (*UNKNOWN, asyncpg.PostgresError) as error:  # its lease runs out, and it is said again
            logs.warning("batch_answer_not_written", acquirer=acquirer.name, error=type(error).__name__)
            return
        if found == "refused":
            logs.warning("batch_upload_refused", acquirer=acquirer.name, code=code, number=page.number)
        self.asked.set()
