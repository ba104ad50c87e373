"""Applying without help, at once and in the middle of a crash; what is reminded of; the light path to its end; and `switch applications` as people type it."""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch.api.applications import PROFILE
from switch.cli import main
from switch.merchants.applications.registration import LIMITS
from switch.merchants.applications.reminders import Reminders
from switch.settlement.jobs.table import Run
from tests.flows import Shop, eventually, open_shop
from tests.hands import signature
from tests.test_applications_flow import END, LICENCE, Applicant, begin, individual, number, whole
from tests.test_contracts_flow import Deal
from tests.test_scans import jpeg, pdf


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("applying"), SWITCH_TRUSTED_PROXIES="127.0.0.0/8") as opened:
        for name in ("chen", "wang"):
            key = await opened.ask("POST", "/v1/keys", {"role": "operator", "person": f"{name.title()} Reviewer"}, "administrator")
            opened.keys[name] = key.body["key"]
        yield opened


PERSON = {**PROFILE, "name": "李娜", "monthly_volume": 1_000_000}


async def register(shop: Shop, address: str, **changed: Any) -> Any:
    return await shop.ask("POST", "/v1/registrations", {"country": "CN", "profile": {**PERSON, **changed}}, "", X_Forwarded_For=address)


async def test_an_individual_registers_without_a_key_and_an_address_only_so_often(shop: Shop) -> None:
    answers = await asyncio.gather(*(register(shop, "192.0.2.7") for _ in range(LIMITS[0].most + 2)))
    assert sorted(answer.status for answer in answers) == [201] * LIMITS[0].most + [429, 429]
    late = next(answer for answer in answers if answer.status == 429)
    assert late.body["code"] == "too_many_attempts" and int(late.headers["retry-after"]) == 3600
    assert (await register(shop, "192.0.2.8")).status == 201  # a neighbour may
    assert (await register(shop, "192.0.2.9", mcc="x")).status == 422
    await shop.sql("UPDATE application_registration SET at = at - interval '61 minutes' WHERE subject = '192.0.2.7'")
    assert (await register(shop, "192.0.2.7")).status == 201
    await shop.sql("""INSERT INTO application_registration (application_id, subject, at) SELECT application_id, '192.0.2.7', now() - interval '2 hours' FROM application a
        WHERE NOT EXISTS (SELECT FROM application_registration r WHERE r.application_id = a.application_id)""")
    begun = next(answer.body for answer in answers if answer.status == 201)
    applicant = Applicant(shop, begun)
    assert begun["entity_type"] == "individual" and begun["events"][0]["by"] == "applicant"

    async def known() -> bool:
        return (await applicant.ask("GET")).status == 200

    await eventually(known, "the applicant's key is not known")
    assert (await shop.ask("GET", "/v1/applications", key=begun["key"])).status == 403


async def test_too_many_pages_and_pixels_are_refused_by_name(shop: Shop) -> None:
    applicant = await begin(shop)
    document = await applicant.add("business_licence", LICENCE, content=b"")
    for content, media, words in ((pdf(41), "application/pdf", "pages"), (jpeg(20_001, 10), "image/jpeg", "pixels")):
        answer = await applicant.file(document, content, media)
        assert answer.status == 422 and answer.body["code"] == "document_refused" and words in answer.body["detail"]
    assert (await applicant.file(document, pdf(40))).status == 201


