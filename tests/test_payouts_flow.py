"""Payouts over real HTTP and PostgreSQL: what is due is asked for once, goes to the bank in one file, and is what the bank says of it."""

import asyncio
import gzip
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
import xmlschema
from settled import DAY as SOLD
from settled import ONE_DAY, Till, open_till

from switch import database
from switch.ids import show
from switch.merchants.moving.owed import owed
from switch.merchants.onboarding import Onboarding
from switch.security.vault import Keyring, Vault
from switch.settlement import ledger
from switch.settlement.ledger import Account, Transfer
from switch.settlement.payouts import runs
from tests.bank import OUR_IBAN, THEIR_IBAN, Booked, answer_csv, every_day, statement
from tests.conftest import create_database
from tests.flows import Shop, open_shop
from tests.processes import Answer, ask
from tests.test_openapi import fits
from tests.test_pain001 import SCHEMA

REASON = "Signed letter, checked by telephone"
ACCOUNT = {"currency": "EUR", "holder": "Harbour Bakery", "country": "GB", "iban": THEIR_IBAN, "reason": REASON}
Books = dict[str, int]


@dataclass(slots=True)
class Bank:
    """A shop with two operators, and what its books say."""

    shop: Shop
    file: Any
    credited: "itertools.count[int]" = field(default_factory=itertools.count)

    async def ask(self, method: str, path: str, body: Any = None, key: str = "operator") -> Answer:
        return await self.shop.ask(method, path, body, key)

    async def agreed(self, path: str, **changed: Any) -> None:
        asked = await self.ask("PUT", path, {**ACCOUNT, **changed})
        assert asked.status == 202, asked.raw
        decided = await self.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")
        assert decided.status == 200, decided.raw

    async def credit(self, amount: int, merchant: str = "one", currency: str = "EUR") -> None:
        """So much is owed to a merchant."""
        connection = await database.connect(self.shop.url, "switch_writer")
        try:
            async with connection.transaction():
                await ledger.post(connection, [Transfer(
                    Account("acquirer", currency, None, self.shop.ids["acquirer.single"]), Account("merchant", currency, self.shop.ids[f"merchant.{merchant}"]), amount,
                    "sales", "set_test", date(2026, 11, 25), f"test:{next(self.credited)}")])
        finally:
            await connection.close()

    async def run(self, **narrowed: Any) -> Any:
        answer = await self.ask("POST", "/v1/payouts/run", narrowed)
        assert answer.status == 200, answer.raw
        fits(self.file, "post", "/v1/payouts/run", answer)
        return {each["merchant"]: each for each in answer.body["items"]}

    async def sent(self, format_: str = "pain001") -> tuple[Any, bytes]:
        made = await self.ask("POST", "/v1/payouts/files", {"currency": "EUR", "format": format_})
        assert made.status == 201, made.raw
        fits(self.file, "post", "/v1/payouts/files", made)
        content = await self.ask("GET", f"/v1/payouts/files/{made.body['id']}/content")
        assert content.status == 200 and len(content.raw) == made.body["size"]
        said = await self.ask("POST", f"/v1/payouts/files/{made.body['id']}/sent")
        assert said.body["state"] == "sent" and (await self.ask("POST", f"/v1/payouts/files/{made.body['id']}/sent")).body == said.body
        return made.body, content.raw

    async def answer(self, data: bytes, name: str = "answer") -> Answer:
        return await ask(self.shop.base, "POST", f"/v1/payouts/answers?name={name}", self.shop.keys["operator"], data)

    async def payouts(self, key: str = "merchant.one") -> list[Any]:
        return list((await self.ask("GET", "/v1/payouts", key=key)).body["items"])

    async def balances(self) -> Books:
        connection = await database.connect(self.shop.url, "switch_reader")
        try:
            found = await ledger.balances(connection)
        finally:
            await connection.close()
        assert sum(found.values()) == 0
        kinds: Books = {}
        for account, amount in found.items():
            kinds[account.kind] = kinds.get(account.kind, 0) + amount
        return {kind: amount for kind, amount in kinds.items() if amount}

    async def paid_one(self, amount: int = 12_345) -> str:
        """A payout that was sent; its end-to-end id."""
        await self.credit(amount)
        await self.run()
        await self.sent()
        return str((await self.payouts())[0]["end_to_end_id"])


