"""What merchants read of thousands of settlements reads indexes, and no more rows than it shows or must add up."""

import json
import re
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.settlement import ledger
from switch.settlement.cutover import posting, settlements
from switch.settlement.fees import metering
from switch.settlement.payouts import runs
from tests import rows
from tests.conftest import create_database
from tests.test_history import nodes

MERCHANTS, DAYS, PAGE = 150, 40, 20
FIRST = date(2026, 1, 1)
LAST = FIRST + timedelta(days=DAYS - 1)
LARGE = frozenset({"settlement", "settlement_line", "transfer", "payout"})
ACQUIRER, MERCHANT, ORGANISATION = UUID(int=9), UUID(int=1001), UUID(int=8)
# 6,000 settlements of three lines and four transfers each; those of the last two days are not paid out yet.
HOUSE = (
    f"INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone) SELECT id(1000 + n), '{ORGANISATION}', 'M' || n, '5812', 'UTC' FROM generate_series(1, {MERCHANTS}) n",
    f"INSERT INTO business_day (acquirer_id, business_date, state) SELECT '{ACQUIRER}', '{FIRST}'::date + n, 'closed' FROM generate_series(0, {DAYS - 1}) n",
    f"INSERT INTO cutover (acquirer_id, business_date, next_date, ended_at) SELECT '{ACQUIRER}', '{FIRST}'::date + n, '{FIRST}'::date + n + 1, now() FROM generate_series(0, {DAYS - 1}) n",
    f"""INSERT INTO settlement (merchant_id, settlement_id, acquirer_id, business_date, currency, state, sales_count, sales, fees, net, due_on, volume, payout_id)
    SELECT id(1000 + m), id(1000000 + d * 1000 + m), '{ACQUIRER}', '{FIRST}'::date + d, 'CNY', 'stated', 3, 3000, 30, 2970, '{FIRST}'::date + d + 1, 3000,
      CASE WHEN d < {DAYS - 2} THEN id(2000000 + d * 1000 + m) END FROM generate_series(0, {DAYS - 1}) d, generate_series(1, {MERCHANTS}) m""",
    """INSERT INTO settlement_line (merchant_id, settlement_id, business_date, transaction_id, acquirer_id, kind, type, for_date, gross, fee, currency, rule, store_id,
      terminal_id, brand, card_type, entry_mode, mcc, card_last4, rrn, stan, captured_at)
    SELECT merchant_id, settlement_id, business_date, gen_random_uuid(), acquirer_id, 'sale', 'purchase', business_date, 1000, 10, 'CNY', 'r', merchant_id, merchant_id, 'visa',
      'credit', 'chip', '5812', '1111', '000000000001', '000001', now() FROM settlement, generate_series(1, 3)""",
    """INSERT INTO bank_account (bank_account_id, merchant_id, currency, holder, iban, key_id, sealed, last4, country, state, requested_by, approved_by, active_at)
    SELECT merchant_id, merchant_id, 'CNY', 'H', true, 'k', 's', '1234', 'DE', 'active', 'a', 'b', now() FROM merchant""",
    """INSERT INTO payout (merchant_id, payout_id, currency, amount, bank_account_id, end_to_end_id, requested_by)
    SELECT merchant_id, payout_id, 'CNY', net, merchant_id, replace(payout_id::text, '-', ''), 'a' FROM settlement WHERE payout_id IS NOT NULL""",
    "INSERT INTO account (account_id, kind, currency, merchant_id) SELECT id(3000 + n), 'merchant', 'CNY', id(1000 + n) FROM generate_series(1, 150) n",
    f"INSERT INTO account (account_id, kind, currency, acquirer_id) VALUES (id(4000), 'acquirer', 'CNY', '{ACQUIRER}')",
    "INSERT INTO account (account_id, kind, currency) VALUES (id(4001), 'fee', 'CNY')",
    """INSERT INTO transfer (transfer_id, debit_account, credit_account, amount, currency, cause, object, business_date, posting_key, note)
    SELECT id(5000000 + row_number() OVER (ORDER BY s.settlement_id, k)), CASE WHEN k % 2 = 0 THEN id(4000) ELSE a.account_id END,
      CASE WHEN k % 2 = 0 THEN a.account_id ELSE id(4001) END, 100, 'CNY', 'sales', 'set_' || s.settlement_id, s.business_date, s.settlement_id || ':' || k, ''
    FROM settlement s JOIN account a ON a.merchant_id = s.merchant_id, generate_series(1, 4) k""",
)


