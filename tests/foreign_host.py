"""An acquirer's host as an outside company would write it from the wire's description (design.md, section 8) alone. Standard library only.

    python tests/foreign_host.py --port 0 --book FILE [--cut-over MMDD] [--deaf N]      prints {"port": N} when it listens

House rules: an expired card gets 54, more than 5,000.00 gets 61, a card that begins with 5 has 1,000.00 left (10 with what is left, then 51),
exactly 66.66 is approved and never answered, 77.77 is answered after its line is closed. The first N transmissions of a reversal
are not answered. The book is JSON lines: received, decision (with its effect in minor units), violation, signed_on, answered, line_ended.
"""
import argparse
import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

Fields = dict[int, str]

# number: (digits of the length prefix, longest or exact length, allowed characters)
TABLE: dict[int, tuple[int, int, str]] = {
    2: (2, 19, "[0-9]{12,19}"), 3: (0, 6, "[0-9]+"), 4: (0, 12, "[0-9]+"), 7: (0, 10, "[0-9]+"), 11: (0, 6, "[0-9]+"), 12: (0, 6, "[0-9]+"),
    13: (0, 4, "[0-9]+"), 14: (0, 4, "[0-9]+"), 15: (0, 4, "[0-9]+"), 18: (0, 4, "[0-9]+"), 22: (0, 3, "[0-9]+"), 23: (0, 3, "[0-9]+"),
    25: (0, 2, "[0-9]+"), 32: (2, 11, "[0-9]+"), 35: (2, 37, "[0-9]{12,19}[=D][0-9]+"), 37: (0, 12, "[0-9A-Za-z]+"),
    38: (0, 6, "[0-9A-Za-z ]+"), 39: (0, 2, "[0-9A-Z]+"), 41: (0, 8, "[!-~][ -~]*"), 42: (0, 15, "[!-~][ -~]*"), 43: (0, 40, "[ -~]+"),
    49: (0, 3, "[0-9]+"), 52: (0, 16, "[0-9A-F]+"), 53: (0, 16, "[0-9]+"), 54: (3, 120, "([0-9]{4}[0-9A-Z]{3}[CD][0-9]{12})+"),
    55: (3, 999, "([0-9A-F]{2})+"), 64: (0, 16, "[0-9A-F]+"), 70: (0, 3, "[0-9]+"), 90: (0, 42, "[0-9]+"), 95: (0, 42, "[0-9A-Z ]+"),
}
REQUIRED = {2, 3, 4, 7, 11, 12, 13, 14, 18, 22, 25, 37, 41, 42, 49}
WHEN_GIVEN = {23, 32, 35, 38, 43, 52, 53, 54, 55}
NEVER_AGAIN = {35, 52, 53}  # track, PIN block: gone once the request was answered
ECHOED = (3, 4, 7, 11, 37, 41, 42, 49)
# MTI, DE3, DE25 -> fields above the required ones, and whether DE4 is an amount
MESSAGES: dict[tuple[str, str, str], tuple[set[int], bool]] = {
    ("0200", "000000", "00"): (set(), True), ("0200", "010000", "00"): (set(), True), ("0100", "000000", "00"): (set(), True),
    ("0100", "010000", "00"): (set(), True), ("0100", "000000", "06"): (set(), True), ("0100", "000000", "60"): ({38}, True),
    ("0100", "310000", "00"): (set(), False), ("0100", "330000", "00"): (set(), False), ("0220", "000000", "06"): ({38, 90}, True),
    ("0220", "000000", "00"): ({38, 90}, True), ("0220", "010000", "00"): ({38, 90}, True), ("0220", "020000", "00"): ({38, 90}, True),
    ("0200", "020000", "00"): ({38, 90}, True), ("0200", "200000", "00"): ({90}, True),
}
ENTRY = {"01", "02", "05", "07", "80"}
LIMIT, PREPAID = 500_000, 100_000  # minor units
LOST, CUT = 6_666, 7_777


class Unreadable(Exception):
    """The bytes are no message; the text says why."""


