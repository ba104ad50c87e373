"""Looks for card data in files, tables, dumps, logs and answers, in every encoding in which it could lie there (I-19).

For tests, and for the end of fault runs: make the payments with `card(PANS[n])`, then `await everything(...)`. Looked for are whole card numbers,
track data, the cardholder's name and PIN blocks. A security code is too short to be searched for without finding it by chance: it is looked
for as the whole value of a column, of a JSON member, of a field of a log line.
"""

import base64
import hashlib
import json
import re
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from switch.postgres.processes import candidates


def luhn(pan: str) -> str:
    """The same number with its right check digit."""
    total = sum(int(digit) if at % 2 else sum(divmod(2 * int(digit), 10)) for at, digit in enumerate(reversed(pan[:-1])))
    return pan[:-1] + str(-total % 10)


PANS = tuple(luhn(pan) for pan in ("6212340918273643", "4111112938475661", "6212340918273645463"))
TWELVE = luhn("630490182737")
TRACK_TAIL = "30122018273640918"
PIN_BLOCK = "C0DEC0FFEE9182AB"
HOLDER = "KANARIENVOGEL/OTTO"
SECURITY_CODE = "9137"
HASHES = ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")
SHORTEST = 7  # bytes; a shorter needle would be found by chance
DUMP_S = 60


def tlv(tag: str, value: str) -> str:
    return f"{tag}{len(value) // 2:02X}{value}"


def emv(pan: str) -> str:
    """Chip data that carries what may never be kept: PAN, track 2 equivalent, cardholder's name, discretionary data."""
    padded = pan + "F" * (len(pan) % 2)
    track = f"{pan}D{TRACK_TAIL}"
    return (tlv("9F26", "A1B2C3D4E5F60718") + tlv("5A", padded) + tlv("57", track + "F" * (len(track) % 2)) + tlv("5F20", HOLDER.encode().hex())
            + tlv("9F1F", TRACK_TAIL.encode().hex()) + tlv("9A", "261123"))


def card(pan: str, **more: object) -> dict[str, Any]:
    """A card in which everything that may not be kept is a canary."""
    return {"entry_mode": "chip", "pan": pan, "expiry": "3012", "emv": emv(pan), "security_code": SECURITY_CODE,
            "pin": {"block": PIN_BLOCK, "format": "iso0", "key_id": "zone1"}, **more}


# The forms in which a text could lie about.


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


def text_forms(text: str) -> dict[str, bytes]:
    raw = text.encode()
    forms = {"ascii": raw, "lower": text.lower().encode(), "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(), "utf-16le": text.encode("utf-16-le"),
             "utf-16be": text.encode("utf-16-be"), "ebcdic": text.encode("cp500")}
    return forms | {f"base64 {n}": form for n, form in enumerate(base64_forms(raw))}


def digits_forms(digits: str) -> dict[str, bytes]:
    forms = text_forms(digits) | {f"bcd {n}": form for n, form in enumerate(packed(digits))}
    groups = re.findall(".{1,4}", digits)
    return forms | {"spaced": " ".join(groups).encode(), "dashed": "-".join(groups).encode(), "reversed": digits[::-1].encode()}


def pan_forms(pan: str) -> dict[str, bytes]:
    forms = digits_forms(pan)
    if len(pan) < 19:
        forms |= {"int64": struct.pack(">q", int(pan)), "int64 little": struct.pack("<q", int(pan))}
    for name in HASHES:  # of the number alone, without a key: found again by trying all numbers
        digest = hashlib.new(name, pan.encode()).digest()
        forms |= {name: digest, f"{name} hex": digest.hex().encode(), f"{name} HEX": digest.hex().upper().encode(), f"{name} base64": base64.b64encode(digest)[:20]}
    return forms


def needles(pans: Iterable[str] = PANS) -> dict[str, bytes]:
    """Every form of every canary, by what it is."""
    found = {f"PAN {at} {name}": form for at, pan in enumerate(pans) for name, form in pan_forms(pan).items()}
    found |= {f"track {name}": form for name, form in digits_forms(TRACK_TAIL).items()}
    found |= {f"holder {name}": form for name, form in text_forms(HOLDER).items()}
    found |= {f"PIN block {name}": form for name, form in text_forms(PIN_BLOCK).items()} | {"PIN block raw": bytes.fromhex(PIN_BLOCK)}
    return found


