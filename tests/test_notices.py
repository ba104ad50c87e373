"""Notices: templates with places that something fills, and merchants who read what happened in their language, once."""

from collections.abc import AsyncIterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from switch import database
from switch.notices import tell
from switch.notices.templates import KINDS, LANGUAGES, PLACES, WORDS, TemplateError, loaded, written
from tests.flows import Shop, open_shop, staffed
from tests.test_openapi import fits

NIL = "ntc_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"
SAID = {"id": "pay_1", "state": "confirmed", "amount": 123450, "currency": "CNY", "reason": ""}


@pytest.mark.parametrize(("words", "fault"), [
    ({"payout.confirmed": {"en": ("Paid", "{amuont}"), "zh": ("a", "b")}}, "nothing fills {amuont}"),
    ({"payout.confirmed": {"en": ("Paid", "{}"), "zh": ("a", "b")}}, "nothing fills {}"),
    ({"payout.confirmed": {"en": ("Paid", "x")}}, "must be in en, zh"), ({"payout.lost": {"en": ("a", "b"), "zh": ("a", "b")}}, "no such kind"),
])
def test_a_template_that_cannot_be_filled_is_refused_when_it_is_loaded(words: Any, fault: str) -> None:
    with pytest.raises(TemplateError, match=fault.replace("{", r"\{").replace("}", r"\}")):
        loaded(words, PLACES)


def test_every_kind_has_words_in_every_language_and_what_is_filled_in_is_no_template() -> None:
    assert set(PLACES) == KINDS and all(set(languages) == set(LANGUAGES) for languages in WORDS.values())
    assert written("payout.confirmed", "en", SAID) == ("Payout paid", "The bank paid 1234.50 CNY: pay_1.")
    assert written("payout.confirmed", "zh", SAID).text == "银行已支付 1234.50 CNY：pay_1。"
    assert written("ticket.answered", "en", {"id": "tkt_1", "subject": "{id}"}).text.endswith(": {id}")
    assert written("payout.returned", "en", SAID).text.endswith("pay_1. -")


@pytest.mark.parametrize(("net", "reserved", "en", "zh"), [
    (12_345, 0, "123.45 CNY net are due on 2026-11-25. Statement set_1.", "净额 123.45 CNY，应付日 2026-11-25。结算单 set_1。"),
    (0, 0, "The net is 0.00 CNY: nothing is due. Statement set_1 shows what moved that day.", "净额 0.00 CNY，无应付款项。当日明细见结算单 set_1。"),
    (-500, 0, "The net is -5.00 CNY: it is taken from your balance, and what that does not cover from later sales. Statement set_1.",
     "净额 -5.00 CNY，从余额中扣除，不足部分由后续销售抵扣。结算单 set_1。"),
    (12_345, 1_234, "Of 123.45 CNY net, 111.11 CNY are due on 2026-11-25, and 12.34 CNY are kept in reserve until 2027-02-22. Statement set_1.",
     "净额 123.45 CNY，其中 111.11 CNY 应付日 2026-11-25，12.34 CNY 留作准备金至 2027-02-22。结算单 set_1。"),
])
def test_a_statement_says_what_is_due_and_nothing_is_due_of_a_net_that_is_zero_or_negative(net: int, reserved: int, en: str, zh: str) -> None:
    said = {"settlement": "set_1", "business_date": "2026-11-24", "due_on": "2026-11-25", "net": net, "currency": "CNY"}
    said |= {"reserve_held": reserved, "reserve_release_on": "2027-02-22"} if reserved else {}
    assert written("settlement.stated", "en", said) == ("Statement of 2026-11-24", en)
    assert written("settlement.stated", "zh", said) == ("2026-11-24 结算单", zh)


@pytest.mark.parametrize(("zone", "en", "zh"), [
    ("Asia/Shanghai", "1 January 2027, 05:30 (Beijing time)", "北京时间 2027年1月1日 05:30"),
    ("America/New_York", "31 December 2026, 16:30 (UTC-05:00)", "UTC-05:00 2026年12月31日 16:30"),
    ("UTC", "31 December 2026, 21:30 (UTC+00:00)", "UTC+00:00 2026年12月31日 21:30"),
])
def test_a_deadline_is_said_by_the_merchants_clock_as_people_write_it(zone: str, en: str, zh: str) -> None:
    said = {"id": "dsp_1", "transaction": "txn_1", "amount": 100, "currency": "CNY", "answer_by": "2026-12-31T21:30:00Z"}
    assert written("dispute.due", "en", said, ZoneInfo(zone)).text == f"Your answer to dsp_1 about 1.00 CNY is due at {en}."
    assert written("dispute.due", "zh", said, ZoneInfo(zone)).text == f"争议 dsp_1（1.00 CNY）须在 {zh} 前回复。"
    assert written("dispute.due", "en", said | {"answer_by": None}, ZoneInfo(zone)).text.endswith("is due at -.")


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("notices"), SWITCH_WEBHOOK_TARGETS="any") as opened:
        await staffed(opened, database_url)
        await opened.caught_up()
        yield opened


