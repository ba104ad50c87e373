"""Statements: what a settlement is made of, line by line and summed, as merchants and their accountants read it.

Amounts are minor units, signed from the merchant's point of view: sales are positive, refunds negative, fees and tax positive when the merchant pays
them, and of every row net = gross - fee - tax. The nets of all rows of a settlement but those that stand
beside it (disputes, corrections, charges and deposits of contracts) are its net.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.clock import clock
from switch.database import Connection
from switch.ids import show
from switch.payments.history import Filter, list_query
from switch.payments.transaction import APPROVED, CONFIRMED, STATUS, Transaction, payment_status_at
from switch.settlement.exports.cells import Column

AT_ONCE = 100  # rows: what is in memory of an export, and what the loop is kept from its other work by
PARTS = ("sales", "refunds", "chargebacks", "adjustments")
PART_OF = {"sale": "sales", "refund": "refunds", "chargeback": "chargebacks", "adjustment": "adjustments", "correction": "adjustments",
           "contract_charge": "adjustments", "deposit": "adjustments"}

LINE_COLUMNS = (
    Column("kind"), Column("transaction"), Column("type"), Column("original"), Column("captured_at", "time"), Column("business_date", "date"),
    Column("for_date", "date"), Column("currency"), *(Column(part, "amount") for part in PARTS), Column("gross", "amount"),
    Column("fee", "amount"), Column("tax", "amount"), Column("net", "amount"), Column("fee_rule"), Column("store"), Column("store_name"),
    Column("terminal"), Column("terminal_name"), Column("batch"), Column("brand"), Column("card_type"), Column("entry_mode"), Column("card_last4"),
    Column("rrn"), Column("stan"), Column("approval_code"), Column("reference"),
)
TRANSACTION_COLUMNS = (
    Column("transaction"), Column("type"), Column("original"), Column("status"), Column("payment_status"), Column("created_at", "time"),
    Column("business_date", "date"), Column("currency"), Column("amount", "amount"), Column("approved_amount", "amount"),
    Column("captured", "amount"), Column("refunded", "amount"), Column("charged_back", "amount"), Column("tip_amount", "amount"), Column("store"),
    Column("terminal"), Column("brand"), Column("entry_mode"), Column("masked_pan"), Column("rrn"), Column("stan"), Column("approval_code"),
    Column("response_code"), Column("terminal_trace"), Column("reference"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """A settlement as a whole, with the names that people know its parts by."""

    settlement_id: UUID
    merchant_id: UUID
    merchant_name: str
    acquirer_name: str
    zone: ZoneInfo
    business_date: date
    due_on: date
    currency: str
    state: str
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int
    adjustments_count: int
    adjustments: int
    fees: int
    tax: int
    net: int
    reserve_held: int
    reserve_release_on: date | None
    charges: tuple[tuple[str, int], ...]  # fees of no transaction: what for, how much
    beside: tuple[Row, ...] = ()  # what disputes, corrections and contracts moved while the day was open: at once, and not in the net

    @property
    def gross(self) -> int:
        return self.sales - self.refunds + self.adjustments


HEAD = """SELECT s.settlement_id, s.merchant_id, m.name AS merchant_name, a.name AS acquirer_name, m.time_zone, s.business_date, s.due_on,
    s.currency, s.state, s.sales_count, s.sales, s.refunds_count, s.refunds, s.adjustments_count, s.adjustments, s.fees, s.tax, s.net,
    s.reserve_held, s.reserve_release_on, s.extras, s.acquirer_id