@pytest_asyncio.fixture
async def bank(cluster_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_shop(await create_database(cluster_url), tmp_path, SWITCH_WEBHOOK_TARGETS="any") as shop:
        pool = await database.pool(shop.url, "switch_writer", 1)
        shop.keys["second"] = (await Onboarding(pool).key("operator", person="Second Person")).text
        await pool.close()
        await every_day(shop.url)
        await shop.caught_up()
        opened = Bank(shop, (await shop.ask("GET", "/openapi.json")).body)
        await opened.agreed("/v1/payouts/bank-account", holder="Payment Service", country="DE", iban=OUR_IBAN)
        await opened.agreed(f"/v1/merchants/{shop.shown('merchant.one')}/bank-account")
        yield opened


async def test_from_the_balance_to_the_bank_and_confirmed(bank: Bank) -> None:
    hooked = await bank.ask("POST", "/v1/webhooks", {"url": "https://127.0.0.1:9/hook", "types": ["*"]}, "merchant.one")
    assert hooked.status == 201, hooked.raw
    await bank.credit(12_345)
    outcome = (await bank.run())[bank.shop.shown("merchant.one")]
    assert (outcome["due"], outcome["paid"], outcome["carried"], outcome["reason"]) == (12_345, 12_345, 0, "")
    assert (await bank.run()) == {}, "called again it pays nothing twice"
    assert await bank.balances() == {"acquirer": -12_345, "payout": 12_345}
    file, data = await bank.sent()
    xmlschema.XMLSchema(str(SCHEMA)).validate(data.decode())
    assert THEIR_IBAN.encode() in data and b"123.45" in data and (file["payouts"], file["total"]) == (1, 12_345)
    (payout,) = await bank.payouts()
    assert (payout["state"], payout["account"]) == ("sent", "Harbour Bakery ****5432")
    answer = await bank.answer(statement([Booked("R1", 12_345, payout["end_to_end_id"])]))
    fits(bank.file, "post", "/v1/payouts/answers", answer)
    assert (answer.status, answer.body["applied"], answer.body["unexplained"]) == (201, 1, 0)
    assert await bank.balances() == {"acquirer": -12_345, "bank": 12_345}
    one = await bank.ask("GET", f"/v1/payouts/{payout['id']}", key="merchant.one")
    fits(bank.file, "get", "/v1/payouts/{payout}", one)
    assert (one.body["state"], one.body["settlements"]) == ("confirmed", [])
    assert (await bank.ask("GET", f"/v1/payouts/{payout['id']}", key="merchant.two")).status == 404 and await bank.payouts("merchant.two") == []
    again = await bank.answer(statement([Booked("R1", 12_345, payout["end_to_end_id"])]))
    assert (again.status, again.body) == (200, answer.body), "the same file twice changes nothing"
    listed = await bank.ask("GET", "/v1/payouts/answers")
    fits(bank.file, "get", "/v1/payouts/answers", listed)
    assert listed.body["items"] == [answer.body]
    told = await bank.shop.sql("SELECT type FROM webhook_event WHERE object = $1 ORDER BY event_id", payout["id"])
    assert [row["type"] for row in told] == ["payout.requested", "payout.sent", "payout.confirmed"]


async def test_what_comes_back_is_the_merchants_again_and_waits_for_an_account(bank: Bank) -> None:
    ident = await bank.paid_one()
    assert (await bank.answer(statement([Booked("R1", 12_345, ident)]))).status == 201
    back = await bank.answer(statement([Booked("R2", 12_345, ident, came=True, reason="account closed")], "STMT-2", number=2))
    assert back.body["applied"] == 1, back.raw
    (payout,) = await bank.payouts()
    assert (payout["state"], payout["reason"]) == ("returned", "AC04 account closed") and payout["confirmed_at"] is not None
    assert await bank.balances() == {"acquirer": -12_345, "merchant": 12_345}
    assert (await bank.run())[bank.shop.shown("merchant.one")]["reason"] == "account_suspended"
    (told,) = (await bank.shop.ask("GET", "/v1/balance", key="merchant.one")).body["items"]
    assert (told["payable"], told["payable_reason"]) == (12_345, "account_suspended")
    alerts = (await bank.ask("GET", "/v1/alerts")).body["items"]
    assert ("payout_returned", payout["id"]) in {(each["kind"], each["object"]) for each in alerts}
    await bank.agreed(f"/v1/merchants/{bank.shop.shown('merchant.one')}/bank-account", holder="New Account")
    assert (await bank.run())[bank.shop.shown("merchant.one")]["paid"] == 12_345
    assert [each["state"] for each in await bank.payouts()] == ["requested", "returned"]
    async with bank.shop.switch.readers.acquire() as connection:
        found = await owed(connection, bank.shop.ids["merchant.one"], bank.shop.ids["acquirer.single"])
    assert [(each.items, each.amount) for each in found if each.kind == "payouts"] == [(1, 12_345)], "it pays what came back, and is on its way"


async def test_a_payout_goes_to_the_account_that_is_agreed_when_its_file_is_made(bank: Bank) -> None:
    await bank.credit(700)
    await bank.run()
    await bank.agreed(f"/v1/merchants/{bank.shop.shown('merchant.one')}/bank-account", iban="FR1420041010050500013M02606", country="FR")
    _, data = await bank.sent("csv")
    assert b"FR1420041010050500013M02606" in data and THEIR_IBAN.encode() not in data


async def test_an_account_is_agreed_by_two_and_stored_sealed(bank: Bank) -> None:
    path = f"/v1/merchants/{bank.shop.shown('merchant.two')}/bank-account"
    asked = await bank.ask("PUT", path, ACCOUNT)
    fits(bank.file, "put", "/v1/merchants/{merchant}/bank-account", asked)
    assert asked.status == 202 and THEIR_IBAN not in asked.raw.decode() and asked.body["payload"]["number"] == "****5432"
    assert (await bank.ask("POST", f"/v1/approvals/{asked.body['id']}")).body["code"] == "same_person"
    assert (await bank.ask("GET", path)).body["items"] == []
    assert (await bank.ask("PUT", path, ACCOUNT)).status == 409, "one waits already"
    assert (await bank.ask("POST", f"/v1/approvals/{asked.body['id']}", key="second")).status == 200
    shown = await bank.ask("GET", path, key="merchant.two")
    fits(bank.file, "get", "/v1/merchants/{merchant}/bank-account", shown)
    assert [(each["number"], each["state"], each["approved_by"]) for each in shown.body["items"]] == [("****5432", "active", "Second Person")]
    assert (await bank.ask("GET", path, key="merchant.one")).status == 404
    assert (await bank.ask("PUT", path, ACCOUNT, "merchant.two")).status == 403
    for changed in ({"iban": "GB82WEST12345698765433"}, {"holder": "=x"}, {"iban": None}, {"account_number": "123"}, {"currency": "QQQ"}, {"bic": "12345678"}):
        refused = await bank.ask("PUT", path, {name: value for name, value in {**ACCOUNT, **changed}.items() if value is not None})
        assert refused.status == 422 and "GB82" not in refused.raw.decode(), changed
    await bank.paid_one()
    tables = [row["t"] for row in await bank.shop.sql("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'")]
    for table in tables:
        rows = await bank.shop.sql(f"SELECT t::text AS text, encode(convert_to(t::text, 'UTF8'), 'hex') AS hex FROM {table} t")
        for number in (THEIR_IBAN, OUR_IBAN):
            assert not any(number in row["text"] or number.encode().hex() in row["text"] for row in rows), f"{table} holds an account number in clear"


async def test_holds_minimum_and_what_is_negative_are_carried(bank: Bank) -> None:
    merchant = bank.shop.shown("merchant.one")
    await bank.credit(1000)
    assert (await bank.ask("PUT", f"/v1/merchants/{merchant}/funding", {"minimum_payout": 1001, "calendar": "daily"})).status == 200
    found = (await bank.run())[merchant]
    assert (found["due"], found["paid"], found["carried"], found["reason"]) == (1000, 0, 1000, "below_minimum")
    hold = await bank.ask("POST", f"/v1/merchants/{merchant}/holds", {"currency": "EUR", "reason": "Under investigation"})
    await bank.credit(1)
    assert (await bank.run())[merchant]["reason"] == "on_hold"
    assert (await bank.ask("POST", f"/v1/merchants/{merchant}/holds/{hold.body['id']}/release")).status == 200
    part = await bank.ask("POST", f"/v1/merchants/{merchant}/holds", {"currency": "EUR", "amount": 2000, "reason": "Disputed delivery"})
    found = (await bank.run())[merchant]
    assert (found["due"], found["carried"], found["reason"]) == (-999, -999, "negative_carried")
    assert (await bank.ask("POST", f"/v1/merchants/{merchant}/holds/{part.body['id']}/release")).status == 200
    assert (await bank.run())[merchant]["paid"] == 1001


async def test_many_runs_at_once_pay_once_and_files_do_not_share_payouts(bank: Bank) -> None:
    await bank.credit(5000)
    every = await asyncio.gather(*(bank.run() for _ in range(6)))
    assert sum(each["paid"] for run in every for each in run.values()) == 5000 and len(await bank.payouts()) == 1
    made = await asyncio.gather(*(bank.ask("POST", "/v1/payouts/files", {"currency": "EUR"}) for _ in range(6)))
    assert sorted(each.status for each in made) == [200] * 5 + [201] and len({each.body["id"] for each in made}) == 1
    assert (await bank.ask("POST", "/v1/payouts/files", {"currency": "EUR", "format": "csv"})).status == 409
    assert (await bank.ask("POST", f"/v1/payouts/files/{made[0].body['id']}/sent")).status == 200
    assert (await bank.ask("POST", "/v1/payouts/files", {"currency": "EUR"})).status == 409, "nothing is left to send"


FILES = ("confirmed", "returned", "report", "other")


@pytest.mark.parametrize("order", [FILES, FILES[::-1], ("returned", "confirmed", "other", "report"), ("report", "other", "returned", "confirmed")])
async def test_any_order_of_answers_gives_the_same_books(bank: Bank, order: tuple[str, ...]) -> None:
    first = await bank.paid_one(1000)
    await bank.credit(300)
    await bank.run()
    await bank.sent()
    second = next(each["end_to_end_id"] for each in await bank.payouts() if each["amount"] == 300)
    files = {"confirmed": statement([Booked("R1", 1000, first), Booked("R2", 300, second)], "S1", number=1),
             "returned": statement([Booked("R3", 1000, first, came=True, reason="closed")], "S2", number=2),
             "report": answer_csv([(first, "confirmed", "10.00", "X1", ""), (second, "confirmed", "3.00", "X2", "")]),
             "other": statement([Booked("R9", 77, came=True, text="RENT"), Booked("R8", 1000, first)], "S3", number=3)}
    for name in order:
        answer = await bank.answer(files[name])
        assert answer.status == 201, answer.raw
    assert await bank.balances() == {"acquirer": -1300, "bank": 300, "merchant": 1000}
    assert {each["amount"]: each["state"] for each in await bank.payouts()} == {1000: "returned", 300: "confirmed"}
    rows = await bank.shop.sql("SELECT amount, cause FROM transfer WHERE cause LIKE 'payout%' ORDER BY amount, cause")
    assert [(row["amount"], row["cause"]) for row in rows] == [
        (300, "payout_confirmed"), (300, "payout_requested"), (1000, "payout_confirmed"), (1000, "payout_given_back"), (1000, "payout_requested"), (1000, "payout_returned")]


async def test_what_no_payout_explains_waits_for_a_person(bank: Bank) -> None:
    ident = await bank.paid_one(1000)
    answer = await bank.answer(statement([
        Booked("R1", 1000, ident), Booked("R2", 1000, ident), Booked("R3", 999, ident, came=True, reason="less costs"), Booked("R4", 55, "unknown-id"),
        Booked("R5", 400, came=True, text="SETTLEMENT single 2026-11-25")]))
    assert (answer.status, answer.body["applied"], answer.body["unexplained"]) == (201, 1, 4)
    assert await bank.balances() == {"acquirer": -600, "bank": 600}, "an acquirer's money is posted, what is unknown is not"
    found = (await bank.ask("GET", "/v1/exceptions")).body["items"]
    assert sorted((each["kind"], each["difference"]) for each in found if each["kind"] == "unknown_entry") == [
        ("unknown_entry", -1000), ("unknown_entry", -55), ("unknown_entry", 999)]
    (twice,) = [each for each in found if each["difference"] == -1000]
    solved = await bank.ask("POST", f"/v1/exceptions/{twice['id']}/resolve", {"resolution": "suspense", "reason": "The bank paid it twice"})
    assert solved.status == 200, solved.raw
    assert (await bank.balances())["suspense"] == -1000


async def test_a_rejection_that_contradicts_a_payment_raises_an_alert(bank: Bank) -> None:
    ident = await bank.paid_one(1000)
    assert (await bank.answer(answer_csv([(ident, "rejected", "10.00", "X1", "no such account")]))).status == 201
    assert await bank.balances() == {"acquirer": -1000, "merchant": 1000}
    kinds = {each["kind"] for each in (await bank.ask("GET", "/v1/alerts")).body["items"]}
    assert "payout_returned" in kinds and "payout_contradicted" not in kinds
    assert (await bank.answer(statement([Booked("R1", 1000, ident)]))).status == 201
    assert await bank.balances() == {"acquirer": -1000, "merchant": 1000, "payout": -1000, "bank": 1000}
    assert "payout_contradicted" in {each["kind"] for each in (await bank.ask("GET", "/v1/alerts")).body["items"]}


async def test_what_is_wrong_is_refused_whole_and_nothing_is_posted(bank: Bank) -> None:
    ident = await bank.paid_one(1000)
    before, good = await bank.balances(), Booked("R1", 1000, ident)
    whole = statement([good])
    bad = [
        (statement([good], account="FR1420041010050500013M02606"), 422), (statement([good], currency="USD"), 422), (whole[:-20], 422), (b"", 422), (b"hello", 422),
        (whole.replace(b"10.00</Amt>", b"10.01</Amt>", 1), 422), (whole.replace(b"?>", b"?><!DOCTYPE a [<!ENTITY b 'c'>]>", 1), 422),
        (gzip.compress(b"<Document " + b" " * (300 << 20)), 422), (b"PK\x03\x04" + bytes(100), 422),
        (answer_csv([(ident, "confirmed", "10.00", "X", ""), ("nobody", "confirmed", "10.00", "X", "")]), 422),
        (answer_csv([(ident, "confirmed", "9.99", "X", "")]), 422), (answer_csv([(ident, "confirmed", "10.00", "X", "")], total="9.00"), 422),
    ]
    for data, status in bad:
        answer = await bank.answer(data)
        assert (answer.status, answer.body["code"]) == (status, "file_refused"), answer.raw
        assert re.fullmatch("the file|line [1-9][0-9]*", answer.body["errors"][0]["field"]) and ident not in answer.raw.decode()
    assert await bank.balances() == before and (await bank.payouts())[0]["state"] == "sent"
    assert (await bank.ask("GET", "/v1/payouts/answers")).body["items"] == []
    assert (await bank.answer(gzip.compress(whole))).status == 201
    other = await bank.answer(statement([good, Booked("R7", 5, came=True)]))
    assert other.status == 409, "another content under the same statement's id"


async def test_payouts_are_asked_for_as_of_today_where_money_moves(bank: Bank) -> None:
    assert not bank.shop.settings.rehearsal
    refused = await bank.ask("POST", "/v1/payouts/run", {"on": "2099-01-01"})
    assert (refused.status, refused.body["errors"][0]["field"]) == (422, "on")


async def test_who_may(bank: Bank) -> None:
    for method, path, body in (("POST", "/v1/payouts/run", {}), ("POST", "/v1/payouts/files", {"currency": "EUR"}), ("GET", "/v1/payouts/files", None),
                               ("GET", "/v1/payouts/answers", None), ("POST", "/v1/payouts/answers", {}), ("PUT", "/v1/payouts/bank-account", ACCOUNT),
                               ("GET", "/v1/payouts/bank-account", None), ("GET", "/v1/payouts/files/pof_x/content", None), ("POST", "/v1/payouts/files/pof_x/sent", None)):
        for key in ("merchant.one", "till"):
            assert (await bank.ask(method, path, body, key)).status == 403, path
        assert (await bank.ask(method, path, body, "nobody")).status == 401, path
    for path in ("/v1/payouts/pay_x", "/v1/payouts/files/pof_x/content", "/v1/payouts?after=pay_x", f"/v1/payouts/{show('payout', UUID(int=1))}"):
        assert (await bank.ask("GET", path)).status == 404, path
    assert (await bank.ask("POST", "/v1/payouts/run", {"merchant": "mer_x"})).status == 404
    assert (await bank.ask("GET", "/v1/payouts", key="till")).status == 403


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def till(owner: asyncpg.Connection, database_url: str) -> Till:
    opened = await open_till(database_url, owner=owner, reserve_basis_points=1000, reserve_days=5)
    vault = Vault(Keyring("k1", "t1", {"k1": bytes(32), "t1": bytes(range(32))}))
    key_id, sealed = vault.seal_row("bank_account", b"x", opened.merchant.bytes)
    await owner.execute("""INSERT INTO bank_account (bank_account_id, merchant_id, currency, holder, iban, key_id, sealed, last4, country, state, requested_by,
        approved_by, active_at) VALUES ($1, $1, 'CNY', 'Till', true, $2, $3, '0001', 'CN', 'active', 'a', 'b', now())""", opened.merchant, key_id, sealed)
    return opened


async def test_what_is_settled_is_paid_when_it_is_due_and_reserves_when_they_are_given_back(till: Till) -> None:
    await every_day(till.url)
    pool = await database.pool(till.url, "switch_writer", 2)
    try:
        async def run(today: date) -> list[tuple[int, int, str]]:
            done = await runs.run(pool, "test", merchant_id=till.merchant, today=today)
            return [(each.shares.due, each.shares.paid, each.shares.reason) for each in done.outcomes]

        await till.made(amount=10_000)
        await till.cut()
        (settlement,) = await till.settlements()
        net = settlement["net"] - settlement["reserve_held"]
        assert settlement["due_on"] == SOLD + ONE_DAY and settlement["reserve_held"] == 1000
        assert await run(SOLD) == [(0, 0, "nothing_due")]
        assert await run(SOLD + ONE_DAY) == [(net, net, "")]
        (settlement,) = await till.settlements()
        (paid,) = await till.fetch("SELECT payout_id, amount FROM payout WHERE merchant_id = $1", till.merchant)
        assert settlement["payout_id"] == paid["payout_id"] and paid["amount"] == net
        assert await run(SOLD + 2 * ONE_DAY) == [] and await till.balance() == 0
        assert await run(settlement["reserve_release_on"]) == [(1000, 1000, "")]
        assert await till.balance("reserve") == 0
    finally:
        await pool.close()


async def test_nobody_is_paid_on_a_day_that_is_none_of_its_business_days(bank: Bank) -> None:
    calendar = {"weekend": [6, 7], "exceptions": [{"day": "2026-11-30", "kind": "holiday"}]}
    assert (await bank.ask("PUT", "/v1/calendars/paydays", calendar)).status == 200
    await bank.shop.sql("UPDATE merchant SET calendar = 'paydays' WHERE merchant_id = $1", bank.shop.ids["merchant.one"])
    await bank.credit(12_345)
    for day in (28, 29, 30):  # a weekend, and a holiday
        (found,) = (await runs.run(bank.shop.switch.writers, "test", today=date(2026, 11, day))).outcomes
        assert found.shares == (12_345, 0, 12_345, "no_business_day"), day
    (found,) = (await runs.run(bank.shop.switch.writers, "test", today=date(2026, 12, 1))).outcomes
    assert found.shares == (12_345, 12_345, 0, "")


async def test_the_bank_is_asked_to_pay_on_a_business_day_of_all_whom_a_file_pays(bank: Bank) -> None:
    await bank.credit(12_345)
    await bank.run()
    today = datetime.now(UTC).date()
    calendar = {"weekend": [], "exceptions": [{"day": str(today + timedelta(days)), "kind": "holiday"} for days in range(3)]}
    assert (await bank.ask("PUT", "/v1/calendars/feast", calendar)).status == 200
    await bank.shop.sql("UPDATE merchant SET calendar = 'feast' WHERE merchant_id = $1", bank.shop.ids["merchant.one"])
    refused = await bank.ask("POST", "/v1/payouts/files", {"currency": "EUR", "execution_date": (today + timedelta(1)).isoformat()})
    assert (refused.status, refused.body["errors"][0]["field"]) == (422, "execution_date") and str(today + timedelta(3)) in refused.raw.decode()
    made = (await bank.ask("POST", "/v1/payouts/files", {"currency": "EUR"})).body
    assert made["execution_date"] == str(today + timedelta(3))
