"""Totals of closed batches to their acquirers: 0500 out, 0510 back. A lost answer is asked for again under the same numbers, and nothing is ever
reversed for it: a batch moves no money.
"""

import asyncio
import os
import random
import time
from collections.abc import Mapping
from datetime import date, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import Dialect, repeat_mti
from switch import alerts, logs
from switch.background import Background
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.failpoints import failpoint
from switch.ids import show, uuid7
from switch.links import Bounced, Link, Reply, Silence
from switch.links.numbering import Numbers
from switch.money import CURRENCIES
from switch.payments.translation import de7
from switch.records import Acquirer
from switch.settlement.batches.counts import BATCH_CLOSE

LOOK_S = 0.5
AT_ONCE = 20
LEASE_MARGIN_S = 10.0
SEND_WITHIN_S = 2.0
PAUSE_S, PAUSE_MAX_S = 2.0, 300.0
AGAIN = frozenset({"06", "09", "68", "90", "91", "96", "98"})  # DE39: nobody has compared anything
OUT_OF_BALANCE = "95"  # of hosts that do not say it in DE66
SETTLEMENT_CODE: Mapping[str, str] = {"1": "in_balance", "2": "out_of_balance"}  # DE66

ANY = "SELECT EXISTS (SELECT FROM batch_total WHERE state = 'waiting' AND next_attempt_at <= now())"
# Not while something of it is still on its way to this acquirer: it would be counted here and not there, or the other way round. And not before
# the one before it is answered, since the acquirer counts from one to the next.
DUE = """SELECT b.merchant_id, b.batch_id, b.acquirer_id, b.currency, b.terminal_id, b.business_date, b.sales_count, b.sales, b.refunds_count,
  b.refunds, b.stan, b.transmitted_at, b.transmissions, n.card_acceptor_terminal, n.card_acceptor
FROM batch_total b JOIN acquirer_terminal n USING (merchant_id, acquirer_id, terminal_id)
WHERE b.state = 'waiting' AND b.next_attempt_at <= now() AND b.acquirer_id = ANY($1::uuid[])
  AND NOT EXISTS (SELECT FROM batch_total p WHERE p.terminal_id = b.terminal_id AND p.acquirer_id = b.acquirer_id AND p.currency = b.currency
                  AND p.state = 'waiting' AND p.batch_id < b.batch_id)
  AND NOT EXISTS (SELECT FROM duty d WHERE d.terminal_id = b.terminal_id AND d.acquirer_id = b.acquirer_id AND d.kind = 'reversal'
                  AND d.state = 'open')
  AND NOT EXISTS (SELECT FROM batch_entry e JOIN duty d ON d.merchant_id = e.merchant_id AND d.transaction_id = e.transaction_id
                  WHERE e.batch_id = b.batch_id AND d.kind = 'advice' AND d.state = 'open')
  AND NOT EXISTS (SELECT FROM batch_entry e JOIN transaction c ON c.merchant_id = e.merchant_id AND c.original_id = e.transaction_id
                  JOIN duty d ON d.merchant_id = c.merchant_id AND d.transaction_id = c.transaction_id
                  WHERE e.batch_id = b.batch_id AND c.idempotency_key IS NULL AND d.kind = 'advice' AND d.state = 'open')
ORDER BY b.next_attempt_at LIMIT $2 FOR NO KEY UPDATE OF b SKIP LOCKED"""
SENDING = """UPDATE batch_total SET stan = $5, transmitted_at = $6, transmissions = transmissions + 1, next_attempt_at = now() + $7
WHERE merchant_id = $1 AND batch_id = $2 AND acquirer_id = $3 AND currency = $4"""
NOT_SENT = """UPDATE batch_total SET transmissions = transmissions - 1, next_attempt_at = now() + $5
WHERE merchant_id = $1 AND batch_id = $2 AND acquirer_id = $3 AND currency = $4 AND state = 'waiting'"""
LATER = """UPDATE batch_total SET next_attempt_at = now() + $5, code = $6
WHERE merchant_id = $1 AND batch_id = $2 AND acquirer_id = $3 AND currency = $4 AND state = 'waiting'"""
ANSWERED = """UPDATE batch_total SET state = $5, code = $6, answered_at = now()
WHERE merchant_id = $1 AND batch_id = $2 AND acquirer_id = $3 AND currency = $4 AND state = 'waiting' RETURNING true"""


class Total(NamedTuple):
    """One row that is due, with how its acquirer knows the terminal."""

    merchant_id: UUID
    batch_id: UUID
    acquirer_id: UUID
    currency: str
    terminal_id: UUID
    business_date: date
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int
    stan: str | None
    transmitted_at: str | None
    transmissions: int
    card_acceptor_terminal: str
    card_acceptor: str

    @property
    def key(self) -> tuple[UUID, UUID, UUID, str]:
        return self.merchant_id, self.batch_id, self.acquirer_id, self.currency


