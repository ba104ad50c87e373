"""What an acquirer is told of a terminal's batch, and what its answers mean, by the dialect's data. Pure.

Totals are ISO 8583's reconciliation (0500, 1520); where they do not agree, an upload says each transaction (0320), then its end.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple
from uuid import UUID

from messages.dialect import Dialect, repeat_mti
from messages.grammar import MessageRule
from messages.subfields import joined, places
from switch.money import CURRENCIES
from switch.settlement.batches.totals import Sums

BATCH_CLOSE, BATCH_UPLOAD, BATCH_REFUND, BATCH_END = "batch_close", "batch_upload", "batch_upload.refund", "batch_end"
Figures = Mapping[bool, Sums]  # whether the brand is one of the dialect's own -> its sums


class Unsayable(ValueError):
    """A figure is longer than its place in the message."""


class Said(NamedTuple):
    """What batch messages have in common: how the acquirer knows the terminal, and the message's own numbers."""

    currency: str
    business_date: date
    stan: str
    transmitted_at: str
    transmissions: int
    card_acceptor_terminal: str
    card_acceptor: str


class Item(NamedTuple):
    """A transaction that an upload names; `amount` is signed, and `original_*` are of what it follows, else its own."""

    transaction_id: UUID
    amount: int
    own: bool
    pan: str
    stan: str
    rrn: str
    approval_code: str | None
    original_date: date
    original_stan: str
    original_local_date: str

    def __repr__(self) -> str:
        return f"Item({self.transaction_id})"  # never its card


def totals(said: Said, figures: Figures, dialect: Dialect) -> dict[str, str]:
    """The message with the totals, or its repeat. Raises Unsayable."""
    rule, form = dialect.messages[BATCH_CLOSE], dialect.batch
    values = _values(said, figures, bool(form.own_brands))
    parts: dict[str, dict[str, str]] = {}
    for path, name in form.figures.items():
        number = path.partition(".")[0]
        if number in rule.required:
            width = _width(dialect, path, rule.mti)
            parts.setdefault(number, {})[path] = values[name][-width:] if name == "date" else _in(width, values[name])
    fields = {number: found[number] if number in found else joined(number, dialect.sub_fields[number], found, rule.mti)
              for number, found in parts.items()}
    return _message(said, dialect, rule, fields, {})


def _values(said: Said, figures: Figures, apart: bool) -> dict[str, str]:
    own, foreign = figures.get(True, Sums()), figures.get(False, Sums())
    if not apart:
        own, foreign = Sums(*(sum(pair) for pair in zip(own, foreign, strict=True))), Sums()
    net = own.sales + foreign.sales - own.refunds - foreign.refunds
    return {
        "debits_number": f"{own.sales_count}", "debits_amount": f"{own.sales}", "credits_number": f"{own.refunds_count}",
        "credits_amount": f"{own.refunds}", "foreign_debits_number": f"{foreign.sales_count}", "foreign_debits_amount": f"{foreign.sales}",
        "foreign_credits_number": f"{foreign.refunds_count}", "foreign_credits_amount": f"{foreign.refunds}",
        "net": f"{'C' if net < 0 else 'D'}{abs(net)}",
        "currency": CURRENCIES[said.currency][0], "date": f"{said.business_date:%y%m%d}", "zero": "0"}


def _in(width: int, value: str) -> str:
    """In its place: behind zeros, a sign before them."""
    if value[0] in "CD":
        return value[0] + _in(width - 1, value[1:])
    if len(value) > width:
        raise Unsayable(f"{len(value)} digits in a place of {width}")
    return value.zfill(width)


def _width(dialect: Dialect, path: str, mti: str) -> int:
    number, _, part = path.partition(".")
    return places(number, dialect.sub_fields[number], mti)[path].length if part else dialect.fields[number].length


