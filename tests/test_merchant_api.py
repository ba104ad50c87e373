"""What merchants and terminals read: lists with every filter, pages without gap or repeat, and only what is theirs."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from switch.api.shapes import Story, TransactionNow, TransactionPage
from switch.payments.history import PAYMENT_STATUS
from tests.flows import Shop, new_key, open_shop
from tests.processes import CARD

Item = dict[str, Any]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("merchant_api")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def made(shop: Shop) -> list[Item]:
    """Sales of all kinds and ends by five terminals; all settled. As the operator sees them, oldest first."""
    sold: list[Item] = []
    for till in ("till", "neighbour", "branch", "dual", "strict"):
        for at, changed in enumerate(({"reference": "table 4"}, {"type": "preauthorization", "reference": "it's 100%"}, {"type": "balance_inquiry", "amount": None},
                                      {"card": CARD | {"pan": "4111111111111111"}}, {"currency": "USD"}, {"amount": 4051}, {"partial_approval": "accept", "amount": 4110},
                                      {"type": "account_verification", "amount": None}, {"type": "cash_advance"})):
            sold.append((await shop.pay(**{"amount": 4000 + at * 100 + len(till), "key": till, **changed})).body)  # type: ignore[arg-type]
    for till in ("till", "dual"):
        key = new_key()
        sold.append((await shop.pay(9000, key, till)).body)
        await shop.cancel(key, till)
        await shop.until(sold[-1]["id"], "reversed")
    await shop.host.order("code", "96", {"0": "0200"})
    doubtful = (await shop.pay(9100)).body
    await shop.until(doubtful["id"], "reversed")
    for row in await shop.sql("SELECT transaction_id FROM transaction WHERE type = 'capture' AND state = 'SENT'"):
        await shop.until(f"txn_{row['transaction_id']}", "approved")
    return sorted(await listed(shop, "operator"), key=lambda item: item["id"])


async def listed(shop: Shop, key: str, **filters: object) -> list[Item]:
    """All pages."""
    items: list[Item] = []
    after: str | None = None
    while True:
        query = {"limit": 200, **filters} | ({"after": after} if after else {})
        answer = await shop.ask("GET", f"/v1/transactions?{urlencode(query)}", key=key)
        assert answer.status == 200, answer.raw
        TransactionPage.model_validate(answer.body, strict=True)
        items += answer.body["items"]
        assert len(items) < 5000, "the list has no end"
        after = answer.body["next"]
        if after is None:
            return items


def ids(items: list[Item]) -> list[str]:
    return [item["id"] for item in items]


async def test_a_list_is_newest_first_and_each_item_is_what_its_own_address_says(shop: Shop, made: list[Item]) -> None:
    items = await listed(shop, "operator")
    assert ids(items) == ids(made)[::-1] and len(items) >= 50
    assert [item["created_at"][:19] for item in items] == sorted((item["created_at"][:19] for item in items), reverse=True)
    for item in items[:20]:
        one = await shop.get(item["id"])
        TransactionNow.model_validate(one, strict=True)
        assert one | {"reversal": None} == item | {"reversal": None}
        assert (await shop.ask("GET", f"/v1/authorizations/{item['id']}", key="operator")).body == one


@pytest.mark.parametrize("limit", [1, 7, 50, 200])
async def test_pages_have_no_gap_and_no_repeat(shop: Shop, made: list[Item], limit: int) -> None:
    for key in ("operator", "merchant.one", "till"):
        whole = ids(await listed(shop, key))
        pages = ids(await listed(shop, key, limit=limit))
        assert pages == whole and len(set(pages)) == len(pages)


async def test_a_page_is_full_and_says_whether_there_is_another(shop: Shop, made: list[Item]) -> None:
    first = (await shop.ask("GET", "/v1/transactions", key="operator")).body
    assert len(first["items"]) == 50 and first["next"] == first["items"][-1]["id"]
    exact = len(made)
    last = (await shop.ask("GET", f"/v1/transactions?limit={exact}", key="operator")).body
    assert len(last["items"]) == exact and last["next"] is None
    none = (await shop.ask("GET", f"/v1/transactions?after={made[0]['id']}", key="operator")).body
    assert none == {"items": [], "next": None}


async def test_sales_made_while_one_pages_neither_repeat_nor_hide_older_ones(shop: Shop, made: list[Item]) -> None:
    before = ids(await listed(shop, "merchant.two"))
    seen: list[str] = []
    after = ""
    while True:
        page, _ = await asyncio.gather(shop.ask("GET", f"/v1/transactions?limit=3{after}", key="merchant.two"), shop.pay(9900 + len(seen), key="dual", capture_method="manual"))
        seen += ids(page.body["items"])
        if page.body["next"] is None:
            break
        after = f"&after={page.body['next']}"
    assert [each for each in seen if each in before] == before and len(set(seen)) == len(seen)


Filter = tuple[str, dict[str, object], Callable[[Item], bool]]
FILTERS: list[Filter] = [
    *(("status", {"status": status}, lambda item, status=status: item["status"] == status)  # type: ignore[misc]
      for status in ("pending", "approved", "declined", "not_sent", "reversing", "reversed", "parked", "confirmed")),
    *(("payment_status", {"payment_status": status}, lambda item, status=status: item["payment_status"] == status) for status in PAYMENT_STATUS),  # type: ignore[misc]
    *(("type", {"type": type_}, lambda item, type_=type_: item["type"] == type_)  # type: ignore[misc]
      for type_ in ("purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification", "capture")),
    ("reference", {"reference": "table 4"}, lambda item: item["reference"] == "table 4"),
    ("reference with SQL in it", {"reference": "it's 100%"}, lambda item: item["reference"] == "it's 100%"),
    ("reference of nobody", {"reference": "%"}, lambda item: False),
    ("last4", {"last4": "1111"}, lambda item: item["card"]["masked_pan"].endswith("1111")),
    ("min", {"min": 4110}, lambda item: item["amount"] >= 4110), ("max", {"max": 4110}, lambda item: item["amount"] <= 4110),
    ("min and max", {"min": 4051, "max": 4110}, lambda item: 4051 <= item["amount"] <= 4110), ("min 0", {"min": 0}, lambda item: True),
    ("two at once", {"status": "approved", "type": "purchase", "last4": "1111"},
     lambda item: item["status"] == "approved" and item["type"] == "purchase" and item["card"]["masked_pan"].endswith("1111")),
]


@pytest.mark.parametrize("filters", FILTERS, ids=[f"{name} {' '.join(map(str, given.values()))}" for name, given, _ in FILTERS])
async def test_a_filter_keeps_what_fits_and_nothing_else(shop: Shop, made: list[Item], filters: Filter) -> None:
    _, given, fits = filters
    for key in ("operator", "merchant.one", "till"):
        whole = await listed(shop, key)
        assert ids(await listed(shop, key, **given)) == [item["id"] for item in whole if fits(item)]
        assert ids(await listed(shop, key, limit=2, **given)) == [item["id"] for item in whole if fits(item)]


@pytest.mark.parametrize("name", ["rrn", "stan", "approval_code"])
async def test_a_number_finds_its_transactions(shop: Shop, made: list[Item], name: str) -> None:
    for item in made[:8]:
        if item[name]:
            found = await listed(shop, "merchant.one", **{name: item[name]})
            whole = await listed(shop, "merchant.one")
            assert ids(found) == [each["id"] for each in whole if each[name] == item[name]] and item["id"] in ids(found)


async def test_terminal_store_acquirer_and_token_narrow_the_list(shop: Shop, made: list[Item]) -> None:
    whole = await listed(shop, "operator")
    for name in ("terminal.till", "terminal.branch", "terminal.dual", "store.first", "store.second", "acquirer.single", "acquirer.dual"):
        kind = name.partition(".")[0]
        assert ids(await listed(shop, "operator", **{kind: shop.shown(name)})) == [item["id"] for item in whole if item[kind] == shop.shown(name)]
    row = await shop.row(made[3]["id"])
    same_card = {f"txn_{each['transaction_id']}" for each in await shop.sql("SELECT transaction_id FROM transaction WHERE pan_token = $1", row["pan_token"])}
    assert set(ids(await listed(shop, "operator", token=row["pan_token"].hex()))) == same_card
    assert await listed(shop, "operator", token="0" * 64) == []


async def test_from_is_included_to_is_not_and_windows_side_by_side_share_nothing(shop: Shop, made: list[Item]) -> None:
    whole = await listed(shop, "operator")
    middle = whole[len(whole) // 2]["created_at"]
    younger, older = ids(await listed(shop, "operator", **{"from": middle})), ids(await listed(shop, "operator", to=middle))
    assert younger + older == ids(whole)
    assert whole[len(whole) // 2]["id"] in younger
    begin, end = datetime.fromisoformat(whole[-1]["created_at"]), datetime.now(UTC) + timedelta(seconds=1)
    cuts = [begin + (end - begin) * at / 7 for at in range(8)]
    windows = [ids(await listed(shop, "operator", **{"from": low.isoformat(), "to": high.isoformat()})) for low, high in itertools.pairwise(cuts)]
    assert [each for window in reversed(windows) for each in window] == ids(whole)


async def test_a_time_with_an_offset_is_that_instant_and_one_without_is_utc(shop: Shop, made: list[Item]) -> None:
    whole = await listed(shop, "operator")
    middle = datetime.fromisoformat(whole[len(whole) // 2]["created_at"])
    shanghai = middle.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+08:00").tzinfo)
    expected = ids(await listed(shop, "operator", **{"from": middle.isoformat()}))
    assert ids(await listed(shop, "operator", **{"from": shanghai.isoformat()})) == expected
    assert ids(await listed(shop, "operator", **{"from": middle.replace(tzinfo=None).isoformat()})) == expected
    for item in whole:
        for name in ("created_at", "outcome_at"):
            assert item[name] is None or (item[name].endswith("Z") and len(item[name]) == 27)
        assert item["outcome_at"] is None or item["created_at"] <= item["outcome_at"]


async def test_everybody_sees_exactly_what_is_theirs(shop: Shop, made: list[Item]) -> None:
    whole = await listed(shop, "operator")
    merchant_of = {row["store_id"]: row["merchant_id"] for row in await shop.sql("SELECT store_id, merchant_id FROM store")}

    def of_merchant(item: Item, name: str) -> bool:
        return bool(merchant_of[UUID(item["store"][4:])] == shop.ids[f"merchant.{name}"])

    for name in ("one", "two", "three", "four"):
        assert ids(await listed(shop, f"merchant.{name}")) == [item["id"] for item in whole if of_merchant(item, name)]
    for till, store in (("till", "first"), ("neighbour", "first"), ("branch", "second"), ("dual", "two"), ("strict", "three"), ("lost", "four")):
        assert ids(await listed(shop, till)) == [item["id"] for item in whole if item["store"] == shop.shown(f"store.{store}")]
    assert await listed(shop, "merchant.four") == [] and await listed(shop, "lost") == []


async def test_a_filter_by_what_belongs_to_others_finds_as_little_as_by_what_is_absent(shop: Shop, made: list[Item]) -> None:
    for kind, foreign in (("terminal", "terminal.dual"), ("store", "store.two"), ("acquirer", "acquirer.dual")):
        for value in (shop.shown(foreign), f"{shop.shown(foreign)[:4]}{uuid4()}"):
            assert await listed(shop, "merchant.one", **{kind: value}) == []
    theirs = next(item for item in made if item["store"] == shop.shown("store.two"))
    for name in ("rrn", "approval_code", "stan"):
        if theirs[name]:
            assert theirs["id"] not in ids(await listed(shop, "merchant.one", **{name: theirs[name]}))
    assert theirs["id"] not in ids(await listed(shop, "merchant.one", after=theirs["id"], limit=200))


async def test_a_terminals_list_ends_at_its_store(shop: Shop, made: list[Item]) -> None:
    assert ids(await listed(shop, "till", store=shop.shown("store.first"))) == ids(await listed(shop, "till"))
    bodies = set()
    for store in (shop.shown("store.second"), shop.shown("store.two"), f"sto_{uuid4()}", "sto_x"):
        answer = await shop.ask("GET", f"/v1/transactions?store={quote(store)}", key="till")
        assert answer.status == 404
        bodies.add(str(answer.body | {"request_id": ""}))
    assert len(bodies) == 1
    assert await listed(shop, "till", terminal=shop.shown("terminal.branch")) == []
    assert ids(await listed(shop, "till", terminal=shop.shown("terminal.neighbour"))) == \
        [item["id"] for item in await listed(shop, "till") if item["terminal"] == shop.shown("terminal.neighbour")]


async def test_every_story_has_its_shape_and_its_steps_are_in_order(shop: Shop, made: list[Item]) -> None:
    for item in made:
        told = await shop.story(item["id"])
        Story.model_validate(told, strict=True)
        assert told["transaction"]["id"] == item["id"] and item["card"]["masked_pan"] in told["in_short"]
        instants = [step["at"] for step in told["steps"]]
        assert instants == sorted(instants) and told["steps"][0]["after_ms"] == 0.0
        for word in ({"reversing": "reversed"}.get(item["status"], item["status"]),):
            assert word in told["in_short"]
        assert "None" not in told["in_short"] or item["type"] == "capture", told["in_short"]


async def test_answers_are_not_kept_by_anybody_in_between(shop: Shop, made: list[Item]) -> None:
    for path in ("/v1/transactions", f"/v1/transactions/{made[0]['id']}", f"/v1/transactions/{made[0]['id']}/story", f"/v1/authorizations?idempotency_key={new_key()}"):
        answer = await shop.ask("GET", path, key="till")
        assert answer.headers.get("cache-control") == "no-store", path


@pytest.mark.parametrize("query", ["referense=table+4", "limit=5&limit=6", "state=approved&x", "brand=visa&%00=1", "card_number=4111111111111111"])
async def test_a_filter_that_is_not_known_does_not_select_everything(shop: Shop, query: str) -> None:
    refused = await shop.ask("GET", f"/v1/transactions?{query}", key="merchant.two")
    assert (refused.status, refused.body["code"]) == (422, "invalid"), refused.raw
    assert b"referense" not in refused.raw and b"4111" not in refused.raw