def unpack(frame: bytes) -> tuple[str, Fields]:
    """MTI and fields of one frame. Raises Unreadable."""
    try:
        text = frame.decode("ascii")
    except UnicodeDecodeError:
        raise Unreadable("a byte that is not ASCII") from None
    mti, at = text[:4], 20
    if not re.fullmatch("[0-9]{4}", mti):
        raise Unreadable("the MTI is not four digits")
    bitmap = text[4:20]
    if bitmap[:1] in "89ABCDEF" and bitmap:
        bitmap, at = text[4:36], 36
    if not re.fullmatch("[0-9A-F]{16}|[0-9A-F]{32}", bitmap):
        raise Unreadable("a bitmap is not 16 upper-case hex characters")
    bits = f"{int(bitmap, 16):0{len(bitmap) * 4}b}"
    if len(bitmap) == 32 and "1" not in bits[64:]:
        raise Unreadable("a second bitmap without a field in it")
    fields: Fields = {}
    for number in (place + 1 for place, bit in enumerate(bits) if bit == "1" and place):
        if number not in TABLE:
            raise Unreadable(f"DE{number} is not a field of this wire")
        prefix, size, allowed = TABLE[number]
        if prefix:
            length = text[at:at + prefix]
            if not re.fullmatch(f"[0-9]{{{prefix}}}", length) or int(length) > size:
                raise Unreadable(f"DE{number}: its length is wrong")
            at, size = at + prefix, int(length)
        value, at = text[at:at + size], at + size
        if len(value) != size or not re.fullmatch(allowed, value):
            raise Unreadable(f"DE{number}: too short, or characters that it may not hold")
        fields[number] = value
    if at != len(text):
        raise Unreadable("bytes after the last field")
    return mti, fields


def pack(mti: str, fields: Fields) -> bytes:
    """The whole frame with its two bytes of length."""
    wide = max(fields) > 64
    bits = ["0"] * (128 if wide else 64)
    bits[0] = "1" if wide else "0"
    for number in fields:
        bits[number - 1] = "1"
    body = "".join(f"{len(fields[number]):0{TABLE[number][0]}d}{fields[number]}" if TABLE[number][0] else fields[number] for number in sorted(fields))
    text = f"{mti}{int(''.join(bits), 2):0{len(bits) // 4}X}{body}".encode("ascii")
    return len(text).to_bytes(2, "big") + text


def luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def shown(fields: Fields) -> dict[str, str]:
    """What may be written down: no card number, track, PIN block or chip data."""
    hidden = {number: value[:6] + "*" * (len(value) - 10) + value[-4:] if number == 2 else f"({len(value)})"
              for number, value in fields.items() if number in (2, 14, 35, 52, 55)}
    return {str(number): hidden.get(number, value) for number, value in fields.items()}


