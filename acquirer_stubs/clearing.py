"""The host's clearing files and bank statements, written from its own book, with planted differences where they are asked for.

    python -m acquirer_stubs.clearing file --book BOOK --institution ID --date YYYY-MM-DD --out FILE [--format csv|fixed] [--missing N] ...
    python -m acquirer_stubs.clearing statement --book BOOK --institution ID --date YYYY-MM-DD --out FILE [--short MINOR_UNITS] ...

Both print one JSON line: what was written, and by RRN what was planted. What is cleared is what stands in the book: money that was posted,
less what was reversed, without what was voided. Amounts are minor units in the fixed-width file and decimal text in the CSV.
"""
import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NamedTuple, cast

from acquirer_stubs.behaviours import Decision, Known
from acquirer_stubs.book import BookError, lines_of

# What this host clears: DE49 -> ISO 4217 code and digits after the point.
CURRENCIES = {"156": ("CNY", 2), "840": ("USD", 2), "978": ("EUR", 2), "826": ("GBP", 2), "344": ("HKD", 2), "702": ("SGD", 2), "392": ("JPY", 0),
              "410": ("KRW", 0), "414": ("KWD", 3), "704": ("VND", 0), "764": ("THB", 2), "458": ("MYR", 2), "036": ("AUD", 2)}
PLANTED = ("missing", "extra", "amount", "fee", "duplicate", "date")


class ClearingError(Exception):
    """What was asked for cannot be written."""


class Item(NamedTuple):
    """One line of a clearing file. `amount` and `fee`: minor units, never negative; `kind`: S sale, R refund."""
    rrn: str
    stan: str
    terminal: str
    acceptor: str
    approval: str
    kind: str
    amount: int
    currency: str  # numeric
    fee: int
    date: str      # YYYY-MM-DD
    reference: str


def fee_of(amount: int, basis_points: int) -> int:
    """Half-even, in minor units."""
    whole, rest = divmod(amount * basis_points, 10_000)
    return whole + (rest > 5000 or (rest == 5000 and whole % 2 == 1))


def cleared(path: Path, day: str, *, basis_points: int, after: int = 0, until: int | None = None) -> list[Item]:
    """What stands of the messages with sequence numbers above `after` and up to `until`, in the order of the book."""
    known, numbers, named = Known(), dict[int, dict[str, str]](), dict[str, tuple[int, Decision, dict[str, str]]]()
    for _raw, line in lines_of(path):
        if line["kind"] == "received":
            numbers = {line["seq"]: line.get("fields", {})}  # its decision follows it at once
            continue
        decision = Decision(*(line[name] for name in Decision._fields))
        known.apply(decision)
        if decision.key and decision.role in ("plain", "followup") and after < line["seq"] and (until is None or line["seq"] <= until):
            named[decision.key] = line["seq"], decision, numbers.get(line["received"], {})
    items = []
    for key, (seq, decision, fields) in named.items():
        record = known.records[key]
        parent = known.records.get(record.original)
        if record.net and not record.voided_by and (parent is None or not parent.voided_by):
            amount = abs(record.net)
            items.append(Item(decision.rrn, fields.get("11", ""), decision.terminal, fields.get("42", ""), decision.approval.strip(),
                              "S" if record.net > 0 else "R", amount, decision.currency, fee_of(amount, basis_points), day, f"REF{seq:09d}"))
    return items