async def test_of_two_submits_at_once_one_submits(shop: Shop) -> None:
    applicant = await individual(shop)
    answers = await asyncio.gather(*(applicant.ask("POST", "/submit", {}) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409]
    assert len(await shop.sql("SELECT FROM merchant m JOIN organisation o USING (organisation_id) WHERE m.merchant_id = $1",
                              UUID((await applicant.now())["merchant"][4:]))) == 1
    assert [event["event"] for event in (await applicant.now())["events"]] == ["begin", "submit", "pass"]


async def test_a_kill_in_the_middle_of_an_approval_leaves_nothing_and_it_is_done_again(shop: Shop) -> None:
    applicant = await whole(shop)
    await applicant.take()
    await applicant.judge_all()
    before = (await shop.sql("SELECT count(*) AS n FROM merchant"))[0]["n"]
    holder = await asyncpg.connect(shop.url)
    try:
        blocking = holder.transaction()
        await blocking.start()
        await holder.execute("LOCK TABLE bank_account IN SHARE ROW EXCLUSIVE MODE")  # the approval stands still between its terminals and the account
        asked = asyncio.create_task(applicant.decide("approve", version=3))

        async def stands() -> Any:
            return [row["pid"] for row in await shop.sql("""SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND query LIKE 'INSERT INTO bank_account%'""")]

        (pid,) = await eventually(stands, "the approval does not wait")
        await shop.sql("SELECT pg_terminate_backend($1)", pid)
        answer = await asked
        assert answer.status == 503, answer.raw
        await blocking.rollback()
    finally:
        await holder.close()
    assert (await applicant.now())["state"] == "in_review"
    assert (await shop.sql("SELECT count(*) AS n FROM merchant"))[0]["n"] == before
    done = await applicant.decide("approve", version=3)
    assert done.status == 200 and done.body["state"] == "approved", done.raw
    assert (await shop.sql("SELECT count(*) AS n FROM merchant"))[0]["n"] == before + 1


async def test_the_light_path_to_its_end_account_contract_and_sales(shop: Shop) -> None:
    """Registered, passed by rules, the account agreed by two people, the standard contract signed by the applicant's own key."""
    begun = (await register(shop, "192.0.2.20")).body
    applicant = Applicant(shop, begun)

    async def known() -> bool:
        return (await applicant.ask("GET")).status == 200

    await eventually(known, "the applicant's key is not known")
    assert (await shop.ask("GET", "/v1/contracts", key=applicant.key)).status == 404  # there is no merchant yet
    await applicant.add("representative_identity", {"name": "李娜", "number": number(f"11010119900101{uuid.uuid4().int % 1000:03}")}, END)
    await applicant.add("bank_account", {"holder": "李娜", "country": "CN", "account_number": str(uuid.uuid4().int)[:12], "bank_code": "102290000012"})
    passed = await applicant.ask("POST", "/submit", {})
    assert passed.body["state"] == "approved", passed.raw
    merchant = passed.body["merchant"]
    path = f"/v1/merchants/{merchant}/bank-account"
    assert (await shop.ask("GET", path, key="chen")).body["items"] == []  # nothing is paid out yet
    (row,) = (await shop.ask("GET", f"/v1/contracts?merchant={merchant}", key="chen")).body["items"]
    assert row["state"] == "draft" and (await shop.ask("GET", "/v1/contracts", key=applicant.key)).body["items"] == []
    deal = Deal(shop, "", row["id"])
    assert (await deal.offer("chen")).status == 200
    digest = (await deal.now())["documents"][-1]["sha256"]
    assert (await deal.sign(applicant.key, digest=digest)).body["state"] == "signed_by_merchant"
    stranger = (await register(shop, "192.0.2.21")).body["key"]
    await shop.caught_up()
    assert (await deal.sign(stranger, digest=digest)).status == 404
    assert (await deal.sign("chen")).body["code"] == "contract_account"
    asked = await shop.ask("POST", f"{path}/agreement", {"currency": "CNY", "reason": "Its statement was seen"}, "chen")
    assert asked.status == 202 and (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="chen")).body["code"] == "same_person"
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="wang")).status == 200
    (active,) = (await shop.ask("GET", path, key="chen")).body["items"]
    assert (active["state"], active["requested_by"], active["approved_by"]) == ("active", "applicant", "Wang Reviewer")
    done = await deal.sign("chen", image=signature(seed=3))
    assert done.status == 200 and done.body["state"] == "in_force", done.raw
    (tariff,) = (await shop.ask("GET", f"/v1/merchants/{merchant}/tariffs", key="chen")).body["items"]
    assert tariff["id"] == done.body["tariff"]


async def test_an_account_that_one_reviewer_saw_is_agreed_by_another(shop: Shop) -> None:
    applicant = await whole(shop)
    await applicant.take()
    await applicant.judge_all()
    merchant = (await applicant.decide("approve")).body["merchant"]
    path = f"/v1/merchants/{merchant}/bank-account"
    asked = await shop.ask("POST", f"{path}/agreement", {"currency": "CNY", "reason": "Its statement was seen"}, "wang")
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="chen")).status == 200
    (active,) = (await shop.ask("GET", path, key="chen")).body["items"]
    assert (active["requested_by"], active["approved_by"]) == ("Chen Reviewer", "Wang Reviewer")  # two people, whichever came first


async def test_documents_that_end_and_late_reviews_are_told_once_for_each_threshold(shop: Shop) -> None:
    applicant = await individual(shop)
    assert (await applicant.ask("POST", "/submit", {})).body["state"] == "approved"
    late = await whole(shop)
    (ident,) = [each["id"] for each in (await applicant.now())["documents"] if each["kind"] == "representative_identity"]
    now = datetime.now(UTC)
    job, reminders = shop.switch, Reminders(shop.switch.owed)

    class Held(Run):
        def __init__(self, arguments: Any) -> None:
            self.job, self.pool = type("J", (), {"arguments": arguments})(), job.owed  # type: ignore[assignment]

        async def hold(self, connection: Any) -> None:
            """Nobody else has it."""

    async def told(at: datetime) -> list[tuple[str, str]]:
        due = [each for each in await reminders.due(at) if each.arguments["object"] in (ident, late.id)]
        for each in due:
            assert (await reminders.do(Held(each.arguments)))["told"] is True
            assert (await reminders.do(Held(each.arguments)))["told"] is False  # another worker, a moment later
        return sorted((each.arguments["kind"], each.arguments["threshold"]) for each in due)

    assert await told(now) == []
    ends = datetime(2099, 12, 31, tzinfo=UTC)
    assert await told(now + timedelta(days=2, hours=1)) == [("review_overdue", "version2")]
    assert [await told(ends - timedelta(days=days)) for days in (31, 30, 29, 7, 3, 0)] == [[], [("document_ends", "days30")], [], [("document_ends", "days7")], [], [("document_ends", "days0")]]
    assert await told(ends + timedelta(days=9)) == []
    alerts = await shop.sql("SELECT kind, count FROM alert WHERE object = ANY($1::text[]) ORDER BY kind", [ident, late.id])
    assert [(row["kind"], row["count"]) for row in alerts] == [("document_ends", 3), ("review_overdue", 1)]
    await late.take()
    assert await told(now + timedelta(days=6)) == [("review_overdue", "version3")]  # another turn, another time