class Crowded(NamedTuple):
    owner: asyncpg.Connection
    reader: asyncpg.Connection


@pytest_asyncio.fixture(scope="module")
async def crowded(cluster_url: str) -> AsyncIterator[Crowded]:
    url = await create_database(cluster_url)
    owner = await asyncpg.connect(url)
    await database.migrate(url)
    await rows.insert(owner, "organisation", organisation_id=ORGANISATION, name="Crowded")
    await rows.insert(owner, "acquirer", acquirer_id=ACQUIRER, name="crowded", dialect="iso87_ascii", message_mode="single")
    await owner.execute("CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$")
    async with owner.transaction():
        for statement in HOUSE:
            await owner.execute(re.sub(r"\bid\(", "pg_temp.id(", statement))
    await owner.execute("VACUUM ANALYZE")
    reader = await database.connect(url, "switch_reader")
    yield Crowded(owner, reader)
    await reader.close()
    await owner.close()


ARGUMENTS: dict[str, tuple[str, tuple[Any, ...], int]] = {
    "a page of a merchant": (settlements.PAGE, (MERCHANT, True, None, None, None, None, None, PAGE), PAGE),
    "a page of a merchant and month": (settlements.PAGE, (MERCHANT, True, None, None, date(2026, 1, 1), date(2026, 1, 31), None, 200), DAYS),
    "a page of all merchants": (settlements.PAGE, (None, False, None, None, None, None, None, PAGE), PAGE),
    "one": (settlements.ONE, (UUID(int=1001001), MERCHANT, True), 1),
    "its lines": (settlements.LINES, (UUID(int=1001001), None, None, None, None, None, PAGE), 3),
    "what is due later": (settlements.NOT_DUE, (MERCHANT, LAST), 2),
    "the balances": (ledger.BALANCES, (MERCHANT, None, None), 4 * DAYS),
    "the newest transfers": (settlements.ENTRIES, (MERCHANT, None, None, None, None, None, PAGE), 2 * PAGE + 2),
    "transfers further back": (settlements.ENTRIES, (MERCHANT, "merchant", "CNY", None, None, UUID(int=5010000), PAGE), 2 * PAGE + 2),
    "the volume of the month": (metering.MONTH_TO_DATE, (MERCHANT, "CNY", date(2026, 1, 20)), 31),
    "whether the month was charged": (metering.CHARGED, (MERCHANT, "CNY", date(2026, 1, 20)), 31),
    "a page of payouts": (runs.PAGE, (MERCHANT, None, None, None, None, PAGE), PAGE),
    "what a merchant is to be paid": (runs.DUE, (MERCHANT, "CNY", LAST), 5 * DAYS),
    "one payout": (runs.ONE, (UUID(int=2_001_001), MERCHANT), 2),
}


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_it_reads_an_index_and_no_more_than_it_needs(crowded: Crowded, name: str) -> None:
    statement, arguments, most = ARGUMENTS[name]
    connection = crowded.owner if name == "what a merchant is to be paid" else crowded.reader
    plan = nodes(json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))[0]["Plan"])
    scans = [node for node in plan if node.get("Relation Name") in LARGE]
    assert not [node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"], name
    read = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
               for node in scans if node["Node Type"] != "Bitmap Index Scan")
    assert 0 < read <= most, f"{name} reads {read} rows"


async def test_a_page_of_transfers_is_the_newest_of_all_accounts(crowded: Crowded) -> None:
    every = await crowded.reader.fetch("SELECT e.transfer_id, e.amount FROM account a JOIN ledger_entry e USING (account_id) WHERE a.merchant_id = $1 ORDER BY 1 DESC", MERCHANT)
    before, found = None, []
    while page := await crowded.reader.fetch(settlements.ENTRIES, MERCHANT, None, None, None, None, before, 500):
        found += [(row["transfer_id"], row["amount"]) for row in page]
        before = page[-1]["transfer_id"]
    assert found == [tuple(row) for row in every] and len(found) == 4 * DAYS


async def test_the_cut_over_of_a_day_finds_what_waits_by_an_index(crowded: Crowded) -> None:
    plan = nodes(json.loads(await crowded.owner.fetchval(f"EXPLAIN (FORMAT JSON) {posting.WAITING}", ACQUIRER, LAST, "priced", 500))[0]["Plan"])
    assert "Seq Scan" not in {node["Node Type"] for node in plan}