def moment_faults(fields: Fields) -> list[str]:
    """DE7 is UTC, DE12 and DE13 the store's clock."""
    now, faults = datetime.now(UTC), []
    for name, text in (("DE7", fields.get(7, "")), ("DE12 and DE13", fields.get(13, "") + fields.get(12, ""))):
        try:
            moment = datetime.strptime(f"{now.year}{text}", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            faults.append(f"{name} is no date and time")
            continue
        apart = min(abs(moment - now), abs(moment.replace(year=now.year - 1) - now), abs(moment.replace(year=now.year + 1) - now))
        if apart > (timedelta(minutes=5) if name == "DE7" else timedelta(hours=39)):
            faults.append(f"{name} is not the time of now")
    return faults


def request_faults(mti: str, fields: Fields) -> list[str]:
    """What a request or advice breaks of the description, whatever came before it."""
    kind = "0220" if mti == "0221" else mti
    if kind in ("0420", "0421"):
        extra, money = {90}, not fields.get(3, "").startswith("3")
        optional = WHEN_GIVEN | {95}
    else:
        found = MESSAGES.get((kind, fields.get(3, ""), fields.get(25, "")))
        if found is None:
            return [f"{mti} with DE3 {fields.get(3)} and DE25 {fields.get(25)} is no message of this wire"]
        (extra, money), optional = found, WHEN_GIVEN
    have = set(fields)
    faults = [f"DE{number} is missing" for number in sorted((REQUIRED | extra) - have)]
    faults += [f"DE{number} has no place in {mti}" for number in sorted(have - REQUIRED - extra - optional)]
    if kind in ("0220", "0420", "0421"):
        faults += [f"DE{number} in an advice: it must have been forgotten by now" for number in sorted(have & NEVER_AGAIN)]
    if faults:
        return faults
    checks = [
        (luhn(fields[2]), "DE2 has a wrong check digit"), (1 <= int(fields[14][2:]) <= 12, "DE14 is not YYMM"),
        ((int(fields[4]) > 0) == money, "DE4 does not fit the message"), (fields[11] != "000000", "DE11 is zero"),
        (fields[22][:2] in ENTRY and fields[22][2] in "12", "DE22 is no PAN entry and PIN capability"),
        (kind not in ("0100", "0200") or (fields[22][2] == "1") == (52 in have), "DE22 says another thing about the PIN than DE52"),
        (35 not in have or re.split("[=D]", fields[35])[0] == fields[2], "DE35 is of another card"),
        (90 not in have or (fields[90][:4] in ("0100", "0200", "0220") and fields[90][20:] == "0" * 22), "DE90 is not MTI, DE11, DE7 and zeros"),
        (43 not in have or fields[43][38:].strip().isalpha(), "DE43 does not end in a country"),
    ]
    return [fault for good, fault in checks if not good] + moment_faults(fields)


class Host:
    """What the host knows of all its lines: the decisions, by match key, and what is left on prepaid cards."""

    def __init__(self, book: TextIO, deaf: int, cut_over: str | None) -> None:
        self.book, self.deaf, self.cut_over = book, deaf, cut_over
        self.seen: dict[tuple[str, ...], Fields] = {}  # every request by class and match key
        self.answers: dict[tuple[str, ...], Fields] = {}
        self.effects: dict[tuple[str, ...], int] = {}
        self.transmissions: dict[tuple[str, ...], int] = {}
        self.spent = 0
        self.count = 0

    def write(self, kind: str, **content: Any) -> None:
        self.book.write(json.dumps({"at": datetime.now(UTC).isoformat(), "kind": kind, **content}) + "\n")
        self.book.flush()

    def violation(self, mti: str, rule: str) -> None:
        self.write("violation", mti=mti, rule=rule)

    def decide(self, mti: str, fields: Fields) -> Fields | None:
        """The answer to a money message, None to stay silent."""
        key = self.name(mti, fields[7], fields[11], fields)
        self.transmissions[key] = self.transmissions.get(key, 0) + 1
        self.check_repeat(mti, fields, key)
        if mti in ("0420", "0421"):
            code, effect = self.undo(mti, fields), 0
            if self.transmissions[key] <= self.deaf:
                return None
            answer = {number: fields[number] for number in ECHOED} | {39: code}
        elif key in self.answers:
            return self.answers[key]
        else:
            code, amount = self.judge(mti, fields)
            self.count += 1
            answer, effect = {number: fields[number] for number in ECHOED} | {4: f"{amount:012d}", 39: code}, 0
            if code in ("00", "10", "85"):
                answer[38] = fields.get(38) or f"F{self.count:05d}"
                effect = self.book_approval(mti, fields, amount)
            if fields[3] == "310000":
                answer[54] = f"0002{fields[49]}C{123_456:012d}"
            self.write("decision", mti=mti, rrn=fields[37], code=code, amount=amount, effect=effect)
        self.answers[key] = answer
        return None if code in ("00", "10") and mti[1] != "4" and int(fields[4]) == LOST else answer

    def check_repeat(self, mti: str, fields: Fields, key: tuple[str, ...]) -> None:
        """A repeat is the same message under the repeat's MTI; anything else with a known key is a fault, and so is a repeat of nothing."""
        known = self.seen.setdefault(key, fields)
        first = known is fields
        if mti in ("0221", "0421"):
            if first:
                self.violation(mti, "repeats a message that never came")
            elif known != fields:
                self.violation(mti, f"differs from what it repeats in {sorted(n for n in {*known, *fields} if known.get(n) != fields.get(n))}")
        elif not first:
            self.violation(mti, "the same class, DE7, DE11, DE37, DE41 and DE42 as another message")

    def book_approval(self, mti: str, fields: Fields, amount: int) -> int:
        """What the cardholder owes more than before: held or posted; a completion takes the place of its hold."""
        name = self.name(mti, fields[7], fields[11], fields)
        if mti in ("0220", "0221"):
            name = self.name(fields[90][:4], fields[90][10:20], fields[90][4:10], fields)
        before, self.effects[name] = self.effects.get(name, 0), amount
        return amount - before

    @staticmethod
    def name(mti: str, sent_at: str, stan: str, fields: Fields) -> tuple[str, ...]:
        return mti[1], sent_at, stan, fields[37], fields[41], fields[42]

    def judge(self, mti: str, fields: Fields) -> tuple[str, int]:
        amount = int(fields[4])
        if mti in ("0220", "0221"):
            return "00", amount
        if fields[14] < f"{datetime.now(UTC):%y%m}":
            return "54", amount
        if fields[3] == "330000":
            return "85", 0
        if amount > LIMIT:
            return "61", amount
        if fields[2].startswith("5"):
            left = PREPAID - self.spent
            if left <= 0:
                return "51", amount
            self.spent += min(left, amount)
            return ("10", left) if amount > left else ("00", amount)
        return "00", amount

    def undo(self, mti: str, fields: Fields) -> str:
        """Takes the original back, once. 25: it never came."""
        original_mti, stan, sent_at = fields[90][:4], fields[90][4:10], fields[90][10:20]
        name = self.name(original_mti, sent_at, stan, fields)
        found = self.seen.get(name)
        if found is None:
            self.write("decision", mti=mti, rrn=fields[37], code="25", amount=int(fields[4]), effect=0)
            return "25"
        if differing := [number for number in (2, 3, 4, 14, 18, 22, 25, 49) if found.get(number) != fields.get(number)]:
            self.violation(mti, f"differs from its original in {differing}")
        if fields[11] == stan:
            self.violation(mti, "a reversal has its own DE11")
        self.write("decision", mti=mti, rrn=fields[37], code="00", amount=int(fields[4]), effect=-self.effects.pop(name, 0))
        return "00"


class Line:
    """One connection of the switch."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.host, self.reader, self.writer = host, reader, writer
        self.signed_on = self.signed_off = False
        self.asked: dict[tuple[str, str], str] = {}  # DE7 and DE11 of our own 0800 -> DE70
        self.stan = 900_000

    async def serve(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
                frame = await self.reader.readexactly(size)
                try:
                    mti, fields = unpack(frame)
                except Unreadable as fault:
                    self.host.violation(frame[:4].decode("ascii", "replace"), str(fault))
                    break
                self.host.write("received", mti=mti, fields=shown(fields))
                if not self.take(mti, fields):
                    break
                await self.writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            self.host.write("line_ended", signed_off=self.signed_off, unanswered=sorted(self.asked.values()))
            self.writer.close()

    def take(self, mti: str, fields: Fields) -> bool:
        """One message; False closes the line."""
        if mti == "0800":
            return self.network(fields)
        if mti == "0810":
            wanted = self.asked.pop((fields.get(7, ""), fields.get(11, "")), None)
            if wanted is None or (fields.get(70), fields.get(39)) != (wanted, "00"):
                self.host.violation(mti, "answers nothing that was asked, or not with its DE70 and 00")
            self.host.write("answered", code=fields.get(70))
            return True
        if not self.signed_on:
            self.host.violation(mti, "traffic without a sign-on")
        if mti not in ("0100", "0200", "0220", "0221", "0420", "0421"):
            self.host.violation(mti, "no message of this wire")
            return False
        faults = request_faults(mti, fields)
        for fault in faults:
            self.host.violation(mti, fault)
        if faults and not fields.keys() >= {*ECHOED, 2, 14, 25}:
            return False
        answer = self.host.decide(mti, fields)
        if mti[1] != "4" and int(fields[4]) == CUT:
            return False
        if answer is not None:
            self.send({"01": "0110", "02": "0210", "04": "0430"}[mti[:2]] if mti[2] != "2" or mti[1] == "4" else "0230", answer)
        return True

    def network(self, fields: Fields) -> bool:
        code = fields.get(70, "")
        if set(fields) != {7, 11, 70} or code not in ("001", "002", "301"):
            self.host.violation("0800", f"carries {sorted(fields)} with DE70 {code}; DE7, DE11 and DE70 001, 002 or 301 were agreed")
        if code != "001" and not self.signed_on:
            self.host.violation("0800", f"{code} before the sign-on")
        self.send("0810", fields | {39: "00"})
        if code == "001":
            self.signed_on, self.signed_off = True, False
            self.host.write("signed_on")
            self.ask("301")
            if self.host.cut_over is not None:
                self.ask("201", {15: self.host.cut_over})
                self.host.cut_over = None
        elif code == "002":
            self.signed_on, self.signed_off = False, True
        return True

    def ask(self, code: str, more: Fields | None = None) -> None:
        self.stan += 1
        moment = f"{datetime.now(UTC):%m%d%H%M%S}"
        self.asked[moment, f"{self.stan}"] = code
        self.send("0800", {7: moment, 11: f"{self.stan}", 70: code, **(more or {})})

    def send(self, mti: str, fields: Fields) -> None:
        self.writer.write(pack(mti, fields))


async def serve(options: argparse.Namespace) -> None:
    with options.book.open("a") as book:
        host = Host(book, options.deaf, options.cut_over)
        server = await asyncio.start_server(lambda reader, writer: Line(host, reader, writer).serve(), "127.0.0.1", options.port)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        async with server:
            await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--cut-over", metavar="MMDD", help="announce this business day after the first sign-on")
    parser.add_argument("--deaf", type=int, default=0, metavar="N", help="transmissions of a reversal that get no answer")
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
