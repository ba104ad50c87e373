"""Contracts over HTTP with a real PostgreSQL: drawn up, offered, signed on both sides, in force in prices, payouts and sales, amended and ended."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest
import pytest_asyncio

from switch.merchants.contracts import standard
from switch.merchants.contracts.days import END, Days, keep
from switch.settlement.jobs.table import NotYet
from tests.flows import Shop, eventually, open_shop
from tests.hands import signature
from tests.processes import Answer, Caller
from tests.test_openapi import fits

ZONE = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)


def today() -> date:
    return datetime.now(ZONE).date()


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("contracts")) as opened:
        opened.keys["second"] = (await opened.ask("POST", "/v1/keys", {"role": "operator", "person": "Second Person"}, "administrator")).body["key"]
        await opened.caught_up()
        yield opened


async def upload(shop: Shop, path: str, content: bytes, key: str, media: str = "image/png") -> Answer:
    caller = Caller()
    try:
        return await caller.ask(shop.base, "\r\n".join([
            f"POST {path} HTTP/1.1", "Host: switch", f"Authorization: Bearer {shop.keys.get(key, key)}", f"Content-Length: {len(content)}",
            f"Content-Type: {media}"]).encode() + b"\r\n\r\n" + content)
    finally:
        caller.close()


class Deal:
    """A contract as both sides see it."""

    def __init__(self, shop: Shop, who: str, ident: str) -> None:
        self.shop, self.id, self.owner = shop, ident, f"merchant.{who}"

    async def ask(self, method: str, path: str = "", body: object = None, key: str = "operator") -> Answer:
        return await self.shop.ask(method, f"/v1/contracts/{self.id}{path}", body, key)

    async def now(self, key: str = "operator") -> Any:
        return (await self.ask("GET", key=key)).body

    async def offer(self, key: str = "operator", version: int | None = None) -> Answer:
        return await self.ask("POST", "/offer", {"version": version or (await self.now())["version"], "reason": "As agreed"}, key)

    async def sign(self, key: str, *, digest: str = "", image: bytes = b"", name: str = "Wang%20Fang", media: str = "image/png") -> Answer:
        digest = digest or (await self.now())["documents"][-1]["sha256"]
        return await upload(self.shop, f"/v1/contracts/{self.id}/signature?sha256={digest}&name={name}", image or signature(), key, media)

    async def signed(self) -> Any:
        assert (await self.offer()).status == 200
        assert (await self.sign(self.owner)).status == 200
        answer = await self.sign("operator", name="Li%20Wei", image=signature(seed=2))
        assert answer.status == 200, answer.raw
        return answer.body


async def account(shop: Shop, who: str, *, agreed: bool = True) -> str:
    merchant = shop.shown(f"merchant.{who}")
    asked = await shop.ask("PUT", f"/v1/merchants/{merchant}/bank-account", {
        "currency": "CNY", "holder": f"Merchant {who}", "country": "CN", "account_number": f"62000{merchant[-8:]}".replace("-", "0")[:12].translate(str.maketrans("abcdef", "012345")),
        "bank_code": "102290000012", "reason": "By a signed letter"}, "operator")
    assert asked.status == 202, asked.raw
    if agreed:
        assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")).status == 200
    return str(asked.body["payload"]["bank_account"])


def terms(account_: str, starts: date, **changed: Any) -> dict[str, Any]:
    """Standard terms; `changed` are members of any group."""
    made = deepcopy(standard.terms("CNY", "CN", account_, starts))
    for name, value in changed.items():
        group = next((each for each in (made["term"], made["settlement"], made) if name in each), made)
        group[name] = value
    return made


async def drawn(shop: Shop, who: str, document: dict[str, Any]) -> Deal:
    answer = await shop.ask("POST", f"/v1/merchants/{shop.shown(f'merchant.{who}')}/contracts", {"terms": document}, "operator")
    assert answer.status == 201, answer.raw
    return Deal(shop, who, answer.body["id"])


async def test_a_contract_is_offered_signed_by_both_and_in_force(shop: Shop) -> None:
    ident = await account(shop, "four")
    deal = await drawn(shop, "four", terms(ident, today(), funding_days=3, once=[{"name": "Terminal purchase", "amount": 80_000, "count": 2}], deposit=50_000))
    assert (await deal.ask("GET", key="merchant.four")).status == 404  # a draft is the provider's own
    assert (await deal.sign("merchant.four")).status == 404
    assert (await deal.sign("operator")).body["code"] == "contract_move"
    assert (await deal.offer()).body["waits_for"] == "merchant"
    page = await deal.ask("GET", "/document", key="merchant.four")
    assert page.headers["content-disposition"].startswith("attachment") and "商户收单服务合同".encode() in page.raw
    assert hashlib.sha256(page.raw).hexdigest() == (await deal.now("merchant.four"))["documents"][-1]["sha256"]
    assert (await deal.sign("operator")).body["code"] == "contract_move"  # the merchant signs first
    signed = await deal.sign("merchant.four")
    assert signed.status == 200 and signed.body["state"] == "signed_by_merchant", signed.raw
    again = await deal.sign("merchant.four")
    assert again.status == 200 and again.body["version"] == signed.body["version"]
    done = await deal.sign("operator", name="Li%20Wei", image=signature(seed=2))
    assert done.status == 200 and done.body["state"] == "in_force", done.raw
    assert [(event["event"], event["by"]) for event in done.body["events"]] == [
        ("draw_up", "Flow Tester"), ("offer", "Flow Tester"), ("sign", "merchant"), ("countersign", "Flow Tester"), ("begin", "switch")]
    assert {(each["side"], each["name"], each["sha256"]) for each in done.body["signatures"]} == {
        ("merchant", "Wang Fang", hashlib.sha256(page.raw).hexdigest()), ("provider", "Li Wei", hashlib.sha256(page.raw).hexdigest())}
    merchant = shop.shown("merchant.four")
    (tariff, *_) = (await shop.ask("GET", f"/v1/merchants/{merchant}/tariffs", key="operator")).body["items"]
    assert (tariff["id"], tariff["effective_from"], tariff["terms"]) == (done.body["tariff"], today().isoformat(), standard.tariff("CNY"))
    assert (await shop.ask("GET", f"/v1/merchants/{merchant}/funding", key="operator")).body["funding_days"] == 3
    posted = await shop.sql("SELECT cause, amount, note FROM transfer WHERE object = $1 OR note LIKE $2 ORDER BY amount", deal.id, f"%{deal.id}%")
    assert [(row["cause"], row["amount"]) for row in posted] == [("hold_placed", 50_000), ("contract_charge", 160_000)]
    direct = await shop.ask("POST", f"/v1/merchants/{merchant}/tariffs", {"effective_from": "2031-01-01", "terms": standard.tariff("CNY")}, "operator")
    assert direct.status == 409 and direct.body["code"] == "conflict"  # a contract says what it pays
    assert (await deal.ask("GET", "/signatures/merchant", key="merchant.four")).raw == signature()
    seen = await deal.ask("GET", key="merchant.four")
    notices = (await shop.ask("GET", "/v1/notices?language=zh", key="merchant.four")).body["items"]
    assert {each["kind"]: each["title"] for each in notices if deal.id in each["text"]} == {"contract.offered": "合同待签", "contract.in_force": "合同已生效"}
    assert b"Flow Tester" not in seen.raw and all(event["detail"] == {} for event in seen.body["events"])
    pdf = await deal.ask("GET", "/document?format=pdf", key="merchant.four")
    assert pdf.raw.startswith(b"%PDF") or pdf.body["code"] == "no_pdf"
    file = (await shop.ask("GET", "/openapi.json")).body
    for key in ("operator", "merchant.four"):
        fits(file, "get", "/v1/contracts/{contract}", await deal.ask("GET", key=key))
        fits(file, "get", "/v1/contracts", await shop.ask("GET", "/v1/contracts?state=in_force", key=key))


async def test_another_versions_hash_is_not_signed_and_no_bad_image_is(shop: Shop) -> None:
    ident = await account(shop, "three")
    deal = await drawn(shop, "three", terms(ident, today()))
    old = (await deal.now())["documents"][0]["sha256"]
    assert (await deal.offer()).status == 200
    assert (await deal.sign("merchant.three")).body["state"] == "signed_by_merchant"
    revised = await deal.ask("PUT", "/terms", {"terms": terms(ident, today(), notice_days=60), "reason": "A longer notice"})
    assert (revised.body["state"], revised.body["document"], len(revised.body["signatures"])) == ("draft", 2, 1)
    assert (await deal.offer()).status == 200
    for digest, words in ((old, "document 1"), ("0" * 64, "no document")):
        refused = await deal.sign("merchant.three", digest=digest)
        assert refused.status == 409 and refused.body["code"] == "contract_other_document" and words in refused.body["detail"]
    for image in (b"\x89PNG", signature()[:-1], signature(blank=True), b"<svg/>" * 10):
        answer = await deal.sign("merchant.three", image=image)
        assert answer.status == 422 and answer.body["code"] == "signature_refused", answer.raw
    assert (await deal.sign("merchant.three", image=b"x" * 100_001)).status == 413
    assert (await deal.sign("merchant.three", media="image/jpeg")).status == 415
    assert (await deal.sign("merchant.three", digest="x")).status == 422 and (await deal.sign("merchant.three", name="%0A")).status == 422
    assert (await deal.sign("merchant.three")).body["state"] == "signed_by_merchant"
    assert (await deal.now())["signatures"][0]["sha256"] == old  # and the one of before stays
    refused = await deal.ask("POST", "/refuse", {"reason": "Too late"}, "merchant.three")
    assert refused.body["code"] == "contract_move" and "withdraw" in refused.body["detail"]
    stored = await shop.sql("SELECT sealed FROM contract_signature WHERE contract_id = $1", UUID(deal.id[4:]))
    assert len(stored) == 2 and not any(b"PNG" in row["sealed"] or b"IDAT" in row["sealed"] for row in stored)
    assert (await deal.ask("POST", "/withdraw", {"reason": "Starts anew"})).body["state"] == "withdrawn"


async def test_below_the_standard_terms_two_people_offer_it(shop: Shop) -> None:
    ident = await account(shop, "three")
    cheap = terms(ident, today())
    cheap["tariff"]["rules"][0]["price"]["basis_points"] = 59
    deal = await drawn(shop, "three", cheap)
    asked = await deal.offer()
    assert asked.status == 202 and asked.body["payload"]["below_standard"], asked.raw
    assert (await deal.now())["state"] == "draft"
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="operator")).body["code"] == "same_person"
    done = await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")
    assert done.status == 200, done.raw
    last = (await deal.now())["events"][-1]
    assert (last["event"], last["by"], last["detail"]["agreed_by"]) == ("offer", "Flow Tester", "Second Person")
    await deal.ask("PUT", "/terms", {"terms": cheap, "reason": "Again"})
    asked = await deal.offer()
    await deal.ask("PUT", "/terms", {"terms": terms(ident, today(), deposit=1), "reason": "Otherwise"})
    late = await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")
    assert late.body["code"] == "contract_changed"  # what was looked at is no more
    assert (await deal.ask("POST", "/withdraw", {"reason": "Done"})).status == 200


BAD: list[tuple[str, Any, str]] = [
    ("tariff", {"name": "x"}, "terms/tariff/currency"), ("until", "2020-01-01", "terms/term/until"), ("account", "bac_x", "terms/settlement/account"),
    ("calendar", "nowhere", "terms/settlement/calendar"), ("services", [], "terms.services"), ("currency", "EUR", "terms/tariff/currency"),
    ("notice_days", -1, "terms.term.notice_days"), ("SECRET", 1, "terms.(unknown field)"),
]


async def test_what_cannot_be_agreed_is_refused_by_its_place(shop: Shop) -> None:
    ident, path = await account(shop, "three"), f"/v1/merchants/{shop.shown('merchant.three')}/contracts"
    for name, value, place in BAD:
        answer = await shop.ask("POST", path, {"terms": terms(ident, today(), **{name: value})}, "operator")
        assert answer.status == 422 and place in [error["field"] for error in answer.body["errors"]] and b"SECRET" not in answer.raw, (name, answer.raw)
    late = await drawn(shop, "three", terms(ident, today() - DAY))  # a draft may wait, an offer may not
    assert (await late.offer()).body["errors"][0]["field"] == "terms/term/from"
    assert (await shop.ask("POST", path, {"terms": terms(ident, today())}, "operator")).body["code"] == "already_exists"
    foreign = await account(shop, "two")
    assert (await late.ask("PUT", "/terms", {"terms": terms(foreign, today()), "reason": "Another's"})).body["errors"][0]["field"] == "terms/settlement/account"
    assert (await late.ask("POST", "/withdraw", {"reason": "Over"})).status == 200


async def test_another_merchants_contract_is_absent_on_every_route(shop: Shop) -> None:
    deal = await drawn(shop, "three", terms(await account(shop, "three"), today()))
    assert (await deal.offer()).status == 200
    digest = (await deal.now())["documents"][-1]["sha256"]
    for method, path, body in (("GET", "", None), ("GET", "/document", None), ("GET", "/signatures/merchant", None), ("POST", "/refuse", {"reason": "Mine"}),
                               ("POST", "/end", {"last_day": "2099-01-01", "reason": "Mine"})):
        assert (await deal.ask(method, path, body, "merchant.one")).status == 404, path
        assert (await deal.ask(method, path, body, "till")).status == 403, path
    assert (await deal.sign("merchant.one", digest=digest)).status == 404
    for method, path, body in (("PUT", "/terms", {}), ("POST", "/offer", {}), ("POST", "/withdraw", {})):
        assert (await deal.ask(method, path, body, "merchant.three")).status == 403, path
    assert deal.id in [each["id"] for each in (await shop.ask("GET", "/v1/contracts", key="merchant.three")).body["items"]]
    assert deal.id not in [each["id"] for each in (await shop.ask("GET", "/v1/contracts", key="merchant.one")).body["items"]]
    assert (await shop.ask("GET", f"/v1/contracts?merchant={shop.shown('merchant.three')}", key="merchant.one")).status == 404
    assert (await deal.ask("POST", "/refuse", {"reason": "Too dear"}, "merchant.three")).body["state"] == "refused"


async def test_an_account_that_nobody_agreed_stops_it_until_two_people_have(shop: Shop) -> None:
    ident = await account(shop, "three", agreed=False)
    (approval,) = [each for each in (await shop.ask("GET", "/v1/approvals?state=waiting", key="operator")).body["items"] if each["payload"].get("bank_account") == ident]
    assert (await shop.ask("POST", f"/v1/approvals/{approval['id']}/refuse", key="second")).status == 200
    deal = await drawn(shop, "three", terms(ident, today()))
    assert (await deal.offer()).status == 200 and (await deal.sign("merchant.three")).status == 200
    assert (await deal.sign("operator")).body["code"] == "contract_account"
    path = f"/v1/merchants/{shop.shown('merchant.three')}/bank-account"
    asked = await shop.ask("POST", f"{path}/agreement", {"currency": "CNY", "reason": "By its statement"}, "operator")
    assert asked.status == 202 and asked.body["payload"]["bank_account"] == ident, asked.raw
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="operator")).body["code"] == "same_person"
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")).status == 200
    assert (await shop.ask("GET", path, key="merchant.three")).body["items"][0]["id"] == ident
    assert (await shop.ask("POST", f"{path}/agreement", {"currency": "CNY", "reason": "By its statement"}, "operator")).status == 404
    assert (await deal.sign("operator")).body["state"] == "in_force"
    early = await deal.ask("POST", "/end", {"last_day": (today() + 29 * DAY).isoformat(), "reason": "We close"}, "merchant.three")
    assert early.status == 409 and early.body["code"] == "contract_terms"
    assert (await deal.ask("POST", "/end", {"reason": "We close"}, "merchant.three")).status == 422
    given = await deal.ask("POST", "/end", {"last_day": (today() + 30 * DAY).isoformat(), "reason": "We close"}, "merchant.three")
    assert given.body["state"] == "in_force" and given.body["until"] == (today() + 30 * DAY).isoformat(), given.raw
    assert [(row["amount"], row["cause"]) for row in await shop.sql("SELECT amount, cause FROM transfer WHERE object = $1", deal.id)] == [(30_000, "contract_charge")]
    later = await deal.ask("POST", "/end", {"last_day": (today() + 31 * DAY).isoformat(), "reason": "Later"})
    assert later.body["code"] == "contract_terms"


async def cut_over(shop: Shop, day: date, acquirer: str = "acquirer.single") -> None:
    path = f"/v1/acquirers/{shop.shown(acquirer)}/cutovers"
    assert (await shop.ask("POST", path, {"business_date": day.isoformat()}, "operator")).status == 202

    async def ended() -> bool:
        shown = (await shop.ask("GET", f"{path}?business_date={day}", key="operator")).body["items"]
        return bool(shown and shown[0]["ended_at"])

    await eventually(ended, "the cut-over does not end", 20)
    await shop.caught_up()


async def test_a_sale_is_priced_by_the_contract_that_was_in_force_and_the_estimate_is_the_bill(shop: Shop) -> None:
    def open_day() -> date:
        return shop.switch.directory.acquirers[shop.ids["acquirer.single"]].business_date

    while (day := open_day()) < today():  # the acquirer's day may end after the merchant's
        await cut_over(shop, day)
    ident = await account(shop, "one")
    first = await drawn(shop, "one", terms(ident, day))
    await first.signed()
    sold = {day: [(await shop.pay(amount)).body["id"] for amount in (10_000, 33_330)]}
    dearer = terms(ident, day)
    dearer["tariff"] |= {"name": "Dearer", "rules": [{"name": "All cards", "price": {"basis_points": 200, "minimum": 50}},
                                                     {"name": "QR codes", "match": {"method": "qr"}, "price": {"basis_points": 200, "minimum": 50}}]}
    second = await drawn(shop, "one", dearer | {"term": {**dearer["term"], "from": today().isoformat()}})
    assert (await second.now())["amends"] == first.id
    assert (await second.offer()).status == 200 and (await second.sign("merchant.one")).status == 200
    sooner = await second.sign("operator")
    assert sooner.status == 409 and sooner.body["code"] == "contract_terms", sooner.raw  # what is sold today keeps its price
    follows = day + DAY
    await second.ask("PUT", "/terms", {"terms": dearer | {"term": {**dearer["term"], "from": follows.isoformat()}}, "reason": "From the next day"})
    done = await second.signed()
    assert done["state"] == "in_force" and done["begun_at"] is None  # its day has not come
    assert (await first.now())["state"] == "amended"
    sold[day] += [(await shop.pay(20_000)).body["id"]]
    await cut_over(shop, day)
    sold[follows] = [(await shop.pay(amount)).body["id"] for amount in (10_000, 100)]
    await cut_over(shop, follows)
    lines = {row["transaction_id"]: row for row in await shop.sql("SELECT transaction_id, fee, rule, for_date, gross FROM settlement_line WHERE merchant_id = $1", shop.ids["merchant.one"])}
    for on, wanted in sold.items():
        rows = [lines[UUID(ident[4:])] for ident in wanted]
        answer = await shop.ask("POST", "/v1/fees/estimates", {"transactions": [
            {"amount": row["gross"], "currency": "CNY", "business_date": on.isoformat(), "brand": "unionpay", "card_type": "unknown", "entry_mode": "manual"} for row in rows]}, "merchant.one")
        estimated = answer.body["transactions"]
        assert [(each["fee"], each["rule"]) for each in estimated] == [(row["fee"], row["rule"]) for row in rows]
        assert {row["rule"].partition(":")[0] for row in rows} == {"Standard" if on == day else "Dearer"}
    assert [lines[UUID(ident[4:])]["fee"] for ident in sold[follows]] == [200, 50]


async def test_an_end_stops_sales_at_once_and_what_was_sold_goes_on(shop: Shop) -> None:
    ident = await account(shop, "two")
    deal = await drawn(shop, "two", terms(ident, today(), deposit=70_000))
    await deal.signed()
    sold = await shop.pay(5000, key="dual")
    assert sold.status == 201
    ended = await deal.ask("POST", "/end", {"reason": "Fraud was found"})
    assert ended.status == 200 and ended.body["state"] == "terminated", ended.raw

    async def refused() -> Answer | None:
        answer = await shop.pay(5000, key="dual")
        return answer if answer.status == 403 else None

    answer = await eventually(refused, "a merchant sells without a contract", 4)
    assert "contract" in answer.body["detail"]

    async def refunded() -> bool:  # once its capture is told to the host
        return (await shop.ask("POST", "/v1/refunds", {"authorization": sold.body["id"], "amount": 100}, "dual", Idempotency_Key="refund-after-the-end-1")).status == 201

    await eventually(refunded, "what was sold cannot be refunded any more")
    (hold,) = await shop.sql("SELECT amount, released_at FROM merchant_hold WHERE merchant_id = $1", shop.ids["merchant.two"])
    assert hold["amount"] == 70_000 and hold["released_at"] is not None
    again = await drawn(shop, "two", terms(ident, today() + DAY))
    assert (await again.now())["amends"] is None
    await again.signed()  # from tomorrow on; it sells until its own end
    await eventually(lambda: _sells(shop, "dual"), "a new contract does not let it sell", 4)


async def _sells(shop: Shop, key: str) -> bool:
    return (await shop.pay(5000, key=key)).status == 201


async def test_the_last_day_stops_sales_by_the_clock_and_the_job_writes_it_down(shop: Shop) -> None:
    """The end is drawn near in the database, as no test waits for a day."""
    if not await shop.sql("SELECT FROM contract WHERE merchant_id = $1 AND state = 'in_force'", shop.ids["merchant.two"]):  # when it runs alone
        await (await drawn(shop, "two", terms(await account(shop, "two"), today()))).signed()
    (row,) = await shop.sql("SELECT contract_id FROM contract WHERE merchant_id = $1 AND state = 'in_force'", shop.ids["merchant.two"])
    connection = await asyncpg.connect(shop.url)
    try:
        async with connection.transaction():
            await connection.execute("""UPDATE contract SET version = version + 1, ends_at = now() + interval '1 second' WHERE contract_id = $1""", row["contract_id"])
            await connection.execute("""INSERT INTO contract_event (contract_id, number, event, was, state, person) SELECT contract_id, version, 'notice', state, state, 'test'
                FROM contract WHERE contract_id = $1""", row["contract_id"])
    finally:
        await connection.close()

    async def stopped() -> bool:
        return (await shop.pay(5000, key="dual")).status == 403

    await eventually(stopped, "the last day does not stop sales", 8)  # the contract is in force in the books: nothing but the clock stops it
    assert (await shop.sql("SELECT state FROM contract WHERE contract_id = $1", row["contract_id"]))[0]["state"] == "in_force"
    days = Days(shop.switch.owed)
    now = datetime.now(UTC) + timedelta(seconds=1)
    for before, wanted in ((40, []), (20, [30]), (20, []), (3, [7]), (3, [])):  # once at each threshold
        then = now - timedelta(days=before)
        due_then = [each for each in await days.due(then) if each.arguments["contract"] == f"con_{row['contract_id']}"]
        assert [each.arguments["days"] for each in due_then] == wanted, before
        async with shop.switch.owed.acquire() as held, held.transaction():
            assert [await keep(held, each.arguments["contract"], each.arguments["what"], then, each.arguments["days"]) for each in due_then] == [True for _ in wanted]
    (due,) = [each for each in await days.due(now) if each.arguments["contract"] == f"con_{row['contract_id']}"]
    for expected in (True, False):  # a second worker finds it done
        async with shop.switch.owed.acquire() as held, held.transaction():
            assert await keep(held, due.arguments["contract"], due.arguments["what"], now) is expected
    assert (await shop.sql("SELECT state FROM contract WHERE contract_id = $1", row["contract_id"]))[0]["state"] == "expired"
    assert (await shop.pay(5000, key="dual")).status == 403
    told = await shop.sql("SELECT kind FROM notice WHERE object LIKE $1 AND kind IN ('contract.ending', 'contract.ended') ORDER BY notice_id", f"con_{row['contract_id']}:%")
    assert [each["kind"] for each in told] == ["contract.ending", "contract.ending", "contract.ended"]


async def test_of_two_who_countersign_at_once_one_does_and_nothing_is_done_twice(shop: Shop) -> None:
    ident = await account(shop, "two")
    deal = await drawn(shop, "two", terms(ident, today() + 2 * DAY, once=[{"name": "Setup", "amount": 100, "count": 1}]))
    assert (await deal.offer()).status == 200
    assert (await deal.sign("merchant.two")).status == 200
    answers = await asyncio.gather(deal.sign("operator", image=signature(seed=5)), deal.sign("second", image=signature(seed=6)))
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert len(await shop.sql("SELECT FROM contract_signature WHERE contract_id = $1 AND side = 'provider'", UUID(deal.id[4:]))) == 1
    assert len(await shop.sql("SELECT FROM merchant_tariff WHERE merchant_id = $1 AND effective_from = $2", shop.ids["merchant.two"], today() + 2 * DAY)) == 1


async def test_what_a_contract_charges_once_and_its_deposit_are_in_the_settlement_of_their_day(shop: Shop) -> None:
    """Nothing was sold: `four` has no route."""
    if not await shop.sql("SELECT FROM contract WHERE merchant_id = $1 AND state = 'in_force'", shop.ids["merchant.four"]):  # when it runs alone
        await (await drawn(shop, "four", terms(await account(shop, "four"), today(), once=[{"name": "Terminal purchase", "amount": 80_000, "count": 2}], deposit=50_000))).signed()
    merchant = shop.ids["merchant.four"]
    days = await shop.sql("SELECT DISTINCT acquirer_id, business_date FROM settled_beside WHERE merchant_id = $1", merchant)
    assert len(days) == 1, "the charge and the deposit fall on one day"
    (name,) = [name for name, ident in shop.ids.items() if ident == days[0]["acquirer_id"]]
    while shop.switch.directory.acquirers[days[0]["acquirer_id"]].business_date <= days[0]["business_date"]:
        await cut_over(shop, shop.switch.directory.acquirers[days[0]["acquirer_id"]].business_date, name)
    (settlement,) = (await shop.ask("GET", "/v1/settlements", key="merchant.four")).body["items"]
    assert {each: settlement[each] for each in ("state", "sales_count", "contract_charges", "deposits", "disputes", "corrections")} == {
        "state": "stated", "sales_count": 0, "contract_charges": 160_000, "deposits": -50_000, "disputes": 0, "corrections": 0}
    assert settlement["business_date"] == days[0]["business_date"].isoformat()
    async with httpx.AsyncClient(trust_env=False, base_url=shop.base, headers={"Authorization": f"Bearer {shop.keys['merchant.four']}"}) as client:
        exported = (await client.get(f"/v1/settlements/{settlement['id']}/export?format=json")).json()
    assert {(row["kind"], row["net"]) for row in exported["items"]} >= {("contract_charge", -160_000), ("deposit", -50_000)}
    statement = (await shop.ask("GET", f"/v1/settlements/{settlement['id']}/statement?format=html&language=zh", key="merchant.four")).raw.decode()
    assert "Terminal purchase" in statement and "押金" in statement
    history = (await shop.ask("GET", "/v1/balance/history?account=merchant", key="merchant.four")).body["items"]
    assert {("contract_charge", -160_000), ("hold_placed", -50_000)} <= {(each["cause"], each["amount"]) for each in history}
    assert {each["business_date"] for each in history} == {settlement["business_date"]}


async def test_an_end_whose_day_is_just_being_taken_is_looked_at_again_and_gives_the_deposit_back_on_the_next(shop: Shop) -> None:
    ident = await account(shop, "three")
    deal = await drawn(shop, "three", terms(ident, today(), deposit=900))
    await deal.signed()
    (held,) = await shop.sql("SELECT acquirer_id, business_date FROM transfer WHERE cause = 'hold_placed' AND note LIKE $1", f"%{deal.id}")
    taker = await asyncpg.connect(shop.url)
    job = SimpleNamespace(arguments={"contract": deal.id, "what": END, "at": datetime.now(UTC).isoformat()})

    async def hold(_: Any) -> None:
        pass

    run: Any = SimpleNamespace(pool=shop.switch.owed, hold=hold, job=job)
    try:
        async with taker.transaction():
            await taker.execute("UPDATE contract SET version = version + 1, ends_at = now(), ends_as = 'expire' WHERE contract_id = $1", UUID(deal.id[4:]))
            await taker.execute("""INSERT INTO contract_event (contract_id, number, event, was, state, person) SELECT contract_id, version, 'notice', state, state, 'test'
                FROM contract WHERE contract_id = $1""", UUID(deal.id[4:]))
        async with taker.transaction():
            await taker.execute("SELECT pg_advisory_xact_lock(3583010, day_lock($1, $2))", held["acquirer_id"], held["business_date"])
            with pytest.raises(NotYet):
                await Days(shop.switch.owed).do(run)
        assert await Days(shop.switch.owed).do(run) == {"moved": True}
    finally:
        await taker.close()
    moved = await shop.sql("SELECT cause, amount FROM settled_beside WHERE merchant_id = $1 AND name LIKE $2 ORDER BY posted_at", shop.ids["merchant.three"], f"%{deal.id}")
    assert [tuple(each.values()) for each in moved] == [("hold_placed", -900), ("hold_released", 900)]