NEEDLES = needles()


def leaks(content: bytes, forms: Mapping[str, bytes] = NEEDLES) -> list[str]:
    return [name for name, needle in forms.items() if needle in content]


def security_codes(value: Any) -> int:
    """How often the security code is a whole text inside a JSON value; the same number may be a port or a pid."""
    if isinstance(value, dict):
        return sum(security_codes(each) for each in value.values())
    if isinstance(value, list):
        return sum(security_codes(each) for each in value)
    return int(value == SECURITY_CODE)


# Where they could lie.


@dataclass(slots=True)
class Scan:
    """What was found, as `place: form`, and how many bytes were looked at in each kind of place: nothing looked at is nothing proven."""

    forms: Mapping[str, bytes] = field(default_factory=lambda: NEEDLES)
    found: list[str] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)

    def content(self, kind: str, place: str, content: bytes) -> None:
        self.looked[kind] = self.looked.get(kind, 0) + len(content)
        self.found += [f"{kind} {place}: {name}" for name in leaks(content, self.forms)]

    def lines(self, kind: str, place: str, text: str) -> None:
        """Text whose lines may be JSON: logs, books, answers."""
        self.content(kind, place, text.encode("utf-8", "surrogatepass"))
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if SECURITY_CODE in line and security_codes(json.loads(line)):
                    self.found.append(f"{kind} {place} line {number}: security code")
            except ValueError:
                continue

    def files(self, kind: str, folder: Path, since: float = 0.0, left_out: Iterable[str] = ()) -> None:
        """Every file below a folder that was written after `since` (wall clock); a segment's unwritten end counts for nothing."""
        for path in sorted(folder.rglob("*")):
            try:
                if path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since - 1 and not any(part in left_out for part in path.relative_to(folder).parts):
                    self.content(kind, path.name, path.read_bytes().rstrip(b"\0"))
            except FileNotFoundError:  # PostgreSQL tidies up meanwhile
                continue

    async def tables(self, url: str) -> None:
        """Every value of every column of every table, as text and, where it is bytes, as bytes."""
        connection = await asyncpg.connect(url)
        try:
            columns = await connection.fetch("""SELECT c.table_schema, c.table_name, c.column_name FROM information_schema.columns c
                JOIN information_schema.tables t USING (table_schema, table_name) WHERE c.table_schema IN ('public', 'queue') AND t.table_type = 'BASE TABLE'""")
            for schema, table, column in columns:
                for (value,) in await connection.fetch(f'SELECT DISTINCT "{column}" FROM "{schema}"."{table}" WHERE "{column}" IS NOT NULL'):
                    place, text = f"{table}.{column}", value if isinstance(value, str) else str(value)
                    self.content("table", place, value if isinstance(value, bytes) else text.encode())
                    if value == SECURITY_CODE or (text.startswith(("{", "[")) and SECURITY_CODE in text and security_codes(json.loads(text))):
                        self.found.append(f"table {place}: security code")
        finally:
            await connection.close()

    def dump(self, url: str) -> None:
        """What a backup would hold."""
        program = next(folder / "pg_dump" for folder in candidates(None) if (folder / "pg_dump").is_file())
        done = subprocess.run([program, "--no-sync", f"--dbname={url}"], capture_output=True, check=True, timeout=DUMP_S)
        self.content("dump", "pg_dump", done.stdout)


async def everything(url: str, folders: Mapping[str, Path], texts: Mapping[str, str], since: float = 0.0, pans: Iterable[str] = PANS) -> Scan:
    """The scan for the end of a run.

    `url`: the switch's database. `folders` by name: the home folder, the cluster's data folder with its write-ahead log, the host's book.
    `texts` by name: logs, metrics, answers. `since`: wall clock when the run began. `pans`: the card numbers that the run paid with.
    """
    scan = Scan(needles(pans))
    await scan.tables(url)
    scan.dump(url)
    for name, folder in folders.items():
        scan.files(name, folder, since)
    for name, text in texts.items():
        scan.lines("text", name, text)
    return scan
