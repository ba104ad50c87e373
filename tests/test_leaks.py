"""No card number, track, security code or PIN block stays anywhere: rows, files of PostgreSQL, logs, metrics, answers, the host's book (I-19, I-20)."""

import asyncio
import base64
import hashlib
import io
import json
import re
import struct
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from acquirer_stubs.codec import Message
from switch import logs
from tests.flows import Reply, Shop, answer_to, eventually, new_key, open_shop, scripted_host
from tests.processes import Answer

PANS = ["6212340918273643", "4111112938475661", "6212340918273645463"]
TWELVE = "630490182737"
TRACK_TAIL = "30122018273640918"
PIN_BLOCK = "C0DEC0FFEE9182AB"
HOLDER = "KANARIENVOGEL/OTTO"
SECURITY_CODE = "9137"


def luhn(pan: str) -> str:
    """The same number with its right check digit."""
    total = sum(int(digit) if at % 2 else sum(divmod(2 * int(digit), 10)) for at, digit in enumerate(reversed(pan[:-1])))
    return pan[:-1] + str(-total % 10)


PANS, TWELVE = [luhn(pan) for pan in PANS], luhn(TWELVE)


def tlv(tag: str, value: str) -> str:
    return f"{tag}{len(value) // 2:02X}{value}"


def emv(pan: str) -> str:
    """Chip data that carries what may never be kept: PAN, track 2 equivalent, cardholder's name, discretionary data."""
    padded = pan + "F" * (len(pan) % 2)
    track = f"{pan}D{TRACK_TAIL}"
    return (tlv("9F26", "A1B2C3D4E5F60718") + tlv("5A", padded) + tlv("57", track + "F" * (len(track) % 2)) + tlv("5F20", HOLDER.encode().hex())
            + tlv("9F1F", TRACK_TAIL.encode().hex()) + tlv("9A", "261123"))


