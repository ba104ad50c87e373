"""Keys end to end: loaded by two people, working keys by sign-in, MACs on every message, PINs from key to key, over HTTP, TCP and PostgreSQL."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import flows
import pytest
import pytest_asyncio
from conftest import create_database

from switch.app import Switch
from switch.cli import _parser
from switch.errors import StartError
from switch.ids import show
from switch.security.ciphers import ClearKey, encrypt, kcv
from switch.security.dukpt import derived, ksn
from switch.security.keyblocks import Header, wrap
from switch.security.pinblocks import clear_block
from switch.security.software_hsm import WHY_NOT
from switch.settings import load
from tests.keyed import KEYED, MASTER, PAN, PARTS, REASON, TERMINAL_KEY, Desk, open_desk, part, pin, together, xor
from tests.processes import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")
BASE = ClearKey("tdes", bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with open_desk(await create_database(cluster_url), tmp_path_factory.mktemp("keys")) as opened:
        terminal, merchant = (show(kind, opened.shop.ids[f"{kind}.{name}"]) for kind, name in (("terminal", "lost"), ("merchant", "four")))
        await opened.load(TERMINAL_KEY.reveal(), terminal, "pin", "tpk-1")
        await opened.load(BASE.reveal(), merchant, "bdk", "FFFF987654")
        await opened.load(bytes(range(16)), terminal, "pin", "tpk-aes", "aes")
        await flows.eventually(_known(opened, terminal), "the keys of the terminal are not there")
        yield opened


def _known(desk: Desk, terminal: str):  # type: ignore[no-untyped-def]
    async def known() -> bool:
        return desk.shop.switch.custody.store.find(desk.shop.ids["terminal.lost"], "pin", "tpk-aes") is not None

    return known


# loading


async def test_a_key_is_loaded_by_components_of_two_people_and_approved_and_its_lines_sign_on_with_it(desk: Desk) -> None:
    (master,) = await desk.keys(purpose="tmk")
    assert (master["state"], master["kcv"], master["source"], master["entered"]) == ("active", kcv(ClearKey("tdes", MASTER)), "components", 2)
    assert {(key["purpose"], key["source"], key["algorithm"]) for key in await desk.keys(state="active")} == {
        ("tmk", "components", "tdes"), ("pin", "sign_in", "tdes"), ("mac", "sign_in", "tdes")}


async def test_no_answer_and_no_row_holds_a_key(desk: Desk) -> None:
    stored = [row for table in ("crypto_key", "crypto_key_component", "approval") for row in await desk.shop.sql(f"SELECT * FROM {table}")]
    text, raw = repr(stored).lower(), b"".join(value for row in stored for value in row.values() if isinstance(value, bytes))
    for octets in (MASTER, *PARTS[:1], xor(PARTS[0], MASTER), TERMINAL_KEY.reveal()):
        assert octets.hex() not in text and octets not in raw
    assert raw and all(row["wrapped"] is None for row in await desk.shop.sql(
        "SELECT c.wrapped FROM crypto_key_component c JOIN crypto_key USING (key_id) WHERE state <> 'collecting'"))
    shown = (await desk.ask("GET", "/v1/crypto-keys")).raw
    assert b"wrapped" not in shown and b"storage" not in shown


async def begin(desk: Desk, **changed: object) -> object:
    body = {"owner": desk.acquirer, "purpose": "kek", "algorithm": "tdes", "kcv": kcv(ClearKey("tdes", MASTER)),
            "components": {"count": 2, **part(PARTS[0])}, "reason": REASON, **changed}
    return await desk.ask("POST", "/v1/crypto-keys", body)


async def test_one_person_gives_one_component_and_does_not_approve(desk: Desk) -> None:
    begun = await begin(desk)
    path, second = f"/v1/crypto-keys/{begun.body['id']}/components", {**part(xor(PARTS[0], MASTER)), "reason": REASON}
    again = await desk.ask("POST", path, second)
    assert (again.status, again.body["code"]) == (409, "same_person") and "key in this component" in again.body["detail"]
    whole = await desk.ask("POST", path, second, "second")
    assert (whole.status, whole.body["payload"]["kcv"]) == (202, kcv(ClearKey("tdes", MASTER)))
    own = await desk.ask("POST", f"/v1/approvals/{whole.body['id']}", {}, "second")
    assert (own.status, own.body["code"]) == (409, "same_person")
    third = await desk.ask("POST", path, second, "third")
    assert (third.status, third.body["code"]) == (409, "conflict")
    assert (await desk.ask("GET", f"/v1/crypto-keys/{begun.body['id']}")).body["state"] == "waiting"
    assert (await desk.ask("POST", f"/v1/approvals/{whole.body['id']}/refuse", {})).status == 200
    asked = await desk.ask("POST", f"/v1/crypto-keys/{begun.body['id']}/approval", {"reason": REASON})
    assert asked.status == 202
    assert (await desk.ask("POST", f"/v1/approvals/{asked.body['id']}", {}, "second")).status == 200
    assert (await desk.ask("GET", f"/v1/crypto-keys/{begun.body['id']}")).body["state"] == "active"


@pytest.mark.parametrize(("changed", "field"), [
    ({"components": {"count": 2, **part(PARTS[0]), "kcv": "000000"}}, "kcv"), ({"components": {"count": 2, "component": "00" * 8, "kcv": "8CA64D"}}, "component"),
    ({"purpose": "bdk"}, "purpose"), ({"name": "x"}, "name"), ({"components": None}, ""), ({"kcv": "12"}, "kcv"), ({"owner": "acq_x"}, None)])
async def test_what_cannot_be_a_key_is_refused_by_its_place_without_showing_it(desk: Desk, changed: dict[str, object], field: str | None) -> None:
    answer = await begin(desk, **changed)
    assert answer.status == (404 if field is None else 422), answer.raw
    assert PARTS[0].hex().upper().encode() not in answer.raw.upper()
    if field:
        assert any(error["field"].startswith(field) for error in answer.body["errors"]), answer.raw


async def test_components_that_do_not_make_the_key_of_the_check_value_make_none(desk: Desk) -> None:
    begun = await begin(desk)
    wrong = await desk.ask("POST", f"/v1/crypto-keys/{begun.body['id']}/components", {**part(bytes(16)), "reason": REASON}, "second")
    mistyped = await desk.ask("POST", f"/v1/crypto-keys/{begun.body['id']}/components", {**part(bytes(16)), "kcv": "000000", "reason": REASON}, "second")
    told = [(answer.status, answer.body["errors"][0]["field"], answer.body["errors"][0]["type"]) for answer in (wrong, mistyped)]
    assert told == [(422, "component", "whole"), (422, "kcv", "kcv")]  # who keys one in knows which of the two to look at
    stands = (await desk.ask("GET", f"/v1/crypto-keys/{begun.body['id']}")).body
    assert (stands["state"], stands["entered"]) == ("collecting", 1)


async def test_a_key_block_is_taken_under_a_key_of_the_same_owner_and_no_other(desk: Desk) -> None:
    terminal = show("terminal", desk.shop.ids["terminal.lost"])
    under = await desk.load(MASTER, terminal, "kek")
    new = ClearKey("tdes", bytes(range(40, 56)))
    block = wrap(Header("B", "P0", "T", "N", "00", "E"), new, ClearKey("tdes", MASTER), lambda count: bytes(count))
    body = {"owner": terminal, "purpose": "pin", "name": "tpk-2", "algorithm": "tdes", "kcv": kcv(new), "key_block": {"block": block, "under": under}, "reason": REASON}
    for wrong, field in (({"key_block": {"block": block[:-1] + ("0" if block[-1] != "0" else "1"), "under": under}}, "key_block"), ({"kcv": "000000"}, "kcv"),
                         ({"algorithm": "aes"}, "key_block"), ({"owner": show("terminal", desk.shop.ids["terminal.till"])}, "key_block.under")):
        refused = await desk.ask("POST", "/v1/crypto-keys", body | wrong)
        assert (refused.status, refused.body["errors"][0]["field"]) == (422, field), refused.raw
        assert block.encode() not in refused.raw
    taken = await desk.ask("POST", "/v1/crypto-keys", body)
    assert taken.status == 202, taken.raw
    assert (await desk.ask("POST", f"/v1/approvals/{taken.body['id']}", {}, "second")).status == 200
    await asyncio.sleep(0.2)
    card = pin(key=new, key_id="tpk-2")
    assert (await desk.sell(1100, card=card)).body["status"] == "approved"


async def test_the_command_line_loads_a_key_without_showing_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(person: str, secret: str, *words: str) -> str:
        options, said = _parser().parse_args(["crypto-keys", *words, "--url", desk.shop.base, "--key", desk.shop.keys[person]]), []
        monkeypatch.setattr("sys.stdin", io.StringIO(secret + "\n"))
        assert await asyncio.to_thread(options.work, options, desk.shop.settings, said.append) == 0
        assert not secret or secret not in "".join(said)
        return "\n".join(said)

    key, terminal = ClearKey("tdes", bytes(range(60, 76))), show("terminal", desk.shop.ids["terminal.lost"])
    first, second = part(PARTS[0]), part(xor(PARTS[0], key.reveal()))
    begun = await run("operator", first["component"], "load", "--owner", terminal, "--purpose", "pin", "--name", "tpk-3", "--kcv", kcv(key),
                      "--component-kcv", first["kcv"], "--reason", REASON)
    ident = begun.split()[0]
    assert "component 1 of 2" in begun
    whole = await run("second", second["component"], "component", ident, "--component-kcv", second["kcv"], "--reason", REASON)
    assert "switch approvals approve app_" in whole and kcv(key) in whole
    assert f"{ident}  waiting" in await run("operator", "", "list", "--owner", terminal)
    with pytest.raises(StartError, match="waiting already"):
        await run("operator", "", "ask", ident, "--reason", REASON)


@pytest.mark.parametrize("caller", ["till", "merchant.one"])
async def test_keys_are_for_operators(desk: Desk, caller: str) -> None:
    for method, path, body in (("GET", "/v1/crypto-keys", None), ("POST", "/v1/crypto-keys", {})):
        assert (await desk.shop.ask(method, path, body, caller)).status == 403


# MACs


async def test_every_message_of_money_carries_a_mac_that_the_host_agrees_with(desk: Desk) -> None:
    approved, declined = await desk.sell(12500), await desk.sell(12551)
    assert (approved.body["status"], declined.body["reason"]) == ("approved", "insufficient_funds")
    voided = await desk.shop.ask("POST", f"/v1/authorizations/{approved.body['id']}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert voided.body["status"] == "approved", voided.body
    await desk.host.order("silence")
    silent = await desk.sell(4200)
    await desk.shop.until(silent.body["id"], "reversed")
    money = [line for line in await desk.received() if line["mti"][1] != "8"]
    assert money and all(line["fields"]["64"] == "*16" for line in money)
    assert not any("64" in line["fields"] for line in await desk.received() if line["mti"][1] == "8")
    assert "***" in (await desk.shop.row(approved.body["id"]))["answer_message"]


@pytest.mark.parametrize("how", ["wrong", "missing"])
@pytest.mark.parametrize(("amount", "at_host"), [(5000, 5000), (5051, 0)])
async def test_an_answer_whose_mac_is_wrong_or_missing_is_reversed_never_told(desk: Desk, how: str, amount: int, at_host: int) -> None:
    await desk.sell()
    await desk.host.order("mac", how)
    before = len(await desk.shop.sql("SELECT FROM unmatched_answer WHERE reason = 'bad_mac'"))
    answer = await desk.sell(amount)
    assert (answer.status, answer.body["status"], answer.body["reason"]) == (202, "reversing", "mac_error"), answer.body
    await desk.shop.until(answer.body["id"], "reversed")
    assert len(await desk.shop.sql("SELECT FROM unmatched_answer WHERE reason = 'bad_mac'")) == before + 1
    alerts = (await desk.ask("GET", "/v1/alerts?kind=mac_fault")).body["items"]
    assert [alert["object"] for alert in alerts] == [desk.acquirer]
    duty = await desk.shop.duty(answer.body["id"])
    assert duty is not None and duty["cause"] == "bad_mac"


async def test_a_reversal_whose_answer_has_a_wrong_mac_is_sent_again(desk: Desk) -> None:
    await desk.host.order("silence", match={"0": "0200"})
    await desk.host.order("mac", "wrong", match={"0": "0400"})
    answer = await desk.sell(4300)
    await desk.shop.until(answer.body["id"], "reversed", 15)
    duty = await desk.shop.duty(answer.body["id"])
    assert duty is not None and duty["transmissions"] == 2


async def test_three_wrong_macs_running_make_the_line_sign_in_anew(desk: Desk) -> None:
    await desk.sell()
    before = await desk.sign_ins()
    await desk.host.order("mac", "wrong", match={"0": "0200"}, count=3)
    unsure = await together(*(desk.sell(6000 + 100 * at) for at in range(3)))
    assert {answer.status for answer in unsure} == {202}
    await flows.eventually(lambda: _grown(desk, before), "no new sign-in")
    await desk.up()
    assert (await desk.sell()).body["status"] == "approved"
    for answer in unsure:
        await desk.shop.until(answer.body["id"], "reversed", 15)


async def _grown(desk: Desk, before: int) -> bool:
    return await desk.sign_ins() > before


async def test_a_host_that_lost_our_keys_gets_a_sign_in_and_nothing_it_said_meanwhile_counts(desk: Desk) -> None:
    await desk.sell()
    before = await desk.sign_ins()
    await desk.host.act(forget_keys=True)
    unsure = await desk.sell(7000, await desk.till("unsure"))  # it refuses our MAC, under a key that we do not have
    assert (unsure.status, unsure.body["reason"]) == (202, "mac_error")
    await flows.eventually(lambda: _grown(desk, before), "no new sign-in", 20)
    await desk.up()
    assert (await desk.sell()).body["status"] == "approved"


async def test_keys_change_while_sales_run_and_none_of_them_is_lost(desk: Desk) -> None:
    await desk.sell()
    stop, before = asyncio.Event(), await desk.sign_ins()
    answers = []

    async def till() -> None:
        while not stop.is_set():
            answers.append(await desk.shop.pay(1000, key="lost"))

    tills = [asyncio.create_task(till()) for _ in range(4)]
    for _ in range(5):
        assert (await desk.ask("POST", f"/v1/links/{desk.acquirer}/sign-on", {})).status == 200
        await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*tills)
    assert await desk.sign_ins() >= before + 3
    assert {answer.status for answer in answers} <= {201, 503} and len([answer for answer in answers if answer.status == 201]) > 20
    assert all(answer.body["status"] == "approved" for answer in answers if answer.status == 201)
    assert len(await desk.keys(purpose="mac", state="active")) == 1
    await desk.host.order("mac", "former")
    assert (await desk.sell()).body["status"] == "approved"  # the key before is good for a while


async def test_a_sign_in_with_a_wrong_check_value_installs_nothing_and_is_tried_again(desk: Desk) -> None:
    await desk.sell()
    (active,) = await desk.keys(purpose="mac", state="active")
    await desk.host.order("keys", "kcv", match={"0": "0800"})
    before = await desk.sign_ins()
    await desk.ask("POST", f"/v1/links/{desk.acquirer}/sign-on", {})

    async def refused() -> bool:
        return "check value" in ((await desk.line())["last_error"] or "")

    await flows.eventually(refused, "the wrong check value was taken")
    await flows.eventually(lambda: _grown(desk, before + 1), "not tried again", 15)
    await desk.up()
    assert (await desk.sell()).body["status"] == "approved"
    replaced = [key for key in await desk.keys(purpose="mac") if key["id"] == active["id"]]
    assert replaced[0]["state"] == "replaced"
    alerts = (await desk.ask("GET", "/v1/alerts?kind=working_keys_refused")).body["items"]
    assert [alert["object"] for alert in alerts] == [desk.acquirer]


# PINs


async def test_a_pin_goes_from_the_terminals_key_to_the_acquirers(desk: Desk) -> None:
    answers = [await desk.sell(1200, card=pin(form=form)) for form in ("iso0", "iso1", "iso3")]
    assert [answer.body["status"] for answer in answers] == ["approved"] * 3, [answer.body for answer in answers]
    wrong = await desk.sell(1200, card=pin("4321"))
    assert (wrong.body["status"], wrong.body["reason"], wrong.body["advice"]) == ("declined", "incorrect_pin", "enter_pin")
    said = [line for line in await desk.received() if "52" in line["fields"]][-1]["fields"]
    assert (said["52"], said["26"], said["53"]) == ("*16", "*2", "*16")


async def test_a_pin_under_dukpt_goes_there_too(desk: Desk) -> None:
    for counter in (1, 2, 7):
        serial = f"FFFF9876543210E{counter:05X}"
        card = pin(key=derived(BASE, ksn(serial), "pin"), ksn=serial)
        assert (await desk.sell(1300, card=card)).body["status"] == "approved"


@pytest.mark.parametrize(("card", "field"), [
    (pin(pan="5555555555554444"), "card.pin.block"), (pin(key=ClearKey("tdes", bytes(16))), "card.pin.block"), (pin(key_id="unknown"), "card.pin"),
    (pin(key_id="tpk-aes"), "card.pin.format"), (pin(ksn="FFFF9876543210E00000"), "card.pin.block"), (pin(ksn="1111111111111111E001"), "card.pin"),
    ({**pin(), "pin": {"block": "00" * 16, "format": "iso4", "key_id": "tpk-1"}}, "card.pin.format"),
], ids=["other card", "other key", "unknown key", "key for another format", "no counter", "unknown key set", "iso4 under tdes"])
async def test_a_pin_that_cannot_be_translated_is_refused_before_anything_is_written(desk: Desk, card: dict[str, object], field: str) -> None:
    key = flows.new_key()
    answer = await desk.shop.pay(1400, key, key="lost", card=card)
    assert (answer.status, answer.body["code"], answer.body["errors"][0]["field"]) == (422, "invalid", field), answer.raw
    assert card["pin"]["block"].encode() not in answer.raw  # type: ignore[index]
    assert await desk.shop.by_key(key) == []


async def test_a_key_that_was_replaced_does_not_change_what_was_answered(desk: Desk) -> None:
    terminal, card, key = show("terminal", desk.shop.ids["terminal.lost"]), pin(key_id="tpk-4"), flows.new_key()
    await desk.load(TERMINAL_KEY.reveal(), terminal, "pin", "tpk-4")
    first = await desk.shop.pay(1450, key, key="lost", card=card)
    assert first.body["status"] == "approved", first.body
    await desk.load(bytes(range(80, 96)), terminal, "pin", "tpk-4")
    await asyncio.sleep(0.2)
    again, other = await desk.shop.pay(1450, key, key="lost", card=card), await desk.shop.pay(1450, key="lost", card=card)
    assert (again.status, again.raw, other.status) == (201, first.raw, 422)
    assert [each["state"] for each in await desk.keys(owner=terminal, name="tpk-4")] == ["active", "replaced"]


async def retired(desk: Desk, key: str) -> None:
    asked = await desk.ask("POST", f"/v1/crypto-keys/{key}/retirement", {"reason": REASON})
    assert (asked.status, asked.body["kind"]) == (202, "retire_crypto_key"), asked.raw
    assert (await desk.ask("POST", f"/v1/approvals/{asked.body['id']}", {})).body["code"] == "same_person"
    assert (await desk.ask("POST", f"/v1/approvals/{asked.body['id']}", {}, "second")).status == 200
    assert (await desk.ask("POST", f"/v1/crypto-keys/{key}/retirement", {"reason": REASON})).status == 409


async def test_a_key_is_taken_out_of_use_by_two_people(desk: Desk) -> None:
    terminal = show("terminal", desk.shop.ids["terminal.lost"])
    key = await desk.load(TERMINAL_KEY.reveal(), terminal, "pin", "tpk-5")
    assert (await desk.sell(1460, card=pin(key_id="tpk-5"))).body["status"] == "approved"
    await retired(desk, key)
    await asyncio.sleep(1.5)
    refused = await desk.shop.pay(1460, key="lost", card=pin(key_id="tpk-5"))
    assert (refused.status, refused.body["errors"][0]["field"]) == (422, "card.pin")


async def test_another_merchants_base_key_is_no_key_of_this_terminal(desk: Desk) -> None:
    serial = "FFFF9876543210E00009"
    card = pin(key=derived(BASE, ksn(serial), "pin"), ksn=serial)
    await desk.shop.switch.onboarding.route(desk.acquirer_id, desk.shop.ids["merchant.two"], priority=1)
    await desk.shop.caught_up()
    answer = await desk.shop.pay(1500, key="dual", card=card)
    assert (answer.status, answer.body["errors"][0]["field"]) == (422, "card.pin"), answer.raw


async def test_no_pin_block_is_stored_or_logged(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    card = pin()
    sold = await desk.sell(1600, card=card)
    row = await desk.shop.row(sold.body["id"])
    clear = clear_block("1234", "iso0", PAN, bytes).hex()
    translated = [encrypt(key, bytes.fromhex(clear)).hex() for key in (TERMINAL_KEY,)]
    said = (repr(row) + "".join(capfd.readouterr())).lower()
    assert not any(text in said for text in (clear, *translated, card["pin"]["block"].lower()))


# several workers


async def test_a_sign_in_of_another_worker_changes_the_keys_of_all_and_no_sale_is_lost(desk: Desk) -> None:
    bases = [desk.shop.base]
    await desk.shop.start(alone=False)
    bases.append(desk.shop.base)
    await desk.up()
    tills = [await desk.till(f"worker {number}") for number in range(4)]
    stop, answers = asyncio.Event(), []

    async def sell(base: str, till: str) -> None:
        while not stop.is_set():
            answers.append(await ask(base, "POST", flows.ROUTE, desk.shop.keys[till], flows.body_of(1000), Idempotency_Key=flows.new_key()))

    selling = [asyncio.create_task(sell(bases[at % 2], till)) for at, till in enumerate(tills)]
    for _ in range(4):
        assert (await desk.ask("POST", f"/v1/links/{desk.acquirer}/sign-on", {})).status == 200
        await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*selling)
    assert {(answer.status, answer.body["status"]) for answer in answers} == {(201, "approved")} and len(answers) > 40
    stores = [switch.custody.store for switch in desk.shop.running]

    async def agreed() -> bool:
        found = {store.find(desk.acquirer_id, "mac") for store in stores}
        return len(found) == 1 and (await desk.keys(purpose="mac", state="active"))[0]["kcv"] == found.pop().kcv  # type: ignore[union-attr]

    await flows.eventually(agreed, "the workers do not agree")


async def test_a_working_key_that_comes_late_is_kept_for_those_who_get_answers_under_it(desk: Desk) -> None:
    switch = desk.shop.switch
    master = switch.custody.store.find(desk.acquirer_id, "tmk")
    assert master is not None and switch.custody.hsm is not None
    octets, old = bytes(range(100, 116)), UUID(int=1 << 80)
    late = switch.custody.hsm.downloaded(old, "mac", "tdes", encrypt(ClearKey("tdes", MASTER), octets), master, kcv(ClearKey("tdes", octets)))
    await switch.crypto_keys.installed(desk.acquirer_id, [late])

    async def believed() -> bool:
        return late in switch.custody.store.usable(desk.acquirer_id, "mac", 60.0)

    await flows.eventually(believed, "nobody knows the key")
    assert switch.custody.store.find(desk.acquirer_id, "mac") != late


# the module


async def test_keys_outlive_a_restart_and_without_a_module_nothing_starts(desk: Desk) -> None:
    await desk.shop.stop()
    for hsm, testing, words in (("none", "1", "no security module"), ("software", "", WHY_NOT[:40])):
        settings = replace(desk.shop.settings, hsm=hsm, rehearsal=testing == "1")
        with pytest.raises(StartError) as caught:
            await Switch(settings, desk.shop.url, alone=True).start()
        assert words in str(caught.value) and "\n" not in str(caught.value)
    await desk.shop.start()
    await desk.up()
    assert (await desk.sell(1700, card=pin())).body["status"] == "approved"


async def test_the_storage_key_is_changed_and_the_old_one_is_needed_no_more(desk: Desk) -> None:
    keyring = desk.shop.switch.vault.keyring
    await desk.shop.stop()
    rotated = type(keyring).rotate(desk.shop.settings.keys_file)
    await desk.shop.start()
    await desk.up()
    stored = {row["storage_key"] for row in await desk.shop.sql("SELECT storage_key FROM crypto_key WHERE state = 'active'")}
    assert stored == {rotated.current}
    assert (await desk.sell(1800, card=pin())).body["status"] == "approved"


async def test_settings_name_the_module_and_what_it_is_for() -> None:
    assert (load({}).hsm, load({}).rehearsal) == ("none", False)
    assert (load({**KEYED}).hsm, load({**KEYED}).rehearsal) == ("software", True)


async def test_without_its_master_key_an_acquirer_has_no_keys_at_all(desk: Desk) -> None:
    (master,) = await desk.keys(purpose="tmk", state="active")
    await retired(desk, master["id"])
    assert {key["purpose"] for key in await desk.keys(state="active")} == {"kek"}
    store = desk.shop.switch.custody.store

    async def gone() -> bool:
        return store.find(desk.acquirer_id, "tmk") is None and store.find(desk.acquirer_id, "mac") is None and (await desk.line())["state"] == "up"

    await flows.eventually(gone, "the keys are still used")
    await desk.sell(1470, await desk.till("plain"))
    said = [line for line in await desk.received() if line["mti"] == "0200"][-1]
    assert "64" not in said["fields"]