FROM settlement s JOIN directory_merchant m ON m.merchant_id = s.merchant_id JOIN directory_acquirer a ON a.acquirer_id = s.acquirer_id
WHERE s.settlement_id = $1 AND ($2::uuid IS NULL OR s.merchant_id = $2)"""
# By dispute and step, correction, charge and deposit: its money, signed from the merchant's point of view, and the fee for it.
BESIDE = """SELECT CASE WHEN b.dispute_id IS NOT NULL THEN 'chargeback' WHEN b.cause = 'contract_charge' THEN 'contract_charge'
    WHEN b.cause IN ('hold_placed', 'hold_released') THEN 'deposit' ELSE 'correction' END AS kind, b.name, b.reference, b.transaction_id,
  t.original_id, t.brand, t.store_id, t.terminal_id, t.card_last4, t.rrn, b.posted_at,
  coalesce(sum(b.amount) FILTER (WHERE b.cause NOT IN ('dispute_fee', 'contract_charge')), 0)::bigint AS gross,
  coalesce(-sum(b.amount) FILTER (WHERE b.cause IN ('dispute_fee', 'contract_charge')), 0)::bigint AS fee
FROM settled_beside b LEFT JOIN history_transaction t ON t.merchant_id = b.merchant_id AND t.transaction_id = b.transaction_id
WHERE b.merchant_id = $1 AND b.acquirer_id = $2 AND b.currency = $3 AND b.business_date = $4
GROUP BY kind, b.name, b.dispute_id, b.reference, b.transaction_id,
  t.original_id, t.brand, t.store_id, t.terminal_id, t.card_last4, t.rrn, b.posted_at
ORDER BY b.posted_at, kind, b.reference, b.name"""


async def head(connection: Connection, settlement_id: UUID, merchant_id: UUID | None) -> Head | None:
    """None when there is none, or it is not this merchant's (`merchant_id` None: anybody's)."""
    row = await connection.fetchrow(HEAD, settlement_id, merchant_id)
    if row is None:
        return None
    values = dict(row)
    charges = tuple((str(each["name"]), int(each["amount"])) for each in json.loads(values.pop("extras")))
    moved = await connection.fetch(BESIDE, row["merchant_id"], values.pop("acquirer_id"), row["currency"], row["business_date"])
    return Head(zone=ZoneInfo(values.pop("time_zone")), charges=charges, beside=tuple(map(dict, moved)), **values)


LINES = """SELECT l.kind, l.transaction_id, l.type, l.original_id, l.captured_at, l.business_date, l.for_date, l.currency, l.gross, l.fee, l.rule,
    l.store_id, s.name AS store_name, l.terminal_id, t.name AS terminal_name, l.brand, l.card_type, l.entry_mode, l.card_last4, l.rrn, l.stan,
    l.approval_code, l.reference, b.batch
FROM settlement_line l
    LEFT JOIN LATERAL (SELECT CASE l.kind WHEN 'adjustment' THEN max(b.number) ELSE min(b.number) END::text AS batch
        FROM batch_entry e JOIN terminal_batch b USING (merchant_id, batch_id) WHERE e.merchant_id = l.merchant_id
          AND e.transaction_id IN (l.transaction_id, CASE l.type WHEN 'capture' THEN l.original_id END)) b ON true
    LEFT JOIN directory_store s ON s.merchant_id = l.merchant_id AND s.store_id = l.store_id
    LEFT JOIN directory_terminal t ON t.merchant_id = l.merchant_id AND t.terminal_id = l.terminal_id