def base64_forms(raw: bytes) -> Iterator[bytes]:
    """What base64 of any text that holds `raw` must hold, at each of the three offsets."""
    for offset in range(3):
        padded = base64.b64encode(b"\0" * offset + raw)
        yield padded[4 if offset else 0:].rstrip(b"=")[: (len(raw) - 3) * 4 // 3]


def packed(digits: str) -> list[bytes]:
    """BCD without the half bytes at the ends, which may be shared."""
    even = digits if len(digits) % 2 == 0 else digits[:-1]
    odd = digits[1:]
    return [bytes.fromhex(even), bytes.fromhex(odd[: len(odd) // 2 * 2])]


def needles() -> dict[str, bytes]:
    """Every form in which a canary could lie about, by what it is."""
    found: dict[str, bytes] = {}
    for at, pan in enumerate(PANS):
        raw = pan.encode()
        forms = {"ascii": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(), "utf-16le": pan.encode("utf-16-le"),
                 "utf-16be": pan.encode("utf-16-be"), "spaced": " ".join(re.findall(".{1,4}", pan)).encode(), "dashed": "-".join(re.findall(".{1,4}", pan)).encode(),
                 "track": f"{pan}D".encode()}
        forms |= {f"bcd {n}": form for n, form in enumerate(packed(pan))}
        forms |= {f"base64 {n}": form for n, form in enumerate(base64_forms(raw))}
        if len(pan) < 19:
            forms |= {"int64": struct.pack(">q", int(pan)), "int64 little": struct.pack("<q", int(pan))}
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"):
            digest = hashlib.new(name, raw).digest()
            forms |= {name: digest, f"{name} hex": digest.hex().encode(), f"{name} base64": base64.b64encode(digest)[:20]}
        found |= {f"PAN {at} {name}": form for name, form in forms.items()}
    for name, text in (("track tail", TRACK_TAIL), ("holder", HOLDER), ("PIN block", PIN_BLOCK), ("pin block", PIN_BLOCK.lower())):
        raw = text.encode()
        found |= {name: raw, f"{name} hex": raw.hex().encode(), f"{name} HEX": raw.hex().upper().encode(), f"{name} utf-16": text.encode("utf-16-le")}
        found |= {f"{name} base64 {n}": form for n, form in enumerate(base64_forms(raw))}
    found["PIN block raw"] = bytes.fromhex(PIN_BLOCK)
    return found


NEEDLES = needles()


def leaks(content: bytes) -> list[str]:
    return [name for name, needle in NEEDLES.items() if needle in content]


def test_the_scanner_finds_every_form_it_looks_for() -> None:
    for at, pan in enumerate(PANS):
        for name, content in (("ascii", f"x{pan}y".encode()), ("base64 0", base64.b64encode(f"{pan} and more".encode())),
                              ("base64 1", base64.b64encode(f"a{pan} and more".encode())), ("base64 2", base64.b64encode(f"ab{pan} and more".encode())),
                              ("sha256", hashlib.sha256(pan.encode()).digest()), ("utf-16le", f"card {pan}".encode("utf-16-le")),
                              ("bcd 0", bytes.fromhex(pan + "F" * (len(pan) % 2))), ("bcd 1", bytes.fromhex(("0" + pan + "F")[: len(pan) // 2 * 2 + 2]))):
            assert f"PAN {at} {name}" in leaks(content), (at, name)
    assert all(len(needle) >= 7 for needle in NEEDLES.values())  # shorter ones would be found by chance
    assert "PIN block raw" in leaks(bytes.fromhex(PIN_BLOCK)) and leaks(b"nothing" * 1000) == []


@dataclass(slots=True, repr=False)
class Run:
    """A run with canaries in every place a terminal or host can put them, and all that was heard and written meanwhile."""

    shop: Shop
    answers: list[Answer]
    log: io.StringIO
    folder: Path
    begun: float  # wall clock, seconds


def card(pan: str, **more: object) -> dict[str, Any]:
    return {"entry_mode": "chip", "pan": pan, "expiry": "3012", "emv": emv(pan), "security_code": SECURITY_CODE,
            "pin": {"block": PIN_BLOCK, "format": "iso0", "key_id": "zone1"}, **more}


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
    shown = set(re.findall(r'"masked_pan": ?"([^"]+)"', "".join(answer.raw.decode("utf-8", "replace") for answer in run.answers)))
    assert shown == {f"{pan[:8]}{'*' * (len(pan) - 12)}{pan[-4:]}" for pan in PANS}


async def test_no_column_of_any_table_holds_a_card_in_any_form(run: Run) -> None:
    columns = await run.shop.sql("""SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
        WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'""")
    assert len(columns) > 150
    connection = await asyncpg.connect(run.shop.url)
    try:
        for column in columns:
            name = f'"{column["table_name"]}"."{column["column_name"]}"'
            for row in await connection.fetch(f'SELECT DISTINCT "{column["column_name"]}" FROM "{column["table_name"]}" WHERE "{column["column_name"]}" IS NOT NULL'):
                content = row[0] if isinstance(row[0], bytes) else str(row[0]).encode()
                assert leaks(content) == [], name
                assert content != SECURITY_CODE.encode(), name
                if isinstance(row[0], str) and row[0].startswith("{"):
                    assert SECURITY_CODE not in json.loads(row[0]).values(), name
    finally:
        await connection.close()


async def test_the_seal_and_the_token_are_keyed(run: Run) -> None:
    rows = await run.shop.sql("SELECT pan_token, pan_sealed, masked_pan FROM transaction")
    assert len({row["pan_sealed"] for row in rows}) == len(rows)  # never the same bytes twice, even for the same card
    assert {len(row["pan_sealed"]) for row in rows} == {56} and {len(row["pan_token"]) for row in rows} == {32}


async def test_no_file_of_postgresql_holds_a_card_in_any_form(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The write-ahead log holds whatever was ever written, committed or not; it is not compressed, so a scan of the bytes is a proof."""
    (setting,) = await run.shop.sql("SELECT oid::text, current_setting('wal_compression') AS compressed FROM pg_database WHERE datname = current_database()")
    assert setting["compressed"] == "off"
    scanned, proof = 0, PANS[0][:8].encode() + b"****"
    seen = False
    for path in (each for folder in tmp_path_factory.getbasetemp().glob("cluster*") for each in folder.rglob("*") if each.is_file()):
        if path.stat().st_mtime < run.begun - 1 or (path.parent.parent.name == "base" and path.parent.name != setting["oid"]):
            continue  # written before there were canaries, or in the database of other tests
        content = path.read_bytes().rstrip(b"\0")  # the end of a log segment is not written yet
        scanned += len(content)
        seen = seen or proof in content
        assert leaks(content) == [], path.name
    assert seen and scanned > 4_000_000, scanned


async def test_our_log_and_the_hosts_book_hold_no_card(run: Run) -> None:
    text = run.log.getvalue()
    assert text.count("\n") > 20 and leaks(text.encode()) == []
    assert SECURITY_CODE not in [str(value) for line in text.splitlines() for value in json.loads(line).values()]
    for name in ("single", "dual"):
        content = (run.folder / name / "book.jsonl").read_bytes()
        assert content and leaks(content) == []


async def test_nothing_beside_the_key_file_is_left_in_the_home_folder(run: Run) -> None:
    for path in run.folder.rglob("*"):
        if path.is_file():
            assert leaks(path.read_bytes()) == [], path.name
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
