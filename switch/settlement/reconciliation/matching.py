"""How a line of an acquirer's file and a transaction of ours find each other: one table of rules, exact ones first, then tolerant ones.

A rule is equality of some values on both sides, and a number of days between their dates. Each rule takes what the rules before it have left;
where several lines and transactions share its values, the first is paired with the first, in the order of `Line.order` and `Movement.order`. What
is left is missing on the other side, or a duplicate. `pairing` writes a rule as SQL for a million lines; `reconcile` is the same in Python, and a
test holds one against the other.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple


class Line(NamedTuple):
    """A line of a clearing file. `order` is its place among the lines of its date: by the file's date and number, then by line."""

    order: int
    business_date: date
    rrn: str
    stan: str
    terminal: str
    approval_code: str
    kind: str
    amount: int
    currency: str
    fee: int


class Movement(NamedTuple):
    """A transaction of ours that should be cleared. `expected_fee`: what the acquirer may charge, None while it is not priced."""

    order: int
    business_date: date
    rrn: str
    acquirer_rrn: str
    stan: str
    terminal: str
    approval_code: str
    kind: str
    amount: int
    currency: str
    expected_fee: int | None


class Rule(NamedTuple):
    """`equal`: pairs of (name in the line, name in the transaction). `days`: how much later the line's date is. `finding`: what it is then."""

    name: str
    equal: tuple[tuple[str, str], ...]
    days: int
    finding: str | None
    reason: str


class Finding(NamedTuple):
    """`kind`, and the rule that paired the two, or none."""

    kind: str
    rule: str
    line: Line | None
    movement: Movement | None


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


MONEY = ("kind", "amount", "currency")
RULES = (
    Rule("exact", _same("rrn", *MONEY), 0, None, "RRN, direction, amount, currency and date agree"),
    Rule("approval_code", _same("approval_code", "terminal", *MONEY), 0, None, "the RRN differs; approval code, terminal and amount agree"),
    Rule("stan", _same("stan", "terminal", *MONEY), 0, None, "RRN and approval code differ; STAN, terminal and amount agree"),
    Rule("swapped_rrn", (("rrn", "acquirer_rrn"), *_same(*MONEY)), 0, None, "the file gives the acquirer's own RRN in the place of ours"),
    Rule("amount", _same("rrn", "kind", "currency"), 0, "amount", "RRN, direction and date agree, the amount does not"),
    Rule("direction", _same("rrn", "amount", "currency"), 0, "amount", "a sale is cleared as a refund, or a refund as a sale"),
    Rule("day_after", _same("rrn", *MONEY), 1, "date", "cleared with the date of the day after"),
    Rule("day_before", _same("rrn", *MONEY), -1, "date", "cleared with the date of the day before"),
)
WITHIN_DAY = tuple(rule for rule in RULES if rule.days == 0)
ACROSS_DAYS = tuple(rule for rule in RULES if rule.days)
# Of what no rule has paired.
REASONS: Mapping[str, str] = {rule.name: rule.reason for rule in RULES} | {
    "no_transaction": "no transaction of ours agrees with this line", "no_line": "no line of the acquirer agrees with this transaction",
    "cleared_twice": "another line with the same RRN, amount and date is paired already",
    "fee": "the acquirer charged another fee than was agreed",
    "funding": "the bank received another amount than was cleared", "no_entry": "no entry of a bank statement pays this day",
    "no_acquirer": "no acquirer is named by this entry of the bank statement",
}
# Values that may be absent; what is absent agrees with nothing.
MAY_LACK = frozenset({"rrn", "acquirer_rrn", "approval_code", "stan", "terminal"})

Key = tuple[object, ...]


def _keys(rule: Rule, item: Line | Movement) -> Key | None:
    side = 0 if isinstance(item, Line) else 1
    values = tuple(getattr(item, pair[side]) for pair in rule.equal)
    if any(not value for pair, value in zip(rule.equal, values, strict=True) if pair[side] in MAY_LACK):
        return None
    return (*values, item.business_date + timedelta(rule.days) if side else item.business_date)


