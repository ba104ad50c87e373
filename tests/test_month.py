"""A whole month of two merchants through the books: sales, refunds, tips, late outcomes, disputes, a file that is wrong and one that is late, payouts,
a holiday and the end of summer time. Every figure is worked out by tests/month_figures.py, which imports nothing of ours."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest_asyncio
from settled import Row, Till, agree, open_till

from acquirer_stubs.clearing import Item, csv_lines
from switch import database
from switch.payments.transaction import Transaction
from switch.security.vault import Keyring, Vault
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.notices import Notice
from switch.settlement.funding.calendar import cut_over
from switch.settlement.payouts import runs as payouts
from switch.settlement.reconciliation import runs as reconciliations
from switch.settlement.reconciliation.exceptions import Exceptions
from switch.settlement.reconciliation.intake import Intake
from tests import month_figures as month
from tests.snapshots import wrong

MIDNIGHT = 1440
CAUSES = {"chargeback": "chargebacks", "chargeback_won": "chargebacks_back", "dispute_fee": "dispute_fees", "payout_requested": "payout", "reserve_released": "released",
          "reconciliation_adjust": "corrections", "reconciliation_correction": "corrections"}
ENTRIES = """SELECT e.business_date AS day, a.kind, e.cause, sum(e.amount)::bigint AS amount FROM ledger_entry e JOIN account a USING (account_id)
WHERE a.merchant_id = $1 GROUP BY 1, 2, 3 ORDER BY 1"""


class House:
    """Two tills at one acquirer, and what happened to them: each event on the day that is open, and days cut over when the wall clock says so."""

    def __init__(self, tills: dict[str, Till], pool: database.Pool) -> None:
        self.tills, self.pool, self.day = tills, pool, month.FIRST
        self.sales: dict[int, Transaction] = {}
        self.cleared: list[tuple[str, Transaction]] = []  # what the acquirer clears of the day of its file
        self.found: dict[str, tuple[datetime, set[tuple[str, int, int]]]] = {}  # what did not agree, and when

    @property
    def acquirer(self) -> UUID:
        return self.tills["anna"].acquirer

    async def until(self, instant: datetime) -> None:
        while cut_over(self.day, MIDNIGHT, month.BERLIN) <= instant:
            self.day = (await self.tills["anna"].cut()).next_date
            for till in self.tills.values():
                till.day = self.day
            await self.reconcile()
            for till in self.tills.values():
                if self.day <= month.LAST:
                    await payouts.run(self.pool, "switch", merchant_id=till.merchant, today=self.day)

    async def play(self, event: month.Event) -> None:
        if event["what"] in ("file", "late file"):
            await self.bring(event["what"], event["at"])
            return
        till, about = self.tills[event["who"]], event.get("of", event.get("id"))
        of = self.sales.get(about)
        match event["what"]:
            case "sale":
                row = self.sales[about] = await till.new(amount=event["amount"], received_at=event["at"])
                if not event.get("late"):
                    await till.step(row, "APPROVED", capturable=event["amount"] + 500)
                self.clear("sale", row)
            case "tip" | "refund":
                assert of is not None
                self.clear(event["what"], await till.follow(of, event["what"], event["amount"], received_at=event["at"]))
            case "approved" | "declined":
                assert of is not None
                await till.step(of, event["what"].upper(), **({} if event["what"] == "approved" else {"outcome": "DECLINED", "response_code": "51"}))
            case "undone":
                assert of is not None
                await till.step(of, "REVERSING", captured=0)
                await till.step(of, "REVERSED")
            case _:
                assert of is not None
                await self.dispute(of, event)

    def clear(self, what: str, row: Transaction) -> None:
        if row.business_date == month.FILE_OF:
            self.cleared.append((what, row))

    async def dispute(self, of: Transaction, event: month.Event) -> None:
        opens = event["what"] == "chargeback"
        notice = Notice(event["what"], f"CB-{event['of']}", of.transaction_id if opens else None, None, event["amount"], "CNY", "4853", month.local_day(event["at"]))
        async with self.pool.acquire() as connection, connection.transaction():
            _, new = await Cases().notice(connection, self.acquirer, notice, "operator", event["at"])
            assert new

    async def bring(self, which: str, at: datetime) -> None:
        """The acquirer's file of the day; a person moves what differs to its merchant. The late one has the line that was left out."""
        lacks, more = (self.sales[month.left_out(month.events(), who)["id"]].transaction_id for who in month.MERCHANTS)
        if which == "late file":
            self.found["before the late file"] = at, await self.exceptions()
        items = [Item(row.rrn, row.stan, row.card_acceptor_terminal, row.card_acceptor, f"A{number:05d}", "R" if what == "refund" else "S",
                      row.amount + (month.TOO_MUCH if row.transaction_id == more else 0), "156", 0, month.FILE_OF.isoformat(), f"REF{number}")
                 for number, (what, row) in enumerate(self.cleared) if (row.transaction_id == lacks) == (which == "late file")]

        async def chunks() -> AsyncIterator[bytes]:
            yield "".join(csv_lines(items, "acquirer", month.FILE_OF.isoformat(), 1 + (which == "late file"))).encode()

        await Intake(self.connect).take("clearing", self.acquirer, ["acquirer"], "f", chunks(), "Li Wei")
        await self.reconcile()
        self.found[f"after the {which}"] = at, await self.exceptions()
        desk = Exceptions(self.pool)
        for row in await self.pool.fetch("SELECT exception_id FROM reconciliation_exception WHERE state = 'open' AND merchant_id IS NOT NULL"):
            await desk.resolve(row[0], await desk.asked(row[0], "adjust"), "Li Wei", "the merchant was settled with the wrong amount")

    async def exceptions(self) -> set[tuple[str, int, int]]:
        """What does not agree just now; all of it is about the day of the file."""
        rows = await self.pool.fetch("SELECT kind, business_date, rrn, difference FROM reconciliation_exception WHERE state <> 'withdrawn'")
        assert {row["business_date"] for row in rows} <= {month.FILE_OF}
        known = {row.rrn: number for number, row in self.sales.items()}
        return {(row["kind"], known[row["rrn"]], row["difference"]) for row in rows}

    async def reconcile(self) -> None:
        connection = await self.connect()
        try:
            await reconciliations.finish(connection)
        finally:
            await connection.close()

    async def connect(self) -> database.Connection:
        return await database.connect(self.tills["anna"].url, "switch_writer")

    async def days_of(self, till: Till) -> dict[str, dict[str, Any]]:
        """As month_figures says them, from settlements and the ledger."""
        shown: dict[str, dict[str, Any]] = {}
        stands = {"merchant": 0, "reserve": 0, "payout": 0}
        entries = await till.fetch(ENTRIES, till.merchant)
        settlements: list[Row] = [each for each in await till.settlements() if each["merchant_id"] == till.merchant]
        for settlement in settlements:
            moved = dict.fromkeys(CAUSES.values(), 0)
            for entry in (each for each in entries if each["day"] == settlement["business_date"]):
                if entry["kind"] in stands:
                    stands[entry["kind"]] += entry["amount"]
                if entry["kind"] == "merchant" and entry["cause"] in CAUSES:
                    moved[CAUSES[entry["cause"]]] += entry["amount"]
            shown[settlement["business_date"].isoformat()] = {
                **{name: settlement[name] for name in ("sales", "refunds", "adjustments", "fees", "tax", "net")}, "reserve": settlement["reserve_held"],
                "due": settlement["due_on"].isoformat(), **moved, **{name: -moved[name] for name in ("chargebacks", "dispute_fees", "payout")},
                "balance": stands["merchant"], "held_back": stands["reserve"], "under_way": stands["payout"]}
        return shown


