"""What merchants read of their money: settlements, their transactions, the balance and its history."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import DayText, FirstDay, From, LastDay, To, day_of, in_order
from switch.api.onboard import identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.settlement.cutover.settlements import PAGE_MAX, Balance, Settlements, Wanted, figures

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Currency = Annotated[str | None, Query(pattern="^[A-Z]{3}$")]
Brand = Annotated[str | None, Query(pattern="^[a-z]{1,20}$")]
AccountKind = Literal["merchant", "reserve", "hold", "payout", "dispute"]
Kind = Literal["sale", "refund", "adjustment"]


class ExtraFee(Shape):
    """What belongs to no transaction: monthly fees, and tax that the fees contain (negative: it is shown as tax)."""

    name: str
    amount: int
    monthly: bool


class ShownSettlement(Shape):
    """One business date of one acquirer in one currency. Minor units; `net` = sales - refunds + adjustments - fees - tax. `adjustments` is signed,
    the others are positive; `reserve_held` is what of the net is kept back until `reserve_release_on`. Beside the net, and in the balance at once,
    stand `disputes` (signed: chargebacks are negative, what a win brings back positive), `dispute_fees`, `corrections` (signed),
    `contract_charges` (what a contract charges once) and `deposits` (signed: negative when one is taken) of that date; a day on which only these
    moved has a settlement too. `priced_at`: with the tariffs and sales that were known then."""

    id: str
    merchant: str
    acquirer: str
    business_date: str
    currency: str
    state: Literal["priced", "posted", "stated"]
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int
    adjustments_count: int
    adjustments: int
    fees: int
    extra_fees: list[ExtraFee]
    tax: int
    net: int
    disputes: int
    dispute_fees: int
    corrections: int
    contract_charges: int
    deposits: int
    reserve_held: int
    reserve_release_on: str | None
    due_on: str
    payout: str | None
    priced_at: str
    stated_at: str | None


class SettlementPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownSettlement]
    next: str | None


class Line(Shape):
    """One transaction in a settlement. `gross` is signed, positive for the merchant; `fee` is positive when charged, and `rule` says how it came
    about. An adjustment names the day that it belongs to in `for_date`."""

    transaction: str
    kind: Kind
    type: str
    for_date: str
    gross: int
    fee: int
    net: int
    currency: str
    rule: str
    original: str | None
    store: str
    terminal: str
    brand: str
    card_type: str
    entry_mode: str
    card_last4: str
    rrn: str
    approval_code: str | None
    reference: str | None
    captured_at: str


class LinePage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[Line]
    next: str | None


class ShownBalance(Shape):
    """Minor units of one currency. `posted` is what we owe you by the ledger; `not_settled` is what was sold and given back on days that are not
    settled yet, and what moved after its day was, before fees. `not_due` is the part of `posted` that is paid out later, `disputed` what open
    disputes have taken of it already. `payable` is what is due today. `payable_reason` says why it is 0 (a negative balance is carried until later
    sales cover it), or why it is not paid out all the same: no bank account is agreed for the currency, or a payout to it came back; else null."""

    currency: str
    posted: int
    not_settled: int
    not_due: int
    next_due_on: str | None
    reserved: int
    on_hold: int
    in_payout: int
    disputed: int
    payable: int
    payable_reason: Literal["on_hold", "negative_carried", "nothing_due", "below_minimum", "no_bank_account", "account_suspended"] | None


class Balances(Shape):
    as_of: str
    items: list[ShownBalance]


class Entry(Shape):
    """One transfer seen from one of your accounts: `amount` is signed, positive for you. What moves between two of them is two entries."""

    id: str
    account: AccountKind
    amount: int
    currency: str
    cause: str
    object: str
    business_date: str
    posted_at: str
    note: str
    corrects: str | None


class EntryPage(Shape):
    """Newest first; `next` goes into `after`, null at the end. The two entries of one transfer are never on two pages."""

    items: list[Entry]
    next: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    settlements: Settlements


def _id(kind: str, text: str | None) -> UUID | None:
    return None if text is None else identified(kind, text)


def _shown_id(kind: str, identity: UUID | None) -> str | None:
    return None if identity is None else show(kind, identity)


def _settlement(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("settlement", row["settlement_id"]), "merchant": show("merchant", row["merchant_id"]),
            "acquirer": show("acquirer", row["acquirer_id"]), "state": row["state"], **figures(row),
            "payout": _shown_id("payout", row["payout_id"]), "priced_at": stamp(row["priced_at"]), "stated_at": stamp(row["stated_at"])}


def _line(row: asyncpg.Record) -> dict[str, Any]:
    plain = ("kind", "type", "gross", "fee", "currency", "rule", "brand", "card_type", "entry_mode", "card_last4", "rrn", "approval_code",
             "reference")
    return {"transaction": show("transaction", row["transaction_id"]), **{name: row[name] for name in plain}, "for_date": row["for_date"].isoformat(),
            "net": row["gross"] - row["fee"], "original": _shown_id("transaction", row["original_id"]), "store": show("store", row["store_id"]),
            "terminal": show("terminal", row["terminal_id"]), "captured_at": stamp(row["captured_at"])}


def _balance(balance: Balance) -> dict[str, Any]:
    told = {name: value for name, value in balance._asdict().items() if name != "reason"}
    return {**told, "next_due_on": _day(balance.next_due_on), "payable": balance.payable.amount, "payable_reason": balance.reason or None}


def _entry(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("transfer", row["transfer_id"]), "account": row["kind"], "business_date": row["business_date"].isoformat(),
            "posted_at": stamp(row["posted_at"]), "corrects": _shown_id("transfer", row["corrects"]),
            **{name: row[name] for name in ("amount", "currency", "cause", "object", "note")}}


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def whose(caller: Caller, merchant: str | None) -> UUID | None:
    """Whose money is asked for: a merchant's own, or what an operator names. Raises Problem: forbidden, not_found."""
    require(caller, "merchant", "operator")
    named = _id("merchant", merchant)
    if caller.role == "merchant" and named not in (None, caller.merchant_id):
        raise Problem("not_found")
    return caller.merchant_id or named