WHERE l.settlement_id = $1 ORDER BY l.transaction_id"""


def _line(row: Any) -> Row:
    parts = dict.fromkeys(PARTS, 0) | {PART_OF[row["kind"]]: row["gross"]}
    return {**dict(row), **parts, "transaction": show("transaction", row["transaction_id"]), "tax": 0, "net": row["gross"] - row["fee"],
            "original": None if row["original_id"] is None else show("transaction", row["original_id"]), "fee_rule": row["rule"],
            "store": show("store", row["store_id"]), "terminal": show("terminal", row["terminal_id"])}


def charges(whole: Head) -> list[Row]:
    """The rows that are no lines of it: its charges and its tax, with which the nets sum to its own; and what moved beside it."""
    nothing: dict[str, Any] = dict.fromkeys(column.name for column in LINE_COLUMNS) | dict.fromkeys((*PARTS, "gross", "fee", "tax"), 0)
    same = {"business_date": whole.business_date, "for_date": whole.business_date, "currency": whole.currency}
    rows: list[Row] = [{**nothing, **same, "kind": "charge", "fee": amount, "net": -amount, "fee_rule": name} for name, amount in whole.charges]
    if whole.tax:
        rows.append({**nothing, **same, "kind": "tax", "tax": whole.tax, "net": -whole.tax, "fee_rule": "tax on fees"})
    for each in whole.beside:
        sold = {name: None if each[f"{name}_id"] is None else show(name, each[f"{name}_id"]) for name in ("transaction", "store", "terminal")}
        rows.append({**nothing, **same, **sold, **{name: each[name] for name in ("brand", "card_last4", "rrn", "reference", "gross", "fee")},
                     "kind": each["kind"], "captured_at": each["posted_at"], PART_OF[each["kind"]]: each["gross"], "net": each["gross"] - each["fee"],
                     "fee_rule": each["name"] or ("dispute fee" if each["fee"] else None)})
    return rows


async def lines(connection: Connection, whole: Head) -> AsyncIterator[list[Row]]:
    """All rows, a few at a time, inside the caller's database transaction: a server-side cursor, so that no length needs memory."""
    cursor = await connection.cursor(LINES, whole.settlement_id)
    while rows := await cursor.fetch(AT_ONCE):
        yield [_line(row) for row in rows]
    yield charges(whole)


def _transaction(row: Transaction, now: datetime) -> Row:
    own = {column.name: getattr(row, column.name, None) for column in TRANSACTION_COLUMNS}
    return {**own, "transaction": show("transaction", row.transaction_id), "status": STATUS[row.state], "payment_status": payment_status_at(row, now),
            "approved_amount": row.approved_amount if row.state in (APPROVED, CONFIRMED) else 0,  # as GET says it
            "original": None if row.original_id is None else show("transaction", row.original_id), "created_at": row.received_at,
            "store": show("store", row.store_id), "terminal": show("terminal", row.terminal_id)}


async def transactions(connection: Connection, wanted: Filter) -> AsyncIterator[list[Row]]:
    """The list of transactions without its pages, newest first."""
    statement, arguments = list_query(wanted, None)
    cursor = await connection.cursor(statement, *arguments)
    while rows := await cursor.fetch(AT_ONCE):
        now = clock.now()
        yield [_transaction(Transaction(**dict(row)), now) for row in rows]


FEES = """SELECT rule, kind, brand, card_type, count(*) AS count, sum(gross)::bigint AS gross, sum(fee)::bigint AS fee FROM settlement_line
WHERE settlement_id = $1 GROUP BY rule, kind, brand, card_type ORDER BY sum(fee) DESC, rule, kind, brand, card_type"""
STORES = """SELECT s.name AS store, count(*) AS count, coalesce(sum(l.gross) FILTER (WHERE l.kind = 'sale'), 0)::bigint AS sales,
    coalesce(sum(l.gross) FILTER (WHERE l.kind = 'refund'), 0)::bigint AS refunds, sum(l.gross)::bigint AS gross, sum(l.fee)::bigint AS fee
FROM settlement_line l LEFT JOIN directory_store s ON s.merchant_id = l.merchant_id AND s.store_id = l.store_id
WHERE l.settlement_id = $1 GROUP BY l.store_id, s.name ORDER BY s.name, l.store_id"""
ADJUSTMENTS = """SELECT for_date, count(*) AS count, sum(gross)::bigint AS gross, sum(fee)::bigint AS fee FROM settlement_line
WHERE settlement_id = $1 AND kind = 'adjustment' GROUP BY for_date ORDER BY for_date"""


@dataclass(frozen=True, slots=True)
class Statement:
    """A settlement summed: which rule took how much, which store sold it, and which days were set right."""

    whole: Head
    fees: Sequence[Row]
    stores: Sequence[Row]
    adjustments: Sequence[Row]


async def statement(connection: Connection, whole: Head) -> Statement:
    fees, stores, adjustments = [[dict(row) for row in await connection.fetch(question, whole.settlement_id)]
                                 for question in (FEES, STORES, ADJUSTMENTS)]
    return Statement(whole, fees, stores, adjustments)
