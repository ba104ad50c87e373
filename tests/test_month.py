"""A whole month through the books: sales, refunds, tips, late outcomes, a holiday and the end of summer time. Its figures are worked out by
tests/month_figures.py, which imports nothing of ours."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest_asyncio
from settled import Till, open_till

from switch.payments.transaction import Transaction
from switch.settlement.funding.calendar import cut_over
from tests import month_figures as month

MIDNIGHT = 1440


@pytest_asyncio.fixture
async def till(database_url: str) -> AsyncIterator[Till]:
    opened = await open_till(database_url, basis_points=month.BASIS_POINTS, day=month.FIRST, calendar="daily", funding_days=month.FUNDING_DAYS,
                             reserve_basis_points=month.RESERVE_BASIS_POINTS, reserve_days=month.RESERVE_DAYS)
    await opened.owner.execute("INSERT INTO calendar (calendar, weekend) VALUES ('berlin', '{6,7}')")
    await opened.owner.execute("INSERT INTO business_calendar (calendar, day, kind) VALUES ('berlin', $1, 'holiday')", month.HOLIDAY)
    await opened.owner.execute("UPDATE merchant SET calendar = 'berlin' WHERE merchant_id = $1", opened.merchant)
    yield opened
    await opened.owner.close()


class Till31:
    """Plays events into the books: each on the day that is open, and days are cut over when the wall clock says so."""

    def __init__(self, till: Till) -> None:
        self.till = till
        self.sales: dict[int, Transaction] = {}

    async def until(self, instant: datetime) -> None:
        while cut_over(self.till.day, MIDNIGHT, month.BERLIN) <= instant:
            await self.till.cut()

    async def play(self, event: month.Event) -> None:
        till, of = self.till, self.sales.get(event.get("of", 0))
        match event["what"]:
            case "sale":
                row = self.sales[event["id"]] = await till.new(amount=event["amount"], received_at=event["at"])
                if not event.get("late"):
                    await till.step(row, "APPROVED", capturable=event["amount"] + 500)
            case "tip":
                assert of is not None
                await till.follow(of, "tip", event["amount"], received_at=event["at"])
            case "refund":
                assert of is not None
                await till.follow(of, "refund", event["amount"], received_at=event["at"])
            case "approved":
                assert of is not None
                await till.step(of, "APPROVED")
            case "declined":
                assert of is not None
                await till.step(of, "DECLINED", outcome="DECLINED", response_code="51")
            case "undone":
                assert of is not None
                await till.step(of, "REVERSING", captured=0)
                await till.step(of, "REVERSED")


async def test_the_month_comes_to_what_was_worked_out_by_itself(till: Till) -> None:
    happened = month.events()
    kinds = [event["what"] for event in happened]
    assert all(kinds.count(kind) >= 5 for kind in ("sale", "tip", "refund", "approved", "declined", "undone")), "a month with something of everything"
    wanted, played = month.figures(happened), Till31(till)
    for event in happened:
        await played.until(event["at"])
        assert till.day == month.local_day(event["at"]), "the day that is open is the day in Berlin"
        await played.play(event)
    await played.until(cut_over(month.LAST, MIDNIGHT, month.BERLIN))
    found = {each["business_date"].isoformat(): {
        "sales": each["sales"], "refunds": each["refunds"], "adjustments": each["adjustments"], "fees": each["fees"], "net": each["net"],
        "reserve": each["reserve_held"], "due": each["due_on"].isoformat()} for each in await till.settlements()}
    assert found == wanted["days"]
    assert (await till.balance(), await till.balance("reserve"), await till.balance("fee")) == (wanted["owed"], wanted["reserve"], wanted["fees"])
    assert sum([await till.balance(kind) for kind in ("merchant", "reserve", "fee", "acquirer")]) == 0
    lines = await till.lines()
    assert {line["for_date"] - line["business_date"] for line in lines if line["kind"] == "adjustment"} >= {timedelta(days=-1), timedelta(days=-2)}
    assert {each["business_date"]: each["net"] for each in await till.settlements()} == {
        day: sum(line["gross"] - line["fee"] for line in lines if line["business_date"] == day) for day in {line["business_date"] for line in lines}}


def test_the_month_has_the_day_of_25_hours_and_sales_in_the_hour_that_comes_on_top() -> None:
    sold = [event["at"] for event in month.events() if event["what"] == "sale"]
    last_hour = [at for at in sold if at.date().isoformat() == "2026-10-25" and at.hour == 22]
    assert last_hour and all(month.local_day(at).isoformat() == "2026-10-25" for at in last_hour), "23:xx in Berlin, and the day before it was 00:xx"
    assert any(at.hour == 22 and month.local_day(at) > at.date() for at in sold)
