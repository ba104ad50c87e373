"""A host that an outside company wrote from design.md, section 8: it must just work, and finds nothing to complain of in what it is sent."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests import processes
from tests.processes import CARD, Demo, foreign_host, run

PREPAID = {"entry_mode": "contactless", "pan": "5555555555554444", "expiry": "3012"}
EMV = "9F2608A1B2C3D4E5F607189F2701809505000000800082023C009F3602004257136212345678900000003D30122010000000000000"
Book = Callable[[], list[dict[str, Any]]]


def of_kind(book: Book, kind: str) -> list[dict[str, Any]]:
    return [line for line in book() if line["kind"] == kind]


def received(book: Book, *mtis: str) -> list[dict[str, Any]]:
    return [line["fields"] for line in of_kind(book, "received") if line["mti"] in mtis]


async def effects_agree(demo: Demo, book: Book) -> None:
    """What the host holds or posted for each of our numbers is what our books say stands."""
    effects: Counter[str] = Counter()
    for line in of_kind(book, "decision"):
        effects[line["rrn"]] += line["effect"]
    connection = await asyncpg.connect(demo.handover["database_url"])
    try:
        rows = await connection.fetch("SELECT rrn, CASE WHEN state = 'APPROVED' THEN authorised ELSE 0 END AS stands FROM transaction "
                                      "WHERE exchange = 'request'")
    finally:
        await connection.close()
    ours = {row["rrn"]: row["stands"] for row in rows}
    assert {rrn: effect for rrn, effect in effects.items() if effect} == {rrn: stands for rrn, stands in ours.items() if stands}


def nothing_to_complain_of(book: Book) -> None:
    assert of_kind(book, "violation") == []


SALES: dict[str, tuple[dict[str, Any], int, str]] = {  # name: body, status, what is answered
    "chip": ({"amount": 10_000, "card": CARD | {"emv": EMV, "sequence_number": "1"}}, 201, "approved 00"),
    "contactless with PIN": ({"amount": 2_500, "card": CARD | {
        "entry_mode": "contactless", "pin": {"block": "0123456789ABCDEF", "format": "iso0", "key_id": "zone-1"}}}, 201, "approved 00"),
    "stripe": ({"amount": 999, "card": CARD | {"entry_mode": "magstripe", "track2": f"{CARD['pan']}=30122010000012345"}}, 201, "approved 00"),
    "typed": ({"amount": 1, "card": CARD | {"entry_mode": "manual", "security_code": "123"}}, 201, "approved 00"),
    "fallback": ({"amount": 88_800, "card": CARD | {"entry_mode": "fallback"}}, 201, "approved 00"),
    "with tip": ({"amount": 11_000, "tip_amount": 1_000}, 201, "approved 00"),
    "with cashback": ({"amount": 30_000, "cashback_amount": 10_000}, 201, "approved 00"),
    "over the host's limit": ({"amount": 500_001}, 201, "declined 61"),
    "expired card": ({"amount": 1_000, "card": CARD | {"expiry": "2001"}}, 201, "declined 54"),
    "dollars": ({"amount": 1_234, "currency": "USD"}, 201, "approved 00"),
    "preauthorization": ({"type": "preauthorization", "amount": 70_000}, 201, "approved 00"),
    "cash advance": ({"type": "cash_advance", "amount": 20_000}, 201, "approved 00"),
    "balance": ({"type": "balance_inquiry", "amount": None}, 201, "approved 00"),
    "verification": ({"type": "account_verification", "amount": None}, 201, "approved 85"),
    "the store's own clock": ({"amount": 3_300, "local_time": f"{datetime.now(UTC) + timedelta(hours=8):%Y-%m-%dT%H:%M:%S}"}, 201, "approved 00"),
}


async def test_a_host_written_from_the_wires_description_approves_declines_and_gets_its_reversals(tmp_path: Path) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    with foreign_host(tmp_path, "--deaf", "1", "--cut-over", f"{tomorrow:%m%d}") as (address, book):
        with Demo(tmp_path / "home", "--acquirer", address) as demo:
            assert demo.handover["stub_control_url"] is None
            processes.wait(lambda: "was approved" in demo.out, "the sample is not approved")
            assert f"acquirer: {address}\n" in demo.out and "(amounts ending in" not in demo.out, "the stub's rules are not this host's"
            async with processes.within(5, "no sale after the cut-over"):  # the first numbers of a new day may take a moment: nothing is written
                while (answer := await demo.pay("after-cut-over-01", 100)).status != 201:
                    assert (answer.status, answer.body["processed"]) == (503, False)
            lost = asyncio.create_task(demo.pay("never-answered-01", 6_666))
            for number, (name, (changed, status, said)) in enumerate(SALES.items()):
                answer = await demo.pay(f"foreign-{number:012d}", **{"amount": 0, **changed})
                assert (answer.status, f"{answer.body.get('status')} {answer.body.get('response_code')}") == (status, said), (name, answer.body)
            await a_card_with_little_left(demo)
            unsold = await lost
            assert (unsold.status, unsold.body["status"], unsold.body["advice"]) == (202, "reversing", "new_payment_allowed")
            cut = await demo.pay("line-is-cut-0001", 7_777)
            assert (cut.status, cut.body["status"], cut.body["reason"]) == (202, "reversing", "line_lost")
            await its_reversals_end(demo, (unsold.body["id"], cut.body["id"]))
            await effects_agree(demo, book)
            day = (await demo.ask("GET", f"/v1/transactions/{cut.body['id']}", key=demo.handover["merchant_key"])).body["business_date"]
            assert day == tomorrow.isoformat(), "the host opened a new business day"
            assert demo.stop() == 0
        processes.wait(lambda: of_kind(book, "line_ended")[1:], "the line does not end")
        nothing_to_complain_of(book)
        the_line_was_kept_as_agreed(book)
        the_reversals_repeat_themselves(book)


async def a_card_with_little_left(demo: Demo) -> None:
    """1,000.00 are left on it: 400.00, then 600.00 of 900.00 where the terminal takes a part, then nothing."""
    steps = ((40_000, "accept", 201, "approved", 40_000), (90_000, "accept", 201, "approved", 60_000), (5_000, "accept", 201, "declined", 0))
    for number, (amount, partial, status, word, approved) in enumerate(steps):
        answer = await demo.pay(f"prepaid-card-{number:04d}", amount, card=PREPAID, partial_approval=partial)
        assert (answer.status, answer.body["status"], answer.body["approved_amount"]) == (status, word, approved)


async def its_reversals_end(demo: Demo, transactions: tuple[str, ...]) -> None:
    async with processes.within(30, "the reversals are not acknowledged"):
        for transaction in transactions:
            while (await demo.ask("GET", f"/v1/authorizations/{transaction}")).body["status"] != "reversed":
                await asyncio.sleep(0.1)


def the_line_was_kept_as_agreed(book: Book) -> None:
    lines = book()
    codes = [line["fields"]["70"] for line in lines if line["kind"] == "received" and line["mti"] == "0800"]
    assert codes[0] == "001" and codes.count("001") == 2 and codes[-1] == "002", "signed on, after the cut again, and signed off by the drain"
    assert Counter(line["code"] for line in lines if line["kind"] == "answered") == {"301": 2, "201": 1}, "what a host asks is answered"
    assert [line["signed_off"] for line in lines if line["kind"] == "line_ended"] == [False, True]
    assert not any(line["unanswered"] for line in lines if line["kind"] == "line_ended" and line["signed_off"])


def the_reversals_repeat_themselves(book: Book) -> None:
    """The first transmission of each is not answered: the next is the same message as 0421."""
    by_original: dict[str, list[str]] = defaultdict(list)
    for line in of_kind(book, "received"):
        if line["mti"][1] == "4":
            by_original[line["fields"]["90"]].append(line["mti"])
    assert len(by_original) == 2 and all(mtis == ["0420", "0421"] for mtis in by_original.values()), by_original
    for fields in received(book, "0420", "0421"):
        assert fields["4"] in ("000000006666", "000000007777") and not fields.keys() & {"35", "52", "53"}


async def test_in_dual_mode_the_hold_is_followed_by_its_capture_until_the_host_acknowledges_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with foreign_host(tmp_path) as (address, book), Demo(home) as demo:
        host, _, port = address.partition(":")
        added = run(home, "acquirer", "add", "foreign", "--host", host, "--port", port, "--message-mode", "dual", "--answer-timeout", "3")
        assert added.code == 0, added.err
        assert run(home, "route", "add", "--acquirer", "foreign", "--brand", "mastercard", "--priority", "1").code == 0
        async with processes.within(10, "the new acquirer is not used"):
            while not of_kind(book, "signed_on"):
                await asyncio.sleep(0.05)
            number = 0
            while not received(book, "0100"):
                number += 1
                assert (await demo.pay(f"dual-mode-{number:08d}", 10_000, card=PREPAID)).status == 201
        manual = await demo.pay("dual-manual-00001", 20_000, card=PREPAID, capture_method="manual")
        assert (manual.status, manual.body["payment_status"]) == (201, "authorized")
        async with processes.within(10, "the capture is not sent"):
            while not received(book, "0220"):
                await asyncio.sleep(0.05)
        holds, captures = received(book, "0100"), received(book, "0220", "0221")
        assert len(holds) == 2 and len(captures) == 1 and not received(book, "0200")
        assert captures[0]["90"][:20] == "0100" + holds[0]["11"] + holds[0]["7"] and captures[0]["38"].startswith("F")
        connection = await asyncpg.connect(demo.handover["database_url"])
        try:
            async with processes.within(10, "the capture's duty is not done"):
                while await connection.fetchval("SELECT count(*) FROM duty WHERE state = 'done'") != 1:
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()
        assert demo.stop() == 0
        nothing_to_complain_of(book)


WRONG = {  # what a host must find in a frame that breaks the description: (MTI, fields) changed, and the rule that it breaks
    "no terminal": (lambda mti, fields: (mti, {n: v for n, v in fields.items() if n != 41}), "DE41 is missing"),
    "a track in a reversal": (lambda mti, fields: ("0420", fields | {90: "0200" + "0" * 38, 35: "6212345678900000003=3012201"}), "forgotten"),
    "zero amount": (lambda mti, fields: (mti, fields | {4: "0" * 12}), "DE4"),
    "wrong check digit": (lambda mti, fields: (mti, fields | {2: "6212345678900000004"}), "check digit"),
    "PIN not said": (lambda mti, fields: (mti, fields | {52: "0123456789ABCDEF"}), "DE22"),
    "old DE7": (lambda mti, fields: (mti, fields | {7: "0229000000"}), "DE7"),
    "an unknown code": (lambda mti, fields: (mti, fields | {3: "990000"}), "no message"),
    "a field of nobody's": (lambda mti, fields: (mti, fields | {70: "001"}), "no place"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_foreign_host_sees_what_breaks_the_description(name: str) -> None:
    from tests import foreign_host as host  # noqa: PLC0415  a script, read as a module only here

    now = datetime.now(UTC)
    fields = {2: "6212345678900000003", 3: "000000", 4: f"{1000:012d}", 7: f"{now:%m%d%H%M%S}", 11: "000001", 12: f"{now:%H%M%S}",
              13: f"{now:%m%d}", 14: "3012", 18: "5812", 22: "052", 25: "00", 37: "632700000001", 41: "T0000001", 42: "M00000000000001",
              49: "156"}
    assert host.unpack(host.pack("0200", fields)[2:]) == ("0200", fields) and host.request_faults("0200", fields) == []
    change, rule = WRONG[name]
    assert any(rule in fault for fault in host.request_faults(*change("0200", fields)))
