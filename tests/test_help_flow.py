"""Help in words over real HTTP and PostgreSQL: articles that are found, announcements for whom they are meant, feedback with one answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.api.applications import PROFILE
from switch.cli import main
from tests.flows import Shop, open_shop, staffed
from tests.test_openapi import fits

WORDS: dict[str, Any] = {"en": {"title": "Night work", "text": "Statements come late."}, "zh": {"title": "系统维护", "text": "结算单延后。"}}
NIL = "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"


def later(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("help")) as opened:
        await staffed(opened, database_url)
        begun = await opened.ask("POST", "/v1/applications", {"entity_type": "company", "country": "CN", "profile": dict(PROFILE)}, "operator")
        opened.keys["applicant"] = begun.body["key"]
        await opened.caught_up()
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


async def found(shop: Shop, query: str, key: str = "till") -> list[str]:
    answer = await shop.ask("GET", f"/v1/help-articles?{query}", key=key)
    assert answer.status == 200, answer.raw
    return [each["id"] for each in answer.body["items"]]


@pytest.mark.parametrize(("query", "ids"), [
    ("q=printer%20roll", ["paper"]), ("q=%E7%BC%BA%E7%BA%B8", ["paper"]), ("topic=declined", ["declined"]), ("topic=device_tampered", ["tampered"]),
    ("topic=settlement", ["payout"]), ("q=%25", []), ("q=nowhere", []), ("topic=terminal&q=charger&limit=1", ["battery"]),
])
async def test_articles_are_found_by_topic_and_by_every_word_in_either_language(shop: Shop, query: str, ids: list[str]) -> None:
    assert await found(shop, query) == ids and await found(shop, query, "applicant") == ids


async def test_an_article_is_written_by_support_and_every_version_stays(shop: Shop, spec: Any) -> None:
    path, body = "/v1/help-articles/night-work", WORDS | {"topics": ["settlement", "overloaded"]}
    for key in ("owner", "till", "applicant"):
        assert (await shop.ask("PUT", path, body, key)).status == 403
    assert (await shop.ask("PUT", path, body | {"topics": ["weather"]}, "support")).status == 422
    assert (await shop.ask("PUT", "/v1/help-articles/Night_Work", body, "support")).status == 422
    assert (await shop.ask("PUT", path, {"en": WORDS["en"]}, "support")).status == 422
    first = await shop.ask("PUT", path, body, "support")
    fits(spec, "put", "/v1/help-articles/{article}", first)
    assert first.body["version"] == 1 and await found(shop, "topic=overloaded") == ["night-work"]
    assert (await shop.ask("GET", f"{path}?language=zh", key="till")).body["title"] == "系统维护"
    assert (await shop.ask("PUT", path, body | {"withdrawn": True}, "operator")).body["version"] == 2
    assert await found(shop, "topic=overloaded") == [] and (await shop.ask("GET", path, key="owner")).status == 404
    assert await found(shop, "topic=overloaded", "support") == ["night-work"]
    assert [row["number"] for row in await shop.sql("SELECT number FROM help_article WHERE slug = 'night-work' ORDER BY number")] == [1, 2]


async def test_a_ticket_and_a_problem_lead_to_their_articles(shop: Shop) -> None:
    made = await shop.ask("POST", "/v1/tickets", {"subject": "No sales", "text": "x", "category": "payments"}, "owner")
    assert (made.body["category"], made.body["articles"]) == ("payments", ["declined", "pending"])
    assert (await shop.ask("POST", "/v1/tickets", {"subject": "x", "text": "x", "category": "weather"}, "owner")).status == 422
    help_ = (await shop.ask("GET", "/problems/device_tampered")).body["help"]
    assert await found(shop, help_.partition("?")[2]) == ["tampered"]


async def test_an_announcement_is_read_by_whom_it_is_meant_for_while_it_lasts(shop: Shop, spec: Any) -> None:
    async def made(**more: Any) -> str:
        answer = await shop.ask("POST", "/v1/announcements", WORDS | {"ends_at": later(1)} | more, "support")
        assert answer.status == 201, answer.raw
        fits(spec, "post", "/v1/announcements", answer)
        return str(answer.body["id"])

    async def seen(key: str, query: str = "") -> set[str]:
        answer = await shop.ask("GET", f"/v1/announcements?limit=200{query}", key=key)
        fits(spec, "get", "/v1/announcements", answer)
        return {each["id"] for each in answer.body["items"]} & every

    for_all, for_one, for_tills = await made(), await made(merchant=shop.shown("merchant.one")), await made(role="terminal")
    soon = await made(starts_at=later(0.5))
    every = {for_all, for_one, for_tills, soon}
    assert await seen("owner") == {for_all, for_one} and await seen("stranger") == {for_all} and await seen("applicant") == {for_all}
    assert await seen("till") == {for_all, for_one, for_tills} and await seen("dual") == {for_all, for_tills} and await seen("support") == every
    for ident, key in ((for_one, "stranger"), (for_tills, "owner"), (soon, "owner"), (f"ann_{NIL}", "owner")):
        assert (await shop.ask("GET", f"/v1/announcements/{ident}", key=key)).status == 404
        assert (await shop.ask("POST", f"/v1/announcements/{ident}/read", {}, key)).status == 404
    first = await shop.ask("POST", f"/v1/announcements/{for_one}/read", {}, "owner")
    assert first.body["read_at"] == (await shop.ask("POST", f"/v1/announcements/{for_one}/read", {}, "owner")).body["read_at"] is not None
    assert await seen("owner", "&unread=true") == {for_all} and for_one in await seen("till", "&unread=true")
    assert (first.body["reads"], (await shop.ask("GET", f"/v1/announcements/{for_one}", key="operator")).body["reads"]) == (None, 1)
    assert (await shop.ask("GET", f"/v1/announcements/{for_one}?language=zh", key="owner")).body["title"] == "系统维护"
    gone = f"/v1/announcements/{for_one}/withdrawal"
    assert (await shop.ask("POST", gone, {"reason": "x"}, "owner")).status == 403
    assert (await shop.ask("POST", gone, {"reason": "put off"}, "operator")).status == 201
    assert (await shop.ask("POST", gone, {"reason": "again"}, "operator")).status == 409 and await seen("owner") == {for_all}


@pytest.mark.parametrize("more", [
    {"ends_at": later(-1)}, {"starts_at": later(3), "ends_at": later(2)}, {"ends_at": later(9000)}, {"role": "owner"},
    {"role": "merchant", "merchant": f"mer_{NIL}"}, {"en": {"title": "", "text": "x"}}, {"ends_at": "tomorrow"},
])
async def test_an_announcement_that_nobody_could_read_is_refused(shop: Shop, more: dict[str, Any]) -> None:
    assert (await shop.ask("POST", "/v1/announcements", WORDS | {"ends_at": later(1)} | more, "support")).status == 422
    assert (await shop.ask("POST", "/v1/announcements", WORDS | {"ends_at": later(1), "merchant": f"mer_{NIL}"}, "support")).status == 404


async def test_feedback_is_about_what_is_one_s_own_and_answered_once(shop: Shop, spec: Any) -> None:
    async def given(key: str, **more: Any) -> Any:
        return await shop.ask("POST", "/v1/feedbacks", {"kind": "suggestion", "text": "Bigger letters"} | more, key)

    for key, about in (("owner", shop.shown("terminal.dual")), ("till", shop.shown("store.two")), ("applicant", shop.shown("store.first")),
                       ("owner", f"tkt_{NIL}")):
        assert (await given(key, about=about)).status == 404
    assert (await given("owner", about=shop.shown("merchant.one"))).status == 422 and (await given("support")).status == 403
    made = await given("till", about=shop.shown("terminal.till"))
    fits(spec, "post", "/v1/feedbacks", made)
    path = f"/v1/feedbacks/{made.body['id']}"
    for key in ("stranger", "neighbour", "applicant"):
        assert (await shop.ask("GET", path, key=key)).status == 404, key
    assert made.body["id"] not in str((await shop.ask("GET", "/v1/feedbacks", key="stranger")).body)
    assert (await shop.ask("POST", f"{path}/answer", {"text": "x"}, "owner")).status == 403
    assert (await shop.ask("POST", f"{path}/answer", {"text": "In May"}, "support")).body["answered_by"] == "Wu Min"
    assert (await shop.ask("POST", f"{path}/answer", {"text": "In June"}, "operator")).status == 409
    seen = (await shop.ask("GET", path, key="owner")).body
    assert (seen["answer"], seen["answered_by"], seen["by"]) == ("In May", "support", shop.shown("terminal.till"))
    assert made.body["id"] not in str((await shop.ask("GET", "/v1/feedbacks?answered=false", key="operator")).body)
    (notice,) = [each for each in (await shop.ask("GET", "/v1/notices?language=zh", key="owner")).body["items"] if each["kind"] == "feedback.answered"]
    assert notice["object"] == made.body["id"] and notice["title"] == "您的反馈已答复"
    theirs = await given("applicant")
    assert (await shop.ask("POST", f"/v1/feedbacks/{theirs.body['id']}/answer", {"text": "Thank you"}, "support")).status == 201
    assert (await shop.ask("GET", "/v1/feedbacks", key="applicant")).body["items"][0]["answer"] == "Thank you"


@pytest.mark.parametrize("statement", [
    "UPDATE feedback SET answer = 'x', answered_at = now() WHERE answer IS NOT NULL", "UPDATE feedback SET text = 'x'", "DELETE FROM feedback",
    "UPDATE help_article SET en = zh", "DELETE FROM announcement_read", "UPDATE announcement SET ends_at = now()",
])
async def test_what_was_said_stays(shop: Shop, statement: str) -> None:
    made = await shop.ask("POST", "/v1/feedbacks", {"kind": "praise", "text": "Fast"}, "owner")
    await shop.ask("POST", f"/v1/feedbacks/{made.body['id']}/answer", {"text": "Thank you"}, "support")
    connection = await database.connect(shop.url, "switch_writer")
    try:
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.InsufficientPrivilegeError)):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_same_on_the_command_line(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def said(*words: str, key: str = "support") -> list[str]:
        code = await asyncio.to_thread(main, [*words, "--url", shop.base, "--key", shop.keys[key]])
        lines = capsys.readouterr()
        assert code == 0, lines.err
        return lines.out.splitlines()

    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    assert (await said("article", "list", "printer", "roll"))[0].startswith("paper ")
    assert (await said("article", "write", "late", "--file", str(tmp_path / "words.json")))[1] == "Night work"
    assert (await said("article", "show", "late", "--language", "zh", key="owner"))[1:] == ["系统维护", "结算单延后。"]
    made = (await said("announce", "make", "--file", str(tmp_path / "words.json"), "--until", later(1), "--role", "merchant"))[0].split()[0]
    assert (await said("announce", "read", made, key="owner"))[0].endswith("in force  read")
    assert any(line.startswith(made) for line in await said("announce", "list", key="owner"))
    assert "withdrawn  read by 1" in (await said("announce", "withdraw", made, "--reason", "put off"))[0]
    given = (await said("feedback", "give", "question", "--text", "When?", key="owner"))[0].split()[0]
    assert any(line.startswith(given) for line in await said("feedback", "list", "--open"))
    assert (await said("feedback", "answer", given, "--text", "In May"))[1].endswith("Wu Min: In May")