def paired(rule: Rule, lines: Iterable[Line], movements: Iterable[Movement]) -> list[tuple[Line, Movement]]:
    """The pairs of one rule."""
    waiting: defaultdict[Key, list[Movement]] = defaultdict(list)
    for movement in sorted(movements, key=lambda each: each.order, reverse=True):
        if (key := _keys(rule, movement)) is not None:
            waiting[key].append(movement)
    pairs = []
    for line in sorted(lines, key=lambda each: each.order):
        key = _keys(rule, line)
        if key is not None and waiting.get(key):
            pairs.append((line, waiting[key].pop()))
    return pairs


def reconcile(lines: Sequence[Line], movements: Sequence[Movement]) -> tuple[dict[str, int], list[Finding]]:
    """Of one date: how many pairs each rule made, and what is to be looked at. Lines and movements are told apart by their order."""
    left, ours, twice = {line.order: line for line in lines}, {each.order: each for each in movements}, set()
    counts: dict[str, int] = {}
    findings = []
    for rule in WITHIN_DAY:
        pairs = paired(rule, left.values(), ours.values())
        if pairs:
            counts[rule.name] = len(pairs)
        for line, movement in pairs:
            del left[line.order], ours[movement.order]
            twice.add((line.rrn, line.kind, line.amount, line.currency))
            if rule.finding:
                findings.append(Finding(rule.finding, rule.name, line, movement))
            elif movement.expected_fee is not None and movement.expected_fee != line.fee:
                findings.append(Finding("fee", "fee", line, movement))
    for line in left.values():
        again = bool(line.rrn) and (line.rrn, line.kind, line.amount, line.currency) in twice
        findings.append(Finding("duplicate", "cleared_twice", line, None) if again else Finding("missing_here", "no_transaction", line, None))
    findings += [Finding("missing_there", "no_line", None, movement) for movement in ours.values()]
    return counts, findings


def across(lines: Iterable[Line], movements: Iterable[Movement]) -> list[Finding]:
    """What neighbouring dates explain of the lines and transactions that their own dates left over."""
    left, ours = {(each.business_date, each.order): each for each in lines}, {(each.business_date, each.order): each for each in movements}
    findings = []
    for rule in ACROSS_DAYS:
        for line, movement in paired(rule, left.values(), ours.values()):
            del left[line.business_date, line.order], ours[movement.business_date, movement.order]
            findings.append(Finding(str(rule.finding), rule.name, line, movement))
    return findings


def explain(line: Line, movement: Movement) -> list[str]:
    """How one line and one transaction differ, in words: what a person is shown beside an exception."""
    said = [f"{name}: the file has {getattr(line, name) or 'nothing'}, we have {getattr(movement, name) or 'nothing'}"
            for name in ("rrn", "stan", "terminal", "approval_code", "kind", "amount", "currency", "business_date")
            if getattr(line, name) != getattr(movement, name)]
    if movement.expected_fee is not None and movement.expected_fee != line.fee:
        said.append(f"fee: the file has {line.fee}, agreed is {movement.expected_fee}")
    return said


def pairing(rule: Rule, lines: str = "rc_line", movements: str = "rc_movement") -> str:
    """The pairs of one rule as a SELECT of (line_order, movement_order) over two tables with the columns of Line and Movement.

    The values are joined as they are: what may be absent is filtered before it can be compared.
    """
    ours = [mine for _, mine in rule.equal]
    theirs = [name for name, _ in rule.equal]

    def side(table: str, names: list[str]) -> str:
        present = "".join(f" AND {name} <> ''" for name in names if name in MAY_LACK)
        keys = ", ".join(names)
        return (f"(SELECT {keys}, business_date, n, row_number() OVER (PARTITION BY {keys}, business_date ORDER BY n) AS nth "
                f"FROM {table} WHERE true{present})")

    equal = " AND ".join(f"l.{name} = m.{mine}" for name, mine in rule.equal)
    shift = f"l.business_date = m.business_date + {rule.days}" if rule.days else "l.business_date = m.business_date"
    return (f"SELECT l.n AS line_order, m.n AS movement_order FROM {side(lines, theirs)} l JOIN {side(movements, ours)} m "
            f"ON {equal} AND {shift} AND l.nth = m.nth")