async def test_a_notice_names_its_deadline_in_the_zone_of_its_merchant(shop: Shop) -> None:
    said = {"id": "dsp_9", "transaction": "txn_9", "amount": 100, "currency": "CNY", "answer_by": "2026-12-31T15:59:59Z"}
    connection = await database.connect(shop.url, "switch_writer")
    try:
        await tell(connection, shop.ids["merchant.one"], "dispute.due", "dsp_9", said)
    finally:
        await connection.close()
    (notice,) = [each for each in (await shop.ask("GET", "/v1/notices?language=zh", key="owner")).body["items"] if each["object"] == "dsp_9"]
    assert "北京时间 2026年12月31日 23:59 前" in notice["text"]
    one = await shop.ask("POST", f"/v1/notices/{notice['id']}/read", key="owner")
    assert "31 December 2026, 23:59 (Beijing time)" in one.body["text"]


async def test_a_notice_is_made_once_in_the_commit_of_what_it_tells_and_read_by_its_merchant(shop: Shop) -> None:
    spec = (await shop.ask("GET", "/openapi.json")).body
    connection = await database.connect(shop.url, "switch_writer")
    try:
        for _ in range(2):
            await tell(connection, shop.ids["merchant.one"], "payout.confirmed", "pay_1", SAID)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await tell(connection, shop.ids["merchant.one"], "payout.confirmed", "pay_2", SAID)
                raise ZeroDivisionError
    finally:
        await connection.close()
    page = await shop.ask("GET", "/v1/notices?unread=true", key="owner")
    fits(spec, "get", "/v1/notices", page)
    (notice,) = page.body["items"]
    assert (notice["title"], notice["object"], notice["read_at"]) == ("Payout paid", "pay_1", None)
    path = f"/v1/notices/{notice['id']}"
    for method, at in (("GET", path), ("POST", f"{path}/read")):
        assert (await shop.ask(method, at, key="stranger")).status == 404
        assert (await shop.ask(method, at.replace(notice["id"], NIL), key="owner")).status == 404
        assert (await shop.ask(method, at, key="support")).status == 403 and (await shop.ask(method, at, key="till")).status == 403
    assert (await shop.ask("GET", "/v1/notices", key="stranger")).body["items"] == []
    first = await shop.ask("POST", f"{path}/read", key="owner")
    fits(spec, "post", "/v1/notices/{notice}/read", first)
    assert first.body["read_at"] is not None and (await shop.ask("POST", f"{path}/read", key="owner")).body["read_at"] == first.body["read_at"]
    assert (await shop.ask("GET", "/v1/notices?unread=true", key="owner")).body["items"] == []


async def test_words_of_support_are_notices_in_the_merchant_s_language(shop: Shop) -> None:
    ticket = (await shop.ask("POST", "/v1/tickets", {"subject": "No paper", "text": "x"}, "owner")).body["id"]
    assert (await shop.ask("POST", f"/v1/tickets/{ticket}/comments", {"text": "internal", "internal": True}, "support")).status == 201
    assert (await shop.ask("POST", f"/v1/tickets/{ticket}/comments", {"text": "We come"}, "support")).status == 201
    assert (await shop.ask("PUT", "/v1/notice-language", {"language": "zh"}, "owner")).body == {"language": "zh"}
    assert (await shop.ask("PUT", "/v1/notice-language", {"language": "fr"}, "owner")).status == 422
    mine = [each for each in (await shop.ask("GET", "/v1/notices", key="owner")).body["items"] if each["kind"] == "ticket.answered"]
    assert [each["text"] for each in mine] == [f"客服已回复工单 {ticket}：No paper"]
    made = await shop.ask("POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/hook", "types": ["ticket.resolved"]}, "owner")
    assert made.status == 201, made.raw
    for event in ("assign", "resolve"):
        assert (await shop.ask("POST", f"/v1/tickets/{ticket}/steps", {"event": event, "text": "Done"}, "support")).status == 200
    newest = (await shop.ask("GET", "/v1/notices?limit=1", key="owner")).body["items"][0]
    (delivery,) = (await shop.ask("GET", f"/v1/notices/{newest['id']}", key="owner")).body["deliveries"]
    assert newest["kind"] == "ticket.resolved" and delivery["webhook"] == made.body["id"] and delivery["event"].startswith("msg_")
    english = await shop.ask("GET", f"/v1/notices/{mine[0]['id']}?language=en", key="owner")
    assert english.body["title"] == "Support answered" and english.body["deliveries"] == []
