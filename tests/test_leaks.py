"""No card number, track, security code or PIN block stays anywhere: rows, files of PostgreSQL, logs, metrics, answers, the host's book (I-19, I-20)."""

import asyncio
import base64
import hashlib
import io
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from acquirer_stubs.codec import Message
from switch import logs
from tests import leak_scan
from tests.conftest import create_database
from tests.flows import Reply, Shop, answer_to, eventually, new_key, open_shop, scripted_host
from tests.leak_scan import HOLDER, NEEDLES, PANS, PIN_BLOCK, SECURITY_CODE, TRACK_TAIL, TWELVE, card, emv, leaks, luhn
from tests.processes import Answer


@pytest.mark.parametrize("name", NEEDLES)
def test_the_scanner_finds_every_form_wherever_it_stands(name: str) -> None:
    assert len(NEEDLES[name]) >= leak_scan.SHORTEST
    assert name in leaks(b"before " + NEEDLES[name] + b" behind") and leaks(b"nothing" * 1000) == []


def test_the_forms_are_those_that_an_encoder_makes() -> None:
    """Each kind of form once by another way than the scanner's own."""
    for at, pan in enumerate(PANS):
        for name, content in (("ascii", f"x{pan}y".encode()), ("base64 0", base64.b64encode(f"{pan} and more".encode())),
                              ("base64 1", base64.b64encode(f"a{pan} and more".encode())), ("base64 2", base64.b64encode(f"ab{pan} and more".encode())),
                              ("sha256", hashlib.sha256(pan.encode()).digest()), ("sha256 hex", hashlib.sha256(pan.encode()).hexdigest().encode()),
                              ("utf-16le", f"card {pan}".encode("utf-16-le")), ("hex", f"a{pan}b".encode().hex().encode()),
                              ("spaced", f"{pan[:4]} {pan[4:8]} {pan[8:12]} {pan[12:16]} {pan[16:]}".strip().encode()),
                              ("bcd 0", bytes.fromhex(pan + "F" * (len(pan) % 2))), ("bcd 1", bytes.fromhex(("0" + pan + "F")[: len(pan) // 2 * 2 + 2]))):
            assert f"PAN {at} {name}" in leaks(content), (at, name)
    assert {"PIN block raw", "track ascii"} <= {*leaks(bytes.fromhex(PIN_BLOCK)), *leaks(f"{PANS[0]}D{TRACK_TAIL}".encode())}
    assert "track bcd 1" in leaks(bytes.fromhex(f"0{TRACK_TAIL}")) and "holder hex" in leaks(emv(PANS[0]).lower().encode())


async def test_a_scan_finds_what_was_planted_in_a_table_a_dump_the_wal_and_a_log(cluster_url: str, cluster_folder: Path, tmp_path: Path) -> None:
    """In a database of its own with a number of its own, so that no other scan meets it."""
    url, planted, begun = await create_database(cluster_url), luhn("6212349081726353"), time.time()
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE planted (value text, raw bytea, code jsonb)")
    await connection.execute("INSERT INTO planted VALUES ($1, $2, $3)", f"card {planted}", planted.encode("utf-16-le"), json.dumps({"a": [{"code": SECURITY_CODE}]}))
    await connection.close()
    (tmp_path / "log").write_bytes(f"x{planted}".encode().hex().encode())
    scan = await leak_scan.everything(url, {"cluster": cluster_folder, "home": tmp_path}, {"log": f'{{"a": "{planted}", "b": "{SECURITY_CODE}"}}\n'}, begun, (planted,))
    found = set(scan.found)
    assert {"table planted.value: PAN 0 ascii", "table planted.raw: PAN 0 utf-16le", "table planted.code: security code", "dump pg_dump: PAN 0 ascii", "home log: PAN 0 hex",
            "text log: PAN 0 ascii", "text log line 1: security code"} <= found
    assert any(re.fullmatch("cluster [0-9A-F]{24}: PAN 0 ascii", each) for each in found), found  # a segment of the write-ahead log
    assert set(scan.looked) == {"table", "dump", "cluster", "home", "text"} and min(scan.looked.values()) > 30


@dataclass(slots=True, repr=False)
class Run:
    """A run with canaries in every place a terminal or host can put them, and all that was heard and written meanwhile."""

    shop: Shop
    answers: list[Answer]
    log: io.StringIO
    folder: Path
    begun: float  # wall clock, seconds


async def sell(shop: Shop) -> list[Answer]:
    """Sales of every outcome, with faults of the host that make it repeat, garble and lose card data."""
    answers: list[Answer] = []

    async def pay(amount: int, at: int, till: str = "till", key: str | None = None, **changed: Any) -> Answer:
        pan = PANS[at]
        fields = {"card": card(pan, **({"track2": f"{pan}D{TRACK_TAIL[:36 - len(pan)]}"} if at != 2 else {"track2": f"{pan}={TRACK_TAIL}"})), **changed}
        answers.append(await shop.pay(amount, key, till, **fields))
        return answers[-1]

    key = new_key()
    assert (await pay(5000, 0, key=key)).status == 201
    await pay(5000, 0, key=key)  # a replay
    await pay(5001, 0, key=key)  # the same key with another body
    for at in range(3):
        for till in ("till", "dual"):
            assert (await pay(6000 + at, at, till)).status == 201
            assert (await pay(6105 + 100 * at, at, till, partial_approval="accept")).status == 201
    for action, value in (("late", 0.7), ("wrong", "4"), ("wrong", "-39"), ("code", "96"), ("duplicate", None), ("garbage", None)):
        await shop.host.order(action, value, {"0": "0200"})
        await pay(7000, len(answers) % 3, terminal_trace=f"{len(answers)}")
    await shop.host.order("cut")
    await pay(7100, 1)
    answers.append(await shop.cancel(key))
    return answers


async def misuse(shop: Shop) -> list[Answer]:
    """Canaries where none belong: wrong fields, names, addresses, keys."""
    pan, track = PANS[0], f"{PANS[0]}D{TRACK_TAIL}"
    answers = [await shop.pay(5000, card=card(pan) | changed) for changed in (
        {"pan": pan + "1"}, {"expiry": pan}, {"track2": track + "9" * 30}, {"emv": emv(pan)[:-1]}, {pan: 1}, {"security_code": pan},
        {"pin": {"block": track, "format": "iso0", "key_id": pan}}, {"entry_mode": pan})]
    answers += [await shop.pay(5000, card=card(pan), **changed) for changed in (
        {"reference": pan}, {"reference": f"card {pan[:4]} {pan[4:8]} {pan[8:12]} {pan[12:]}"}, {"currency": pan}, {"type": track}, {pan: track},
        {"reference": "-".join(re.findall(".{4}", pan))})]
    answers += [await shop.pay(5000, pan, card=card(pan)), await shop.pay(5000, f"sale-{pan}-1", card=card(pan)),
                await shop.pay(5000, "-".join(re.findall(".{4}", pan)), card=card(pan)), await shop.pay(5000, card=card(TWELVE), terminal_trace=TWELVE),
                await shop.ask("GET", f"/v1/transactions/{pan}", key="till"), await shop.ask("GET", f"/{track}", key="till"),
                await shop.ask("GET", f"/v1/transactions?reference={pan}", key="merchant.one"), await shop.ask("GET", f"/v1/transactions?last4={pan}", key="merchant.one"),
                await shop.ask("POST", "/v1/authorizations", f'{{"card": "{pan}'.encode(), "till", Idempotency_Key=new_key()),
                await shop.ask("POST", "/v1/cancellations", {"idempotency_key": f"{track}={pan}"}, "till"),
                await shop.ask("GET", "/v1/transactions", key=track)]
    assert {answer.status for answer in answers} <= {200, 400, 401, 404, 422}, [answer.raw for answer in answers if answer.status == 201]
    return answers


async def talkative_host(shop: Shop) -> list[Answer]:
    """A host that repeats the card in fields of its own, in the answer and in one that matches nothing."""
    answers: list[Answer] = []

    def script(message: Message) -> list[Reply]:
        extra = {2: message[2], 44: message[2], 48: f"{message[2]}D{TRACK_TAIL}", 55: emv(message[2]), 63: HOLDER, 102: message[2]}
        if 35 in message:
            extra |= {35: message[35]}
        sound = dict(sorted((answer_to(message, "00") | extra).items()))
        return [(0.0, sound), (0.05, sound | {11: "999999"}), (0.1, sound | {39: "05"})]

    async with scripted_host(script) as port:
        body = {"name": "talkative", "dialect": "iso87_ascii", "host": "127.0.0.1", "port": port, "answer_timeout_ms": 600, "reversal_grace_ms": 200}
        acquirer = (await shop.ask("POST", "/v1/acquirers", body, "operator")).body["id"]
        await shop.ask("POST", "/v1/routes", {"acquirer": acquirer, "merchant": shop.shown("merchant.four"), "priority": 1}, "operator")
        await shop.caught_up()

        async def sold() -> bool:
            answers.append(await shop.pay(5000, key="lost", card=card(PANS[1])))
            return answers[-1].status == 201

        await eventually(sold, "nothing was sold")

        async def recorded() -> bool:
            rows = await shop.sql("SELECT 1 FROM unmatched_answer u JOIN acquirer a USING (acquirer_id) WHERE a.name = 'talkative'")
            return len(rows) >= 2

        await eventually(recorded, "the strange answers were not recorded")
        await shop.ask("PATCH", f"/v1/acquirers/{acquirer}", {"status": "down"}, "operator")
    return answers


async def read_everything(shop: Shop) -> list[Answer]:
    """Every read of every role over all that was made."""
    answers = [await shop.ask("GET", path, key="operator") for path in (
        "/v1/transactions?limit=200", "/v1/reversals?limit=200", "/v1/unmatched-answers?limit=200", "/v1/alerts", "/v1/links", "/v1/keys?limit=200", "/v1/terminals",
        "/v1/merchants", "/metrics", "/readyz", "/openapi.json", "/docs")]
    for item in answers[0].body["items"]:
        answers += [await shop.ask("GET", f"/v1/transactions/{item['id']}", key="operator"), await shop.ask("GET", f"/v1/transactions/{item['id']}/story", key="operator")]
    answers.append(await shop.ask("GET", "/v1/transactions?limit=200", key="merchant.one"))
    assert all(answer.status == 200 for answer in answers)
    return answers


@pytest_asyncio.fixture(scope="module")
async def run(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    folder, stream, before, begun = tmp_path_factory.mktemp("leaks"), io.StringIO(), logs.log.stream, time.time()
    logs.configure(stream, "debug")
    try:
        async with open_shop(database_url, folder) as shop:
            answers = await sell(shop) + await misuse(shop) + await talkative_host(shop)
            await asyncio.sleep(1.0)  # late answers come, reversals are under way
            answers += await read_everything(shop)
            yield Run(shop, answers, stream, folder, begun)
    finally:
        logs.configure(before, "info")


async def test_the_canaries_were_really_used(run: Run) -> None:
    assert len({row["pan_token"] for row in await run.shop.sql("SELECT pan_token FROM transaction")}) == len(PANS)
    states = {row["state"] for row in await run.shop.sql("SELECT state FROM transaction")}
    assert {"APPROVED", "DECLINED"} <= states and states & {"REVERSING", "REVERSED"}
    fields = [line for line in (run.folder / "single" / "book.jsonl").read_text().splitlines() if '"52":' in line and '"55":' in line and '"35":' in line]
    assert fields  # PIN block, chip data and track reached the host
    assert await run.shop.sql("SELECT 1 FROM unmatched_answer WHERE message ? '48' AND message ? '63'")


async def test_no_answer_to_anybody_shows_a_card(run: Run) -> None:
    assert len(run.answers) > 60
    for answer in run.answers:
        assert leaks(answer.raw + repr(answer.headers).encode()) == [], answer.raw
        for digits in re.findall(r"(?<![0-9])[0-9]{13,19}(?![0-9])", answer.raw.decode("utf-8", "replace")):
            assert digits not in PANS


async def test_the_masked_number_shows_the_bin_and_the_last_four_and_no_more(run: Run) -> None:
    told = [answer for answer in run.answers if '"openapi"' not in answer.raw[:200].decode("utf-8", "replace")]  # whose examples show another card
    shown = set(re.findall(r'"masked_pan": ?"([^"]+)"', "".join(answer.raw.decode("utf-8", "replace") for answer in told)))
    assert shown == {f"{pan[:8]}{'*' * (len(pan) - 12)}{pan[-4:]}" for pan in PANS}


async def test_no_column_of_any_table_and_no_dump_holds_a_card_in_any_form(run: Run) -> None:
    scan = leak_scan.Scan()
    await scan.tables(run.shop.url)
    scan.dump(run.shop.url)
    assert scan.found == []
    assert scan.looked["table"] > 20_000 and scan.looked["dump"] > 100_000, scan.looked


async def test_the_seal_and_the_token_are_keyed(run: Run) -> None:
    rows = await run.shop.sql("SELECT pan_token, pan_sealed, masked_pan FROM transaction")
    assert len({row["pan_sealed"] for row in rows}) == len(rows)  # never the same bytes twice, even for the same card
    assert {len(row["pan_sealed"]) for row in rows} == {56} and {len(row["pan_token"]) for row in rows} == {32}


async def test_no_file_of_postgresql_holds_a_card_in_any_form(run: Run, cluster_folder: Path) -> None:
    """The write-ahead log holds whatever was ever written, committed or not; it is not compressed, so a scan of the bytes is a proof."""
    (setting,) = await run.shop.sql("SELECT current_setting('wal_compression') AS compressed")
    assert setting["compressed"] == "off"
    proof = leak_scan.Scan({"masked": PANS[0][:8].encode() + b"****"})  # what may stand there, and does
    proof.files("cluster", cluster_folder, run.begun)
    assert any(re.match("cluster [0-9A-F]{24}:", each) for each in proof.found), proof.found
    scan = leak_scan.Scan()
    scan.files("cluster", cluster_folder, run.begun)
    assert scan.found == [] and scan.looked["cluster"] > 4_000_000, scan


async def test_our_log_and_the_hosts_book_hold_no_card(run: Run) -> None:
    scan, text = leak_scan.Scan(), run.log.getvalue()
    assert text.count("\n") > 20
    scan.lines("text", "log", text)
    for name in ("single", "dual"):
        content = (run.folder / name / "book.jsonl").read_text()
        assert content and leaks(content.encode()) == []
    assert scan.found == []


async def test_nothing_beside_the_key_file_is_left_in_the_home_folder(run: Run) -> None:
    scan = leak_scan.Scan()
    scan.files("home", run.folder)
    assert scan.found == [] and scan.looked["home"] > 10_000
    assert (run.folder / "keys.json").stat().st_mode & 0o077 == 0


async def test_a_reversal_is_built_without_track_pin_or_chip_data(run: Run) -> None:
    rows = await run.shop.sql("SELECT rrn FROM transaction WHERE state IN ('REVERSING', 'REVERSED') AND acquirer_id = $1", run.shop.ids["acquirer.single"])
    seen = 0
    for row in rows:
        for message in await run.shop.host.received(row["rrn"]):
            if message["0"] in ("0420", "0421"):
                seen += 1
                assert not {"35", "45", "52", "53", "55"} & message.keys() and "90" in message
    assert seen >= 2