def plant(items: list[Item], counts: dict[str, int], seed: int) -> tuple[list[Item], dict[str, list[str]]]:
    """The items with differences planted, each in another transaction, and the RRNs by kind. The same seed plants the same."""
    random = Random(seed)
    wanted = {kind: counts.get(kind, 0) for kind in PLANTED}
    of_items = sum(count for kind, count in wanted.items() if kind != "extra")
    if of_items > len(items):
        raise ClearingError(f"{of_items} differences cannot be planted in {len(items)} transactions")
    chosen = iter(random.sample(range(len(items)), of_items))
    fate = {next(chosen): kind for kind in PLANTED if kind != "extra" for _ in range(wanted[kind])}
    planted: dict[str, list[str]] = {kind: [] for kind in PLANTED if wanted[kind]}
    written = []
    for at, item in enumerate(items):
        kind = fate.get(at)
        if kind:
            planted[kind].append(item.rrn)
        match kind:
            case "missing":
                continue
            case "amount":
                item = item._replace(amount=item.amount + random.choice((1, 100, 900)))
            case "fee":
                item = item._replace(fee=item.fee + random.choice((1, 25)))
            case "date":
                item = item._replace(date=(date.fromisoformat(item.date) + timedelta(days=1)).isoformat())
            case "duplicate":
                written.append(item)
        written.append(item)
    for number in range(wanted["extra"]):
        like = items[0] if items else Item("", "", "STRANGE1", "STRANGE00000001", "", "S", 0, "156", 0, "", "")
        strange = like._replace(rrn=f"99{random.randrange(10**10):010d}", stan=f"{random.randrange(1, 10**6):06d}", approval=f"X{number:05d}",
                                terminal="STRANGE1", amount=random.randrange(100, 100_000), kind="S", fee=0, reference=f"STRANGE{number:05d}")
        written.insert(random.randrange(len(written) + 1), strange)
        planted["extra"].append(strange.rrn)
    return written, planted


def decimal(amount: int, currency: str) -> str:
    """Minor units as decimal text: 1050 of 156 -> 10.50."""
    digits = _currency(currency)[1]
    text = str(abs(amount)).rjust(digits + 1, "0")
    return ("-" if amount < 0 else "") + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)


def _currency(numeric: str) -> tuple[str, int]:
    if numeric not in CURRENCIES:
        raise ClearingError(f"this host clears no currency {numeric}")
    return CURRENCIES[numeric]


def csv_lines(items: Iterable[Item], institution: str, day: str, number: int) -> Iterator[str]:
    """Header H, one D for each item, trailer T with the count and control totals (minor units over all currencies, refunds negative)."""
    yield f"H,CLEARING,1,{institution},{day},{number}\n"
    count = total = fees = 0
    for count, item in enumerate(items, 1):
        total += item.amount if item.kind == "S" else -item.amount
        fees += item.fee
        yield (f"D,{count},{item.rrn},{item.stan},{item.terminal.strip()},{item.acceptor.strip()},{item.approval},"
               f"{item.kind},{decimal(item.amount, item.currency)},{_currency(item.currency)[0]},{decimal(item.fee, item.currency)},{item.date},"
               f"{item.reference}\n")
    yield f"T,{count},{total},{fees}\n"


def fixed_lines(items: Iterable[Item], institution: str, day: str, number: int) -> Iterator[str]:
    """The same in records of 120 characters; dates YYYYMMDD, a refund has a minus after its amount, totals carry their sign in front."""
    yield f"00CLEARING01{institution:<11}{day.replace('-', '')}{number:04d}".ljust(120) + "\n"
    count = total = fees = 0
    for count, item in enumerate(items, 1):
        total += item.amount if item.kind == "S" else -item.amount
        fees += item.fee
        _currency(item.currency)
        yield (f"10{count:08d}{item.rrn:>12}{item.stan:>6}{item.terminal:<8.8}{item.acceptor:<15.15}{item.approval:<6.6}{item.amount:012d}"
               f"{'-' if item.kind == 'R' else '+'}{item.currency}{item.fee:010d}{item.date.replace('-', '')}"
               f"{item.reference:<20.20}").ljust(120) + "\n"
    yield f"99{count:08d}{'-' if total < 0 else '+'}{abs(total):015d}{fees:015d}".ljust(120) + "\n"


LINES = {"csv": csv_lines, "fixed": fixed_lines}