@pytest_asyncio.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    tills: dict[str, Till] = {}
    for number, (who, terms) in enumerate(month.MERCHANTS.items()):
        tills[who] = till = await open_till(
            database_url, owner=tills["anna"].owner if tills else None, day=month.FIRST, calendar="daily", funding_days=terms.funding_days,
            reserve_basis_points=terms.reserve_basis_points, reserve_days=terms.reserve_days, minimum_payout=terms.minimum_payout)
        till.acquirer, till.number = tills["anna"].acquirer, 100_000 * number  # RRNs of one acquirer
        price = {"basis_points": terms.basis_points, "fixed": terms.fixed, "minimum": terms.minimum}
        await agree(till, {"name": who, "currency": "CNY", "rounding": "half_even", "refunds": {"returns": "none"}, "rules": [{"name": "All", "price": price}],
                           "tax": {"name": "VAT", "basis_points": terms.tax_basis_points}})
        key_id, sealed = Vault(Keyring("k1", "t1", {"k1": bytes(32), "t1": bytes(range(32))})).seal_row("bank_account", b"x", till.merchant.bytes)
        await till.owner.execute("""INSERT INTO bank_account (bank_account_id, merchant_id, currency, holder, iban, key_id, sealed, last4, country, state,
            requested_by, approved_by, active_at) VALUES ($1, $1, 'CNY', 'Till', true, $2, $3, '0001', 'CN', 'active', 'a', 'b', now())""", till.merchant, key_id, sealed)
    owner = tills["anna"].owner
    await owner.execute("INSERT INTO calendar (calendar, weekend) VALUES ('berlin', '{6,7}')")
    await owner.execute("INSERT INTO business_calendar (calendar, day, kind) VALUES ('berlin', $1, 'holiday')", month.HOLIDAY)
    await owner.execute("UPDATE merchant SET calendar = 'berlin' WHERE merchant_id = $1", tills["anna"].merchant)
    await owner.execute("INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost) VALUES ($1, 'chargeback', 'CNY', $2, 0)", tills["anna"].acquirer, month.DISPUTE_FEE)
    pool = await database.pool(database_url, "switch_writer", 2)
    yield House(tills, pool)
    await pool.close()
    await owner.close()


