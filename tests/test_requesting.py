"""`switch ask`: any route of a running switch on the command line."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from switch.commands.requesting import FILE_MAX
from tests.flows import Shop, body_of, new_key, open_shop
from tests.hands import signature as drawn
from tests.processes import Ended, run
from tests.test_exhibits import PDF

Ask = Callable[..., Awaitable[Ended]]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("requesting")) as opened:
        yield opened


@pytest.fixture
def ask(shop: Shop, tmp_path: Path) -> Ask:
    async def asked(*words: str, key: str = "operator") -> Ended:
        return await asyncio.to_thread(run, tmp_path / "home", "ask", *words, "--url", shop.base, "--key", shop.keys[key])

    return asked


async def test_a_question_has_its_fields_in_the_query(shop: Shop, ask: Ask) -> None:
    sold = (await shop.pay(4100)).body
    found = await ask("get", "/v1/transactions?limit=200", "-f", f"terminal={shop.shown('terminal.till')}", "-j", "min=4100", "-j", "max=4100", key="merchant.one")
    assert found.code == 0 and [each["id"] for each in json.loads(found.out)["items"]] == [sold["id"]], found


async def test_an_order_has_them_in_its_body_and_one_key_has_one_effect(shop: Shop, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "sale.json").write_text(json.dumps(body_of(4200)))
    words = ("POST", "/v1/authorizations", "--body", str(tmp_path / "sale.json"), "--idempotency-key", new_key())
    first, again = [json.loads((await ask(*words, key="till")).out) for _ in range(2)]
    assert (first["status"], first["id"]) == ("approved", again["id"])
    changed = await ask("PATCH", f"/v1/acquirers/{shop.shown('acquirer.dual')}", "-j", "answer_timeout_ms=700")
    assert changed.code == 0 and json.loads(changed.out)["answer_timeout_ms"] == 700, changed


async def test_a_file_goes_up_and_one_comes_down(shop: Shop, ask: Ask, tmp_path: Path) -> None:
    sold = (await shop.pay(4300)).body["id"]
    told = await ask("GET", f"/v1/transactions/{sold}/receipt", "-f", "format=text", key="merchant.one")
    assert told.code == 0 and "43.00" in told.out, told
    kept = await ask("GET", "/openapi.json", "--to", str(tmp_path / "api.json"))
    assert kept.code == 0 and json.loads((tmp_path / "api.json").read_text())["openapi"] and (tmp_path / "api.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "slip.pdf").write_bytes(PDF)
    refused = await ask("POST", f"/v1/authorizations/{sold}/signature", "--body", str(tmp_path / "slip.pdf"), "--media-type", "image/png", key="till")
    assert refused.code == 2 and "no PNG" in refused.err, refused
    (tmp_path / "hand.png").write_bytes(drawn())
    signed = await ask("POST", f"/v1/authorizations/{sold}/signature", "--body", str(tmp_path / "hand.png"), "--media-type", "image/png", key="till")
    assert signed.code == 0 and json.loads(signed.out)["sha256"], signed
    shown = await ask("GET", f"/v1/transactions/{sold}/signature", key="merchant.one")
    assert shown.code == 2 and "say --to FILE" in shown.err, shown


def test_an_address_that_is_none_is_told_as_such(tmp_path: Path) -> None:
    ended = run(tmp_path / "home", "ask", "GET", "/v1/links", "--url", "nowhere", "--key", "k")
    assert (ended.code, ended.err) == (2, "switch: the switch cannot be reached (not an http:// or https:// URL); check --url\n")


async def test_what_is_sent_has_a_bound(ask: Ask, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(FILE_MAX + 1)
    ended = await ask("POST", "/v1/imports", "--body", str(tmp_path / "large"))
    assert ended.code == 2 and "is larger than 64 MB" in ended.err, ended


@pytest.mark.parametrize(("words", "why"), [
    (("GET", "v1/links"), "the path begins with /, such as /v1/links"), (("GET", "/v1/links", "-f", "x"), "'x' is no NAME=VALUE"), (("POST", "/v1/x", "-j", "a=b"), "a is no JSON"),
    (("GET", "/v1/links", "--body", "x"), "GET has no body"), (("POST", "/v1/x", "--body", "/nowhere", "-f", "a=b"), "not both"),
    (("POST", "/v1/x", "--body", "/nowhere"), "/nowhere cannot be read: No such file"), (("GET", "/v1/nothing"), "refused with 404"), (("PURGE", "/v1/x"), "invalid choice"),
])
async def test_what_cannot_be_asked_is_one_line_that_says_why(ask: Ask, words: tuple[str, ...], why: str) -> None:
    ended = await ask(*words)
    assert (ended.code, ended.out) == (2, "") and why in ended.err and "Traceback" not in ended.err, ended
