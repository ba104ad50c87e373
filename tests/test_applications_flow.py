"""Applying over HTTP with a real PostgreSQL: documents, what is missing, review, two people, the light path, and what an approval makes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from switch.api.applications import PROFILE
from tests.flows import Shop, eventually, open_shop
from tests.processes import Answer, Caller
from tests.test_exhibits import HOSTILE, JPEG, PDF, PNG

LICENCE = {"number": "91110000600037341L", "name": PROFILE["name"]}
OTHER_LICENCE = {"number": "914403001922038216", "name": PROFILE["name"]}
IDENTITY = {"number": "11010519491231002X", "name": "王芳"}
ACCOUNT = {"holder": PROFILE["name"], "country": "CN", "account_number": "1001234567890", "bank_code": "102290000012"}
FOOD = {"number": "JY13101010000001"}
END = "2099-12-31"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("applying")) as opened:
        for name in ("chen", "wang"):
            key = await opened.ask("POST", "/v1/keys", {"role": "operator", "person": f"{name.title()} Reviewer"}, "administrator")
            opened.keys[name] = key.body["key"]
        yield opened


def number(base: str) -> str:
    """A fresh resident id for each test: the serial of `base` with its check character."""
    weights = [pow(2, 17 - at, 11) for at in range(17)]
    return base + "10X98765432"[sum(int(sign) * weight for sign, weight in zip(base, weights, strict=True)) % 11]


class Applicant:
    """One application as its applicant sees it, with a key of its own."""

    def __init__(self, shop: Shop, begun: Any) -> None:
        self.shop, self.id, self.key = shop, begun["id"], begun["key"]

    async def ask(self, method: str, path: str = "", body: object = None, key: str = "", **headers: str) -> Answer:
        return await self.shop.ask(method, f"/v1/applications/{self.id}{path}", body, key or self.key, **headers)

    async def add(self, kind: str, fields: dict[str, str], expires_on: str | None = None, content: bytes = PDF, media: str = "application/pdf") -> str:
        more = {} if expires_on is None else {"expires_on": expires_on}
        answer = await self.ask("POST", "/documents", {"kind": kind, "fields": fields, **more})
        assert answer.status == 201, answer.raw
        (document,) = [each["id"] for each in answer.body["documents"] if each["kind"] == kind]
        if content:
            assert (await self.file(document, content, media)).status == 201
        return str(document)

    async def file(self, document: str, content: bytes, media: str = "application/pdf", key: str = "") -> Answer:
        lines = [f"POST /v1/applications/{self.id}/documents/{document}/file?name=scan HTTP/1.1", "Host: switch", f"Authorization: Bearer {key or self.key}",
                 f"Content-Length: {len(content)}", f"Content-Type: {media}"]
        caller = Caller()
        try:
            return await caller.ask(self.shop.base, "\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        finally:
            caller.close()

    async def now(self, key: str = "operator") -> Any:
        return (await self.ask("GET", key=key)).body

    async def take(self, key: str = "chen") -> Answer:
        return await self.ask("POST", "/take", {"reason": "Next"}, key)

    async def judge_all(self, key: str = "chen", verdict: str = "accepted") -> None:
        for document in (await self.now())["documents"]:
            answer = await self.ask("POST", f"/documents/{document['id']}/verdicts", {"verdict": verdict, "reason": "Looked at"}, key)
            assert answer.status == 200, answer.raw

    async def decide(self, decision: str, key: str = "chen", version: int | None = None) -> Answer:
        version = (await self.now())["version"] if version is None else version
        return await self.ask("POST", "/decisions", {"decision": decision, "version": version, "reason": "As looked at"}, key)


async def begin(shop: Shop, entity_type: str = "company", **changed: Any) -> Applicant:
    answer = await shop.ask("POST", "/v1/applications", {"entity_type": entity_type, "country": "CN", "profile": {**PROFILE, **changed}}, "operator")
    assert answer.status == 201, answer.raw
    applicant = Applicant(shop, answer.body)

    async def known() -> bool:
        return (await applicant.ask("GET")).status == 200

    await eventually(known, "the applicant's key is not known", 8)
    return applicant


async def whole(shop: Shop, **changed: Any) -> Applicant:
    """A company with all its documents, submitted."""
    applicant = await begin(shop, **changed)
    await applicant.add("business_licence", LICENCE)
    await applicant.add("tax_registration", {"number": LICENCE["number"]}, content=PNG, media="image/png")
    await applicant.add("bank_account", ACCOUNT, content=JPEG, media="image/jpeg")
    await applicant.add("representative_identity", {**IDENTITY, "number": number(f"11010119800101{uuid.uuid4().int % 1000:03}")}, END)
    await applicant.add("food_licence", FOOD | {"number": f"JY{uuid.uuid4().int % 10**14}"}, END)
    answer = await applicant.ask("POST", "/submit", {})
    assert answer.status == 200 and answer.body["state"] == "submitted", answer.raw
    return applicant


async def test_what_is_missing_is_always_a_current_list(shop: Shop) -> None:
    applicant = await begin(shop)

    async def missing() -> dict[str, str]:
        return {each["kind"]: each["what"] for each in (await applicant.ask("GET", "/missing")).body["items"]}

    assert await missing() == dict.fromkeys(("business_licence", "tax_registration", "bank_account", "representative_identity", "food_licence"), "missing")
    refused = await applicant.ask("POST", "/submit", {})
    assert refused.status == 409 and refused.body["code"] == "application_incomplete" and len(refused.body["errors"]) == 5
    await applicant.add("business_licence", LICENCE, content=b"")
    assert (await missing())["business_licence"] == "no_file"
    await applicant.add("business_licence", LICENCE)
    await applicant.add("tax_registration", {"number": OTHER_LICENCE["number"]})
    assert "business_licence" not in await missing() and (await missing())["tax_registration"] == "disagrees"
    await applicant.add("tax_registration", {"number": LICENCE["number"]})
    await applicant.add("bank_account", {**ACCOUNT, "holder": "Somebody Else"})
    assert (await missing())["bank_account"] == "disagrees"
    assert "tax_registration" not in await missing()
    changed = await applicant.ask("PUT", "/profile", {"profile": {**PROFILE, "mcc": "5912"}})
    assert changed.status == 200 and "drug_licence" in await missing() and "food_licence" not in await missing()


@pytest.mark.parametrize(("kind", "fields", "expires_on"), [
    ("business_licence", {**LICENCE, "number": "91110000600037342L"}, None), ("business_licence", {"number": LICENCE["number"]}, None),
    ("business_licence", {**LICENCE, "more": "x"}, None), ("representative_identity", {**IDENTITY, "number": "110105194912310021"}, END),
    ("representative_identity", {**IDENTITY, "number": "11010519491331002X"}, END), ("representative_identity", IDENTITY, None),
    ("representative_identity", IDENTITY, "2020-01-01"), ("bank_account", {"holder": "A", "country": "DE", "iban": "DE89370400440532013001"}, None),
    ("bank_account", {**ACCOUNT, "account_number": "6212345678900000004"}, None), ("bank_account", {"holder": "A", "country": "CN"}, None),
    ("business_licence", {**LICENCE, "name": "x\nSet-Cookie"}, None),
])
async def test_what_cannot_be_right_is_refused_by_its_field_and_not_repeated(shop: Shop, kind: str, fields: dict[str, str], expires_on: str | None) -> None:
    applicant = await begin(shop)
    answer = await applicant.ask("POST", "/documents", {"kind": kind, "fields": fields} | ({} if expires_on is None else {"expires_on": expires_on}))
    assert answer.status == 422 and answer.body["code"] == "invalid" and answer.body["errors"], answer.raw
    assert not any(value.encode() in answer.raw for value in fields.values() if len(value) > 4)
    assert (await applicant.now())["documents"] == []


async def test_hostile_files_are_refused_and_whole_ones_come_back_as_attachments(shop: Shop) -> None:
    applicant = await begin(shop)
    document = await applicant.add("business_licence", LICENCE, content=b"")
    for name, content in HOSTILE.items():
        for media in ("application/pdf", "image/png", "image/jpeg"):
            assert (await applicant.file(document, content, media)).body["code"] == "document_refused", name
    assert (await applicant.file(document, PDF, "text/html")).status == 415
    assert (await applicant.file(document, PDF, "image/png")).body["code"] == "document_refused"
    large = await applicant.file(document, JPEG[:-2] + bytes(4 << 20) + JPEG[-2:], "image/jpeg")
    assert large.status == 413
    assert (await applicant.file(document, PDF)).status == 201 and (await applicant.file(document, PDF)).status == 201
    assert (await applicant.file(document, PNG, "image/png")).body["code"] == "conflict"
    answer = await applicant.ask("GET", f"/documents/{document}/file")
    assert answer.status == 200 and answer.raw == PDF
    assert answer.headers["content-disposition"].startswith("attachment") and answer.headers["x-content-type-options"] == "nosniff"


async def test_nothing_of_a_document_stands_in_the_database_in_clear(shop: Shop) -> None:
    applicant = await begin(shop)
    await applicant.add("representative_identity", IDENTITY, END, content=PDF)
    connection = await asyncpg.connect(shop.url)
    try:
        rows = await connection.fetch("SELECT d.*, f.* FROM application_document d JOIN application_file f USING (document_id)")
        assert rows
        for row in rows:
            for value in row.values():
                data = value if isinstance(value, bytes) else str(value).encode()
                assert IDENTITY["number"].encode() not in data and b"%PDF" not in data
    finally:
        await connection.close()


async def test_a_company_is_reviewed_and_approved_and_its_merchant_is_there_with_all_that_belongs_to_it(shop: Shop) -> None:
    applicant = await whole(shop)
    queue = await shop.ask("GET", "/v1/reviews?limit=200", key="chen")
    (mine,) = [each for each in queue.body["items"] if each["id"] == applicant.id]
    assert mine["waits_for"] == "reviewer" and mine["due_at"]
    assert (await applicant.decide("approve")).body["code"] == "application_move"  # nobody has taken it
    assert (await applicant.take()).status == 200
    unseen = await applicant.decide("approve")
    assert unseen.body["code"] == "application_incomplete" and len(unseen.body["errors"]) == 5
    await applicant.judge_all()
    version = (await applicant.now())["version"]
    answer = await applicant.decide("approve", version=version)
    assert answer.status == 200 and answer.body["state"] == "approved", answer.raw
    again = await applicant.decide("approve", version=version)
    assert again.status == 200 and again.body["merchant"] == answer.body["merchant"]
    merchant = (await shop.ask("GET", f"/v1/merchants/{answer.body['merchant']}", key="operator")).body
    assert (merchant["name"], merchant["mcc"], merchant["status"]) == ("Harbour Bakery", "5462", "active")
    connection = await asyncpg.connect(shop.url)
    try:
        merchant_id = uuid.UUID(merchant["id"][4:])
        assert await connection.fetchval("SELECT count(*) FROM store WHERE merchant_id = $1", merchant_id) == 1
        assert await connection.fetchval("SELECT count(*) FROM terminal WHERE merchant_id = $1", merchant_id) == PROFILE["terminals"]
        account = await connection.fetchrow("SELECT * FROM bank_account WHERE merchant_id = $1", merchant_id)
        assert (account["state"], account["requested_by"], account["approved_by"], account["last4"]) == ("asked", "Chen Reviewer", None, "7890")
    finally:
        await connection.close()
    seen = await applicant.ask("GET")
    assert [event["event"] for event in seen.body["events"]] == ["begin", "submit", "take", "approve"]
    assert {event["by"] for event in seen.body["events"]} == {"reviewer", "applicant"} and b"Chen" not in seen.raw
    assert seen.body["events"][-1]["reason"] == "As looked at" and all(event["detail"] == {} for event in seen.body["events"])
    assert (await applicant.decide("refuse")).body["code"] == "application_move"


async def test_more_is_asked_for_and_brought_and_nothing_before_it_is_lost(shop: Shop) -> None:
    applicant = await whole(shop)
    await applicant.take()
    (licence,) = [each["id"] for each in (await applicant.now())["documents"] if each["kind"] == "business_licence"]
    await applicant.ask("POST", f"/documents/{licence}/verdicts", {"verdict": "refused", "reason": "It is cut off"}, "chen")
    assert (await applicant.ask("POST", "/documents", {"kind": "business_licence", "fields": LICENCE})).body["code"] == "application_move"
    assert (await applicant.decide("ask_more")).body["waits_for"] == "applicant"
    assert (await applicant.ask("GET", "/missing")).body["items"] == [{"kind": "business_licence", "what": "refused", "what_to_do": "It is cut off"}]
    assert (await applicant.ask("POST", "/submit", {})).body["code"] == "application_incomplete"
    fresh = await applicant.add("business_licence", LICENCE, content=PNG, media="image/png")
    assert (await applicant.ask("POST", "/submit", {})).body["state"] == "submitted"
    words = (await applicant.ask("GET", "/notices?language=zh")).body["items"]
    assert [each["kind"] for each in words] == ["application.submitted", "application.more_wanted", "application.submitted"]
    assert applicant.id in words[1]["text"] and words[1]["title"] == "请补充资料"
    assert (await applicant.ask("GET", f"/documents/{licence}/file")).raw == PDF and (await applicant.ask("GET", f"/documents/{fresh}/file")).raw == PNG


async def test_of_two_reviewers_at_once_one_decides(shop: Shop) -> None:
    applicant = await whole(shop)
    await applicant.take()
    await applicant.judge_all()
    version = (await applicant.now())["version"]
    answers = await asyncio.gather(applicant.decide("approve", "chen", version), applicant.decide("refuse", "wang", version),
                                   applicant.decide("refuse", "chen", version))
    assert sum(answer.status == 200 for answer in answers) == 1 and answers[1].status == 409
    taken = await whole(shop)
    answers = await asyncio.gather(taken.take("chen"), taken.take("wang"))
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert (await taken.now())["version"] == 3


async def test_what_a_colleague_has_is_taken_over_only_in_so_many_words_and_that_stands_in_its_story(shop: Shop) -> None:
    applicant = await whole(shop)
    assert (await applicant.take("chen")).status == 200
    held = await applicant.now()
    refused = await applicant.take("wang")
    assert (refused.status, refused.body["code"]) == (409, "taken")
    assert refused.body["detail"] == f"Chen Reviewer has had it since {held['since']}."
    again = await applicant.take("chen")
    assert (again.status, again.body["version"], again.body["due_at"]) == (200, held["version"], held["due_at"])  # no new time for the same person
    over = await applicant.ask("POST", "/take", {"reason": "Chen is ill", "take_over": True}, "wang")
    assert (over.status, over.body["reviewer"]) == (200, "Wang Reviewer")
    last = over.body["events"][-1]
    assert (last["event"], last["by"], last["reason"], last["detail"]) == ("take_over", "Wang Reviewer", "Chen is ill", {"from": "Chen Reviewer"})
    assert (await applicant.decide("refuse", "chen")).body["code"] == "taken"
    free = await whole(shop)
    assert (await free.ask("POST", "/take", {"reason": "Next", "take_over": True}, "wang")).body["events"][-1]["event"] == "take"


async def test_a_large_one_needs_two_people_and_what_changed_meanwhile_is_not_approved(shop: Shop) -> None:
    applicant = await whole(shop, monthly_volume=200_000_000)
    await applicant.take()
    await applicant.judge_all()
    score = (await applicant.ask("GET", "/score", key="chen")).body
    assert {reason["rule"] for reason in score["reasons"]} >= {"large_volume"} and score["two_people"]
    assert score["score"] == max(0, min(100, 100 + sum(reason["points"] for reason in score["reasons"])))
    asked = await applicant.decide("approve")
    assert asked.status == 202 and (await applicant.now())["state"] == "in_review"
    approval = f"/v1/approvals/{asked.body['id']}"
    assert (await shop.ask("POST", approval, key="chen")).body["code"] == "same_person"
    done = await shop.ask("POST", approval, key="wang")
    assert done.status == 200, done.raw
    last = (await applicant.now())["events"][-1]
    assert (last["event"], last["by"], last["detail"]["agreed_by"]) == ("approve", "Chen Reviewer", "Wang Reviewer")
    (account,) = await shop.sql("SELECT state, requested_by, approved_by FROM bank_account WHERE merchant_id = $1", uuid.UUID((await applicant.now())["merchant"][4:]))
    assert tuple(account.values()) == ("active", "Chen Reviewer", "Wang Reviewer")
    other = await whole(shop, monthly_volume=200_000_000)
    await other.take()
    await other.judge_all()
    asked = await other.decide("approve")
    assert (await other.ask("POST", "/take", {"reason": "Chen is ill", "take_over": True}, "wang")).status == 200
    late = await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", key="wang")
    assert late.body["code"] == "application_changed" and (await other.now())["merchant"] is None


async def individual(shop: Shop, birth: str = "19900101", **changed: Any) -> Applicant:
    applicant = await begin(shop, "individual", name="李娜", monthly_volume=1_000_000, **changed)
    await applicant.add("representative_identity", {"name": "李娜", "number": number(f"110101{birth}{uuid.uuid4().int % 1000:03}")}, END)
    await applicant.add("bank_account", {"holder": "李娜", "country": "CN", "account_number": str(uuid.uuid4().int)[:12], "bank_code": "102290000012"})
    return applicant


async def test_an_individual_whom_the_rules_know_enough_of_is_approved_at_once_with_low_limits(shop: Shop) -> None:
    applicant = await individual(shop)
    answer = await applicant.ask("POST", "/submit", {})
    assert answer.status == 200 and answer.body["state"] == "approved", answer.raw
    assert answer.body["limits"] == {"per_sale": 100_000, "per_day": 500_000, "per_month": 5_000_000, "currency": "CNY"}
    assert [(event["event"], event["by"]) for event in answer.body["events"]][-1] == ("pass", "rules")
    limits = (await shop.ask("GET", "/v1/merchant-limits", key="operator")).body["items"]
    (limit,) = (each for each in limits if each["merchant"] == answer.body["merchant"])
    assert {name: limit[name] for name in answer.body["limits"]} == answer.body["limits"] and limit["state"] == "active"
    merchant = uuid.UUID(answer.body["merchant"][4:])

    async def known() -> bool:  # to the worker that sells
        return shop.switch.directory.watchlist.limits.get(merchant, {}).keys() == {"CNY"}

    await eventually(known, "the worker that sells does not know the limits")
    connection = await asyncpg.connect(shop.url)
    try:  # nobody has looked at its account yet
        assert await connection.fetchval("SELECT state FROM bank_account WHERE merchant_id = $1", uuid.UUID(answer.body["merchant"][4:])) == "asked"
        assert await connection.fetchval("SELECT kind FROM notice WHERE merchant_id = $1", merchant) == "application.approved"
    finally:
        await connection.close()


@pytest.mark.parametrize(("birth", "changed"), [("20150101", {}), ("19900101", {"mcc": "7995"}), ("19900101", {"currency": "EUR"})])
async def test_any_other_individual_waits_for_a_person_and_the_reasons_are_told(shop: Shop, birth: str, changed: dict[str, str]) -> None:
    applicant = await individual(shop, birth, **changed)
    answer = await applicant.ask("POST", "/submit", {})
    assert answer.body["state"] == "submitted" and answer.body["merchant"] is None
    assert (await applicant.now())["events"][-1]["detail"]["waits_because"]


async def test_another_applicants_ids_are_absent_on_every_route(shop: Shop) -> None:
    mine, theirs = await begin(shop), await begin(shop)
    document = await theirs.add("business_licence", LICENCE)
    own = await mine.add("business_licence", LICENCE)
    for method, path, body in (("GET", "", None), ("GET", "/missing", None), ("GET", "/notices", None), ("PUT", "/profile", {"profile": PROFILE}),
                               ("POST", "/documents", {"kind": "business_licence", "fields": LICENCE}), ("POST", "/submit", {}),
                               ("POST", "/withdraw", {"reason": "Mine"}), ("GET", f"/documents/{document}/file", None)):
        assert (await theirs.ask(method, path, body, mine.key)).status == 404, path
    assert (await theirs.file(document, PDF, key=mine.key)).status == 404
    assert (await mine.ask("GET", f"/documents/{document}/file")).status == 404
    assert (await mine.file(document, PNG, "image/png")).status == 404
    assert (await theirs.ask("GET", f"/documents/{own}/file")).status == 404
    for key in ("till", "merchant.one"):
        assert (await mine.ask("GET", key=key)).status == 403


FOR_APPLICANTS_TOO = ("/v1/recommendations", "/v1/offers/comparisons")  # they read nothing of a merchant
HELP = ("/v1/help-articles", "/v1/announcements", "/v1/feedbacks")  # for everybody, each reader its own


async def test_an_applicants_key_opens_nothing_else(shop: Shop) -> None:
    applicant = await begin(shop)
    file = (await shop.ask("GET", "/openapi.json")).body
    for path, methods in file["paths"].items():
        if (not path.startswith("/v1/") or path.startswith(("/v1/applications/{application}", *HELP))
                or path in ("/v1/activations", "/v1/registrations", *FOR_APPLICANTS_TOO)):
            continue
        for method in methods:
            asked = path.replace("{", "").replace("}", "")
            answer = await shop.ask(method.upper(), asked, {} if method in ("post", "put", "patch") else None, applicant.key)
            # A parameter that is missing is told before anything is asked about the key.
            unasked = answer.status == 422 and all(error["field"].startswith("query.") and error["type"] == "missing" for error in answer.body["errors"])
            own = path.startswith("/v1/contracts") and answer.status == 404  # it has one when its merchant is made
            assert answer.status == 403 or unasked or own, (method, path, answer.raw)
    for path in ("take", "decisions", "keys"):
        assert (await applicant.ask("POST", f"/{path}", {})).status == 403
    assert (await applicant.ask("GET", "/score")).status == 403
    lost = applicant.key
    fresh = await applicant.ask("POST", "/keys", {}, "operator")

    async def ended() -> bool:
        return (await applicant.ask("GET", key=lost)).status == 401

    await eventually(ended, "the lost key is still good", 8)
    assert (await applicant.ask("GET", key=fresh.body["key"])).status == 200