async def test_the_month_comes_to_what_was_worked_out_by_itself(house: House) -> None:
    happened = month.events()
    kinds = {who: [event["what"] for event in happened if event.get("who") == who] for who in month.MERCHANTS}
    assert all(kinds[who].count(kind) >= 2 for who in kinds for kind in ("sale", "tip", "refund", "approved", "declined", "undone", *month.DISPUTES)), "something of everything"
    wanted = month.figures(happened)
    for event in happened:
        await house.until(event["at"])
        assert house.day == month.local_day(event["at"]), "the day that is open is the day in Berlin"
        await house.play(event)
    await house.until(cut_over(month.LAST, MIDNIGHT, month.BERLIN))
    for who, till in house.tills.items():
        found = await house.days_of(till)
        assert [*found] == [*wanted["merchants"][who]]
        for day, books in found.items():
            assert books == wanted["merchants"][who][day], (who, day)
    anna = house.tills["anna"]
    assert (await anna.balance("fee"), await anna.balance("tax"), await anna.balance("acquirer")) == (wanted["fees"], wanted["tax"], wanted["acquirer"])
    assert await wrong(anna.owner) == {}
    for which, (at, found_then) in house.found.items():
        assert found_then == month.differences(happened, at, which == "after the late file"), which
    assert len(house.found["after the file"][1]) > len(house.found["before the late file"][1]) > len(house.found["after the late file"][1]), "an outcome, and a file"


def test_the_month_has_a_day_of_disputes_alone() -> None:
    assert {event["what"] for event in month.events() if event.get("who") == "boris" and month.local_day(event["at"]) == month.SHUT} <= {*month.DISPUTES}
    day = month.figures(month.events())["merchants"]["boris"][month.SHUT.isoformat()]
    assert day["chargebacks"] > 0 and day["dispute_fees"] > 0 and (day["sales"], day["net"]) == (0, 0)


def test_the_month_has_the_day_of_25_hours_and_sales_in_the_hour_that_comes_on_top() -> None:
    sold = [event["at"] for event in month.events() if event["what"] == "sale"]
    last_hour = [at for at in sold if at.date().isoformat() == "2026-10-25" and at.hour == 22]
    assert last_hour and all(month.local_day(at).isoformat() == "2026-10-25" for at in last_hour), "23:xx in Berlin, and the day before it was 00:xx"
    assert any(at.hour == 22 and month.local_day(at) > at.date() for at in sold)