class Typed:
    """`switch WORDS`: the lines it prints."""

    def __init__(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.capsys = shop, capsys

    async def __call__(self, *words: str, key: str = "chen", code: int = 0) -> str:
        self.capsys.readouterr()
        keyed = ["--url", self.shop.base, "--key", self.shop.keys.get(key, key)]
        assert await asyncio.to_thread(main, [*words, *keyed]) == code
        captured = self.capsys.readouterr()
        return captured.out if code == 0 else captured.err


@pytest.fixture
def typed(shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.setenv("SWITCH_HOME", str(shop.settings.home))
    return Typed(shop, capsys)


async def test_applications_as_they_are_typed(shop: Shop, typed: Typed, tmp_path: Path) -> None:
    file = tmp_path / "application.json"
    file.write_text(json.dumps({"entity_type": "company", "country": "CN", "profile": PROFILE}), encoding="utf-8")
    said = await typed("applications", "begin", str(file))
    ident, key = re.findall(r"apl_\S+", said)[0], said.split()[-1]
    assert ident in await typed("applications", "list", "--state", "draft")
    assert "business_licence  missing" in await typed("applications", "missing", ident)
    await shop.caught_up()
    assert "business_licence" in await typed("applications", "submit", ident, key=key, code=2) and "missing" in await typed("applications", "show", ident)
    assert (fresh := (await typed("applications", "key", ident)).strip()) != key and fresh
    assert "withdrawn" in await typed("applications", "withdraw", ident, "--reason", "No shop")
    applicant = await whole(shop)
    assert applicant.id in await typed("applications", "queue")
    assert applicant.id not in await typed("applications", "queue", "--overdue")
    assert "in_review" in await typed("applications", "take", applicant.id, "--reason", "Next")
    for document in (await applicant.now())["documents"]:
        assert document["id"] in await typed("applications", "judge", applicant.id, document["id"], "accepted", "--reason", "Seen")
    assert re.search(r"score \d+", await typed("applications", "score", applicant.id))
    assert "refused with 409" in await typed("applications", "decide", applicant.id, "approve", "--version", "1", "--reason", "Old", code=2)
    done = await typed("applications", "decide", applicant.id, "approve", "--version", "3", "--reason", "Whole")
    assert "approved" in done and "mer_" in done
    assert "cannot be read" in await typed("applications", "begin", str(tmp_path / "absent"), code=2)
    file.write_text("[]", encoding="utf-8")
    assert "no JSON object" in await typed("applications", "begin", str(file), code=2)


async def test_contracts_as_they_are_typed(shop: Shop, typed: Typed, tmp_path: Path) -> None:
    applicant = await whole(shop)
    await applicant.take()
    await applicant.judge_all()
    merchant = (await applicant.decide("approve")).body["merchant"]
    (line,) = (await typed("contracts", "list", "--merchant", merchant)).splitlines()
    ident, file = line.split()[0], tmp_path / "terms.json"
    agreed = (await shop.ask("GET", f"/v1/contracts/{ident}", key="chen")).body["terms"]
    file.write_text(json.dumps(agreed | {"language": "en"}), encoding="utf-8")
    assert "document 2" in await typed("contracts", "revise", ident, str(file), "--reason", "In English")
    file.write_text(json.dumps(agreed | {"settlement": {**agreed["settlement"], "funding_days": 0}}), encoding="utf-8")
    assert "document 3" in await typed("contracts", "revise", ident, str(file), "--reason", "Sooner")
    waits = await typed("contracts", "offer", ident, "--version", "3", "--reason", "Agreed")
    assert "a second person" in waits and "paid earlier" in waits
    (approval,) = re.findall(r"app_\S+", waits)
    assert (await shop.ask("POST", f"/v1/approvals/{approval}", key="wang")).status == 200
    digest = (await shop.ask("GET", f"/v1/contracts/{ident}", key="chen")).body["documents"][-1]["sha256"]
    image = tmp_path / "hand.png"
    image.write_bytes(signature())
    assert "signed for the merchant by Wang Fang" in await typed("contracts", "sign", ident, str(image), "--sha256", digest, "--name", "Wang Fang", key=applicant.key)
    assert "withdrawn" in await typed("contracts", "withdraw", ident, "--reason", "Anew")
    assert "draft" in await typed("contracts", "draw-up", merchant, str(file))
    assert "refused with 409" in await typed("contracts", "end", ident, "--reason", "Over", code=2)
    assert "cannot be read" in await typed("contracts", "draw-up", merchant, str(tmp_path / "absent"), code=2)