def _message(said: Said, dialect: Dialect, rule: MessageRule, fields: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """With what every message of a batch has, and its templates; a template that comes out empty is left out."""
    house = {"7": said.transmitted_at, "11": said.stan, "41": said.card_acceptor_terminal, "42": said.card_acceptor}
    names = {"stan": said.stan, "transmitted_at": said.transmitted_at, "local": _local(said), "batch": f"{said.business_date:%y%m%d}",
             "terminal": said.card_acceptor_terminal.strip(), "merchant": said.card_acceptor.strip(), **more}
    made = {number: template.format_map(names) for number, template in rule.composed.items()}
    return {"0": repeat_mti(rule.mti) if said.transmissions and dialect.repeat_mark else rule.mti,
            **{number: value for number, value in house.items() if number not in dialect.omitted}, **fields, **rule.fixed,
            **{number: value for number, value in made.items() if value.strip()}}


def _local(said: Said) -> str:
    """YYMMDDhhmmss of DE7, whose year near new year is not that of the business date."""
    turn = {("01", 12): 1, ("12", 1): -1}.get((said.transmitted_at[:2], said.business_date.month), 0)
    return f"{(said.business_date.year + turn) % 100:02d}{said.transmitted_at}"


def upload(said: Said, items: Sequence[Item], dialect: Dialect) -> dict[str, str]:
    """One message of an upload: records, or one transaction."""
    form = dialect.batch.items
    if items[0].amount < 0 and BATCH_REFUND in dialect.messages:
        return _message(said, dialect, dialect.messages[BATCH_REFUND], {}, _names(items[0], said.currency))
    rule = dialect.messages[BATCH_UPLOAD]
    if form is None:
        return _message(said, dialect, rule, {}, _names(items[0], said.currency))
    number, _, template = form
    records = "".join(template.format_map(_names(item, said.currency)) for item in items)
    return _message(said, dialect, rule, {number: f"{len(items):02d}{records}"}, {})


def end(said: Said, count: int, dialect: Dialect) -> dict[str, str]:
    """The message that ends an upload of so many transactions."""
    return _message(said, dialect, dialect.messages[BATCH_END], {}, {"count": f"{count:04d}"})


def _names(item: Item, currency: str) -> dict[str, str]:
    return {
        "kind": "00" if item.own else "01", "item_stan": item.stan, "pan": item.pan, "card": item.pan.zfill(20), "amount": f"{abs(item.amount):012d}",
        "currency": CURRENCIES[currency][0], "rrn": item.rrn, "approval_code": (item.approval_code or "").ljust(6),
        "original_batch": f"{item.original_date:%y%m%d}", "original_stan": item.original_stan, "original_local_date": item.original_local_date}


def pages(entries: Iterable[tuple[UUID, int]], dialect: Dialect) -> Iterator[list[tuple[UUID, int]]]:
    """What goes into each message of an upload, before its end: as many as a message has room for, credits alone where they have their own."""
    alone, records = BATCH_REFUND in dialect.messages, []
    for entry in entries:
        if dialect.batch.items is None or (alone and entry[1] < 0):
            yield [entry]
            continue
        records.append(entry)
        if len(records) == dialect.batch.items[1]:
            yield records
            records = []
    if records:
        yield records


def verdict(answer: Mapping[str, str], dialect: Dialect) -> str | None:
    """in_balance, out_of_balance or refused; None: ask again. Only what the dialect names as such is in balance, never what is not said."""
    form = dialect.batch
    outcome = form.codes.get(answer["39"].strip(), "refused")
    if outcome != "told":
        return None if outcome == "again" else outcome
    said = {form.says.get(dialect.part(answer, path).strip(), "refused") for path in form.told}
    return "out_of_balance" if "out_of_balance" in said else "in_balance" if said == {"in_balance"} else "refused"


def taken(answer: Mapping[str, str], dialect: Dialect) -> str | None:
    """accepted or refused; None: say it again."""
    code = answer["39"].strip()
    if code in dialect.batch.accepted:
        return "accepted"
    return None if dialect.batch.codes.get(code) == "again" else "refused"
