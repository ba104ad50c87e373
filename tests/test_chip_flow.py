"""Chips end to end, in each dialect: a cryptogram goes to the issuer, its answer and scripts come back, and a card that refuses undoes the sale."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flows
import pytest
import pytest_asyncio
from conftest import create_database

from acquirer_stubs.dialects import SPEECHES
from loadtests.chip import MASTER, ChipCard
from loadtests.terminal import Terminal
from switch import database
from switch.merchants.onboarding import Onboarding
from tests.processes import Answer, stub, stub_book

HOLDS = {"visa_base1", "mastercard_cis"}  # an authorization holds, and clearing is by file
WRONG = {"iso93_ascii": "122", "visa_base1": "82", "mastercard_cis": "88"}
PAN = "4111111111111111"


@dataclass(slots=True)
class Lane:
    shop: flows.Shop
    host: flows.Host
    dialect: str
    book: Path

    async def pay(self, card: dict[str, str], amount: int, key: str) -> Answer:
        async def sold() -> Answer | None:
            answer = await self.shop.pay(amount, key, key="lost", card=card, **self.method)
            return answer if answer.status in (201, 202) else None

        return await flows.eventually(sold, "the line is not up", 10.0)

    @property
    def method(self) -> dict[str, str]:
        return {"capture_method": "manual"} if self.dialect in HOLDS else {}

    async def stands(self) -> int:
        return int(sum(line["held" if self.dialect in HOLDS else "net"] for line in await stub_book(self.host.control) if line["kind"] == "decision"))


@pytest_asyncio.fixture(params=sorted(SPEECHES), loop_scope="module", scope="module")
async def lane(request: pytest.FixtureRequest, cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lane]:
    folder, name = tmp_path_factory.mktemp("chips"), request.param
    url = await create_database(cluster_url)
    for each in ("issuing", "shop"):
        (folder / each).mkdir()
    with stub(folder / "issuing", "--dialect", name, "--imk", MASTER) as host:
        pool = await database.pool(url, "switch_writer", 2)
        try:
            async with flows.open_shop(url, folder / "shop") as shop:
                office = Onboarding(pool)
                acquirer = await office.acquirer("issuing", name, "127.0.0.1", host[0], institution_code="12345678",
                                                 message_mode="dual" if name in HOLDS else "single",
                                                 answer_timeout_ms=flows.ANSWER_TIMEOUT_MS, reversal_grace_ms=flows.GRACE_MS)
                await office.route(acquirer.acquirer_id, shop.ids["merchant.four"])
                await shop.caught_up()
                yield Lane(shop, flows.Host(*host), name, folder / "issuing" / "book.jsonl")
        finally:
            await pool.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("version", [10, 18])
async def test_a_right_cryptogram_is_approved_and_answered_and_told_again_byte_for_byte(lane: Lane, version: int) -> None:
    chip, key, before = ChipCard(MASTER, PAN, version=version), flows.new_key(), await lane.stands()
    card = chip.ask(12500)
    answer = await lane.pay(card, 12500, key)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.raw
    assert chip.takes(answer.body["emv"]) and await lane.stands() == before + 12500
    again = await lane.pay(card, 12500, key)
    assert again.raw == answer.raw and again.headers["idempotent-replayed"] == "true"
    shown = await lane.shop.get(answer.body["id"])
    assert shown["emv"] == answer.body["emv"]


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_kept_of_a_chip_is_on_the_list_and_the_host_keeps_nothing(lane: Lane) -> None:
    chip = ChipCard(MASTER, PAN)
    card = chip.ask(700)
    card["emv"] += "5A084111111111111111" + "57114111111111111111D30122010000012345" + "9F1F0A31323334353637383930"
    answer = await lane.pay(card, 700, flows.new_key())
    assert answer.body["status"] == "approved" and chip.takes(answer.body["emv"]), answer.raw
    row = await lane.shop.row(answer.body["id"])
    assert row["answer_emv"] == answer.body["emv"] and chip.cryptogram.hex().upper() in row["emv"]
    kept = "".join(str(row[name]) for name in ("emv", "answer_emv", "request_message", "answer_message"))
    assert not any(secret in kept for secret in (PAN, "3132333435", "D3012"))
    book, story = lane.book.read_text(), (await lane.shop.ask("GET", f"/v1/transactions/{row['transaction_id']}/story", key="operator")).raw.decode()
    for secret in (chip.cryptogram.hex(), row["answer_emv"], MASTER, PAN, card["emv"][:40]):
        assert secret.lower() not in book.lower()
    assert PAN not in story


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("spoilt", ["cryptogram", "amount", "card"])
async def test_a_wrong_cryptogram_is_declined(lane: Lane, spoilt: str) -> None:
    chip, before = ChipCard("13" * 16 if spoilt == "card" else MASTER, PAN), await lane.stands()
    card = chip.ask(12500)
    wrong = {"cryptogram": chip.cryptogram.hex().upper(), "amount": "9F0206000000012500"}.get(spoilt, "")
    card["emv"] = card["emv"].replace(wrong, wrong[:-1] + f"{int(wrong[-1], 16) ^ 1:X}") if wrong else card["emv"]
    answer = await lane.pay(card, 12500, flows.new_key())
    assert (answer.status, answer.body["status"], answer.body["response_code"]) == (201, "declined", WRONG.get(lane.dialect, "63")), answer.raw
    assert (answer.body["reason"], answer.body["advice"]) == ("security_violation", "other_card")
    assert "emv" not in answer.body and await lane.stands() == before
    decided = [line for line in await stub_book(lane.host.control) if line["kind"] == "decision"][-1]
    assert decided["reason"] == "cryptogram_wrong"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("tag", ["71", "72"])
async def test_a_script_of_the_issuer_reaches_the_chip_whole(lane: Lane, tag: str) -> None:
    chip, key = ChipCard(MASTER, PAN), flows.new_key()
    card = chip.ask(900)
    await lane.host.order("script", tag)
    answer = await lane.pay(card, 900, key)
    assert answer.body["status"] == "approved", answer.raw
    assert chip.takes(answer.body["emv"]) and len(chip.scripts) == 1 and tag + "169F18" in answer.body["emv"]
    assert (await lane.pay(card, 900, key)).raw == answer.raw


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("how", ["wrong", "missing"])
@pytest.mark.parametrize("by", ["key", "id"])
async def test_a_sale_that_was_approved_and_the_chip_refused_is_undone(lane: Lane, how: str, by: str) -> None:
    chip, key, before = ChipCard(MASTER, PAN), flows.new_key(), await lane.stands()
    card = chip.ask(3300)
    await lane.host.order("arpc", how)
    sold = await lane.pay(card, 3300, key)
    assert sold.body["status"] == "approved" and not chip.takes(sold.body["emv"]), sold.raw
    told: Any
    if by == "key":
        body = {"idempotency_key": key, "reason": "chip_declined"}
        told = await lane.shop.ask("POST", "/v1/cancellations", body, "lost")
    else:
        told = await lane.shop.ask("POST", f"/v1/authorizations/{sold.body['id']}/reversals", {"reason": "chip_declined"}, "lost",
                                   Idempotency_Key=flows.new_key())
    assert (told.status, told.body["status"], told.body["reason"], told.body["reversal"]["cause"]) == (202, "reversing", "chip_declined", "undo"), told.raw
    row = await lane.shop.until(sold.body["id"], "reversed")
    assert row["reason"] == "chip_declined" and await lane.stands() == before
    again = await lane.pay(card, 3300, key)
    assert (again.status, again.body["status"], again.body["reason"]) == (202, "reversed", "chip_declined"), "the key sold again"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reason_that_nobody_knows_is_refused_and_undoes_nothing(lane: Lane) -> None:
    chip, key = ChipCard(MASTER, PAN), flows.new_key()
    sold = await lane.pay(chip.ask(4100), 4100, key)
    answer = await lane.shop.ask("POST", "/v1/cancellations", {"idempotency_key": key, "reason": "changed_mind"}, "lost")
    assert (answer.status, answer.body["errors"][0]["field"]) == (422, "reason"), answer.raw
    assert (await lane.shop.get(sold.body["id"]))["status"] == "approved"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_reference_terminal_hands_the_answer_to_the_chip_and_does_as_it_says(lane: Lane, tmp_path: Path) -> None:
    chip, before = ChipCard(MASTER, PAN, version=10), await lane.stands()
    terminal = Terminal(lane.shop.base, lane.shop.keys["lost"], tmp_path / "journal")

    def pay(amount: int) -> Any:
        return terminal.pay({"type": "purchase", "amount": amount, "currency": "CNY", "card": chip.ask(amount), **lane.method}, chip.takes)

    try:
        good = await asyncio.to_thread(pay, 5500)
        await lane.host.order("arpc", "wrong")
        refused = await asyncio.to_thread(pay, 5600)
    finally:
        terminal.journal.file.close()
    assert (good.sold, good.status, refused.sold, refused.status) == (True, "approved", False, "reversing")
    await lane.shop.until(refused.id, "reversed")
    assert await lane.stands() == before + 5500 and terminal.unfinished == []