def message(total: Total, dialect: Dialect) -> dict[str, str]:
    """The 0500, or its repeat. Sales are debits of cardholders, refunds their credits (ISO 8583:1987, DE74 to DE97)."""
    rule = dialect.messages[BATCH_CLOSE]
    net = total.sales - total.refunds
    figures = {"15": f"{total.business_date:%m%d}", "50": CURRENCIES[total.currency][0], "74": f"{total.refunds_count:010d}",
               "76": f"{total.sales_count:010d}", "86": f"{total.refunds:016d}", "88": f"{total.sales:016d}",
               "97": f"{'C' if net < 0 else 'D'}{abs(net):016d}"}
    assert total.stan is not None and total.transmitted_at is not None
    return {"0": repeat_mti(rule.mti) if total.transmissions else rule.mti, "7": total.transmitted_at, "11": total.stan,
            "41": total.card_acceptor_terminal, "42": total.card_acceptor,
            **{number: value for number, value in figures.items() if number in rule.required}, **rule.fixed}


def verdict(answer: Mapping[str, str]) -> str | None:
    """in_balance, out_of_balance or refused; None: ask again."""
    code = answer["39"].strip()
    if code in AGAIN:
        return None
    if code == OUT_OF_BALANCE:
        return "out_of_balance"
    if code != "00":
        return "refused"
    return SETTLEMENT_CODE.get(answer.get("66", "1").strip(), "refused")


def pause(transmissions: int, fraction: float) -> timedelta:
    """Until it is asked again: doubled each time, with jitter. `fraction`: from 0 to 1."""
    return timedelta(seconds=min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(transmissions, 10)) * (0.5 + fraction / 2))


class Forwarding:
    """Every worker sends what is due over the lines that it has; a row is taken by one of them at a time."""

    def __init__(self, pool: Pool, directory: Directory, links: Mapping[UUID, Link], numbers: Numbers) -> None:
        self.pool, self.directory, self.links, self.numbers = pool, directory, links, numbers
        self.background = Background()
        self.asked = asyncio.Event()

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
        taken = await self._take(usable) if usable else []
        for total in taken:
            self.background.later(self._send(total))
        return len(taken)

    async def _take(self, acquirers: list[UUID]) -> list[Total]:
        """The numbers and the count of transmissions are durable before anything leaves."""
        taken = []
        async with self.pool.acquire() as connection, connection.transaction():
            for row in await connection.fetch(DUE, acquirers, AT_ONCE):
                total, acquirer = Total(*row), self.directory.acquirers[row["acquirer_id"]]
                if total.stan is None:
                    stan = self.numbers.stan(total.acquirer_id)
                    if stan is None:
                        continue
                    total = total._replace(stan=stan, transmitted_at=de7(clock.now()))
                lease = timedelta(seconds=acquirer.answer_timeout_s + LEASE_MARGIN_S)
                await connection.execute(SENDING, *total.key, total.stan, total.transmitted_at, lease)
                taken.append(total)
        return taken

    async def _send(self, total: Total) -> None:
        acquirer, link = self.directory.acquirers[total.acquirer_id], self.links.get(total.acquirer_id)
        now = asyncio.get_running_loop().time()
        try:
            result: Reply | Bounced | Silence = Bounced("line_down")
            if link is not None:
                result = await link.request(message(total, acquirer.dialect), send_not_after=now + SEND_WITHIN_S,
                                            deadline=now + acquirer.answer_timeout_s)
            failpoint("batch.sent")
            await self._settle(acquirer, total, result)
        except (*UNKNOWN, asyncpg.PostgresError) as error:  # its lease runs out, and it is asked again
            logs.warning("batch_answer_not_written", acquirer=acquirer.name, error=type(error).__name__)

    async def _settle(self, acquirer: Acquirer, total: Total, result: Reply | Bounced | Silence) -> None:
        if isinstance(result, Bounced):
            await self.pool.execute(NOT_SENT, *total.key, pause(0, random.random()))
            return
        found = verdict(result.message) if isinstance(result, Reply) else None
        code = result.message["39"].strip() if isinstance(result, Reply) else None
        if found is None:
            await self.pool.execute(LATER, *total.key, pause(total.transmissions, random.random()), code)
            return
        if found == "in_balance":
            await self.pool.execute(ANSWERED, *total.key, found, code)
            return
        async with self.pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(ANSWERED, *total.key, found, code):
                return
            identity = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
            await connection.execute(alerts.RAISE, identity, "batch_out_of_balance", show("batch", total.batch_id))
        alerts.announce("batch_out_of_balance", show("batch", total.batch_id))
        logs.warning("batch_not_in_balance", acquirer=acquirer.name, code=code, state=found)

    async def stop(self) -> None:
        """What is on its way is asked for again by whoever comes next."""
        await self.background.end()