def statement_lines(sums: dict[str, int], institution: str, day: str, booked: str, *, account: str, number: int, short: int = 0,
                    strange: int = 0) -> Iterator[str]:
    """A bank statement: one credit (C) or debit (D) for each currency that was cleared, `short` minor units less than it should be, and
    `strange` entries of somebody else."""
    yield f"H,STATEMENT,1,{account},{booked},{number}\n"
    count = total = 0
    rows = [(amount - short, currency, f"SETTLEMENT {institution} {day}") for currency, amount in sorted(sums.items())]
    rows += [(100 + at, next(iter(sorted(sums)), "156"), f"RENT {at}") for at in range(strange)]
    for amount, currency, text in rows:
        count += 1
        total += amount
        yield (f"E,{count},{booked},{booked},{'D' if amount < 0 else 'C'},{decimal(abs(amount), currency)},{_currency(currency)[0]},"
               f"{account[-4:]}{booked.replace('-', '')}{number:03d}{count:04d},{text}\n")
    yield f"T,{count},{total}\n"


def from_json(path: Path) -> list[Item]:
    """Items as JSON lines, for who has no book."""
    with path.open() as file:
        return [Item(**json.loads(line)) for line in file]


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("acquirer_stubs.clearing", description="Clearing files and bank statements of the simulated host.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    file, statement = verbs.add_parser("file"), verbs.add_parser("statement")
    for each in (file, statement):
        source = each.add_mutually_exclusive_group(required=True)
        source.add_argument("--book", type=Path, help="the host's book")
        source.add_argument("--items", type=Path, help="JSON lines with the members of a line instead of a book")
        each.add_argument("--institution", required=True, help="who the acquirer is, at most 11 characters")
        each.add_argument("--date", required=True, type=lambda text: date.fromisoformat(text).isoformat(), help="the business date")
        each.add_argument("--out", required=True, type=Path)
        each.add_argument("--number", type=int, default=1, help="of the file of that date, or of the statement")
        each.add_argument("--after", type=int, default=0, metavar="SEQ", help="only what the book decided after this line")
        each.add_argument("--until", type=int, metavar="SEQ")
        each.add_argument("--basis-points", type=int, default=0, help="what the acquirer charges for each line")
    file.add_argument("--format", choices=tuple(LINES), default="csv")
    file.add_argument("--gzip", action="store_true")
    file.add_argument("--seed", type=int, default=1)
    for kind in PLANTED:
        file.add_argument("--wrong-date" if kind == "date" else f"--{kind}", dest=f"plant_{kind}", type=int, default=0, metavar="N",
                          help=f"differences of this kind to plant: {kind}")
    statement.add_argument("--booked", help="the day the money came; default: the business date")
    statement.add_argument("--account", default="CN0012345678")
    statement.add_argument("--short", type=int, default=0, metavar="MINOR_UNITS", help="how much less came than should")
    statement.add_argument("--strange", type=int, default=0, metavar="N", help="entries of somebody else")
    return parser.parse_args(argv)


def _write(path: Path, lines: Iterable[str], packed: bool) -> int:
    size = 0
    with path.open("wb") as plain, cast(BinaryIO, gzip.GzipFile(fileobj=plain, mode="wb", mtime=0)) if packed else plain as file:
        for line in lines:
            size += file.write(line.encode("ascii"))
    return size


def run(options: argparse.Namespace) -> dict[str, Any]:
    items = from_json(options.items) if options.items else cleared(
        options.book, options.date, basis_points=options.basis_points, after=options.after, until=options.until)
    if options.verb == "file":
        items, planted = plant(items, {kind: getattr(options, f"plant_{kind}") for kind in PLANTED}, options.seed)
        lines = LINES[options.format](items, options.institution, options.date, options.number)
        return {"file": str(options.out), "lines": len(items), "bytes": _write(options.out, lines, options.gzip), "planted": planted}
    sums: Counter[str] = Counter()
    for item in items:
        sums[item.currency] += (item.amount if item.kind == "S" else -item.amount) - item.fee
    rows = statement_lines(sums, options.institution, options.date, options.booked or options.date, account=options.account, number=options.number,
                           short=options.short, strange=options.strange)
    return {"file": str(options.out), "bytes": _write(options.out, rows, False), "sums": sums}


def main(argv: list[str]) -> int:
    try:
        print(json.dumps(run(_arguments(argv))))
    except (BookError, ClearingError, OSError, TypeError, ValueError) as error:
        print(f"acquirer_stubs.clearing: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