def one_merchant(caller: Caller, merchant: str | None) -> UUID:
    """Raises Problem invalid: an operator must say whose."""
    merchant_id = whose(caller, merchant)
    if merchant_id is None:
        raise Problem("invalid", "Say whose.", errors=[{"field": "merchant", "rule": "mer_..., for operators", "type": "missing"}])
    return merchant_id


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["settlement"], responses=refused(401, 403, 404, 422, 503))
    _settlements(routes, parts, identify)
    _balances(routes, parts, identify)
    return routes


def _settlements(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/settlements", summary="Settlements, newest first; operators also see those that are not stated yet",
                responses=shaped(200, "One page", SettlementPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, merchant: str | None = None, acquirer: str | None = None,
                   currency: Currency = None, since: FirstDay = None, until: LastDay = None) -> Response:
        caller = identify(request)
        first, last = day_of("from", since), day_of("to", until)
        in_order(first, last)
        wanted = Wanted(whose(caller, merchant), caller.role == "merchant", _id("acquirer", acquirer), currency, first, last,
                        _id("settlement", after))
        rows = await parts.settlements.page(wanted, limit + 1)
        more = len(rows) > limit
        return said({"items": [_settlement(row) for row in rows[:limit]],
                     "next": show("settlement", rows[limit - 1]["settlement_id"]) if more else None})

    @routes.get("/v1/settlements/{settlement}", summary="One settlement", responses=shaped(200, "The settlement", ShownSettlement))
    async def one(request: Request, settlement: str) -> Response:
        caller = identify(request)
        merchant_id, settlement_id = whose(caller, None), identified("settlement", settlement)
        return said(_settlement(await parts.settlements.one(settlement_id, merchant_id, caller.role == "merchant")))

    @routes.get("/v1/settlements/{settlement}/transactions", summary="The transactions of a settlement, newest first",
                responses=shaped(200, "One page", LinePage))
    async def lines(request: Request, settlement: str, limit: Limit = 50, after: str | None = None, store: str | None = None,
                    terminal: str | None = None, brand: Brand = None,
                    for_date: Annotated[DayText, Query(alias="date", description="The day that a line belongs to")] = None) -> Response:
        caller = identify(request)
        merchant_id, settlement_id = whose(caller, None), identified("settlement", settlement)
        rows = await parts.settlements.lines(
            settlement_id, merchant_id, caller.role == "merchant", limit + 1, store_id=_id("store", store), terminal_id=_id("terminal", terminal),
            brand=brand, for_date=day_of("date", for_date), before=_id("transaction", after))
        more = len(rows) > limit
        return said({"items": [_line(row) for row in rows[:limit]],
                     "next": show("transaction", rows[limit - 1]["transaction_id"]) if more else None})


def _balances(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/balance", summary="What a merchant has: posted, not yet settled, reserved, on hold, payable",
                responses=shaped(200, "One for each currency", Balances))
    async def balance(request: Request, merchant: str | None = None) -> Response:
        at, found = await parts.settlements.balances(one_merchant(identify(request), merchant))
        return said({"as_of": stamp(at), "items": [_balance(each) for each in found]})

    @routes.get("/v1/balance/history", summary="The transfers of a merchant's accounts, newest first", responses=shaped(200, "One page", EntryPage))
    async def history(request: Request, limit: Limit = 50, after: str | None = None, merchant: str | None = None, account: AccountKind | None = None,
                      currency: Currency = None, since: From = None, until: To = None) -> Response:
        in_order(since, until)
        rows = await parts.settlements.entries(
            one_merchant(identify(request), merchant), limit + 2, account=account, currency=currency, since=since, until=until,
            before=_id("transfer", after))
        shown = rows[:limit]
        if len(rows) > limit and rows[limit]["transfer_id"] == shown[-1]["transfer_id"]:
            shown = rows[:limit + 1]  # both sides of one transfer
        return said({"items": [_entry(row) for row in shown],
                     "next": show("transfer", shown[-1]["transfer_id"]) if len(rows) > len(shown) else None})
