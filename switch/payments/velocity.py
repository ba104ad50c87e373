"""Counters over sliding windows, of this worker. Pure: sales and instants in, counts out; bounded by keys and by parts.

All counters of one subject share a table: a row per key, found once for a sale, in which each counter has its places. A sum (count and amount)
is kept in PARTS parts of its window: a sale counts for the whole window and at most a twentieth of it longer, never shorter. A set of different
cards or terminals is exact to the millisecond up to DIFFERENT_MAX of them, which is more than any rule may ask for. Keys of a table are bounded:
beyond the bound those that were not seen for longest are forgotten, and counted as forgotten when their longest window was not over. Instants
are milliseconds since 1970 UTC.
"""

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple
from uuid import UUID

PARTS = 20  # of a window
DIFFERENT_MAX = 64
KEYS_MAX = 500_000  # of all counters together
COUNTERS_MAX = 200


class Away(NamedTuple):
    """A terminal that is so far from its store, at least: since when, and when it last said so."""

    metres: int
    since_ms: int
    told_ms: int


class Sale(NamedTuple):
    """What rules look at. `minute`: of the day where the merchant is; `away`: if its terminal is further away than some rule asks for."""

    merchant_id: UUID
    store_id: UUID
    terminal_id: UUID
    card: bytes  # its token
    mcc: str
    brand: str
    entry_mode: str
    type: str
    amount: int
    currency: str
    at_ms: int
    minute: int
    away: Away | None = None


SUBJECTS = {"card": 3, "terminal": 2, "merchant": 0, "store": 1}  # places in a Sale


class Spec(NamedTuple):
    """What a counter counts: the sales of one subject within a window, and of the scope that its rule has."""

    subject: str  # card, terminal, merchant, store, split (card at terminal)
    window_ms: int
    scope: Hashable = None
    currency: str | None = None
    low: int | None = None  # amounts from, to
    high: int | None = None
    refunds: bool = False  # them, or everything else
    different: str | None = None  # of what, when not the sales are counted: card, terminal
    declined: bool = False  # only of the declined, or small by `high`


class Seen(NamedTuple):
    """Of one key, within the window."""

    sales: int
    amount: int


NOTHING = Seen(0, 0)
# A row: its layout, and then the places of each counter. Those of a sum: the part that sales fall into now, what was counted before that part,
# what is counted in all, and the parts before, oldest first, each its number, count and amount. That of a set: each with its last instant.
PART, COUNT_BEFORE, AMOUNT_BEFORE, COUNT, AMOUNT, OLDER = range(6)
SUM, SET = (-1, 0, 0, 0, 0, None), (None,)
Row = list[Any]


class Layout:
    """Where in a row each counter of a table is. Another one takes its place when the rules change, and rows follow when they are looked at."""

    def __init__(self, counters: "Iterable[Counter | Different]") -> None:
        self.places: dict[Counter | Different, int] = {}
        self.blank: Row = [self]
        for counter in counters:
            self.places[counter] = len(self.blank)
            self.blank += counter.empty

    def take(self, row: Row) -> None:
        """A row of another layout: what its counters that are still asked for know stays."""
        before, after = row[0].places, self.blank[:]
        for counter, at in self.places.items():
            was = before.get(counter)
            if was is not None:
                after[at:at + len(counter.empty)] = row[was:was + len(counter.empty)]
        row[:] = after


class Table:
    """The rows of one subject. The younger half is `young`; what was not seen since it was begun is in `old`, and goes when `young` is full."""

    def __init__(self) -> None:
        self.layout, self.half, self.longest_ms = Layout(()), 1, 0
        self.young: dict[Hashable, Row] = {}
        self.old: dict[Hashable, Row] = {}
        self.turned_ms, self.forgotten = 0, 0

    def lay(self, counters: "list[Counter | Different]", keys_max: int) -> None:
        """From now on for these counters, which are told where they are."""
        for gone in self.layout.places:
            gone.at = 0
        if list(self.layout.places) != counters:
            self.layout = Layout(counters)
        if not counters:
            self.young, self.old = {}, {}
        self.half, self.longest_ms = max(1, keys_max // 2), max((counter.window_ms for counter in counters), default=0)
        for counter, at in self.layout.places.items():
            counter.table, counter.at = self, at

    def find(self, key: Hashable) -> Row | None:
        row = self.young.get(key) or self.old.get(key)
        if row is not None and row[0] is not self.layout:
            self.layout.take(row)
        return row

    def row(self, key: Hashable, now_ms: int) -> Row:
        """The key's row, among those that were seen last."""
        row = self.young.get(key)
        if row is None:
            row = (self.old.pop(key, None) if self.old else None) or self.layout.blank[:]
            if len(self.young) >= self.half:
                self._turn(now_ms)
            self.young[key] = row
        if row[0] is not self.layout:
            self.layout.take(row)
        return row

    def _turn(self, now_ms: int) -> None:
        if now_ms - self.turned_ms < self.longest_ms:
            self.forgotten += len(self.old)
        self.old, self.young, self.turned_ms = self.young, {}, now_ms


def bump(row: Row, at: int, part: int, now: int, amount: int) -> None:
    """Counts a sale of a part of the window in the sum at that place. `now`: the part of this instant."""
    prune(row, at, now)
    last = row[at]
    if part > last:
        begin_part(row, at, part)
    elif part < last:  # told late by another worker
        older = row[at + OLDER]
        if older is None:
            older = row[at + OLDER] = []
        place = len(older)
        while place and older[place - 1][0] > part:
            place -= 1
        if place and older[place - 1][0] == part:
            older[place - 1][1] += 1
            older[place - 1][2] += amount
        else:
            older.insert(place, [part, 1, amount])
        row[at + COUNT_BEFORE] += 1
        row[at + AMOUNT_BEFORE] += amount
    row[at + COUNT] += 1
    row[at + AMOUNT] += amount


def begin_part(row: Row, at: int, part: int) -> None:
    count, amount = row[at + COUNT] - row[at + COUNT_BEFORE], row[at + AMOUNT] - row[at + AMOUNT_BEFORE]
    if count:
        if row[at + OLDER] is None:
            row[at + OLDER] = []
        row[at + OLDER].append([row[at], count, amount])
    row[at], row[at + COUNT_BEFORE], row[at + AMOUNT_BEFORE] = part, row[at + COUNT], row[at + AMOUNT]


def prune(row: Row, at: int, now: int) -> None:
    """Forgets the parts that the window has left."""
    first, older = now - PARTS, row[at + OLDER]
    if row[at] < first:
        row[at:at + len(SUM)] = SUM
        return
    while older and older[0][0] < first:
        _, count, amount = older.pop(0)
        for place in (COUNT_BEFORE, COUNT):
            row[at + place] -= count
        for place in (AMOUNT_BEFORE, AMOUNT):
            row[at + place] -= amount


class Counter:
    """How many sales, and of how much together."""

    empty: tuple[Any, ...] = SUM

    def __init__(self, spec: Spec) -> None:
        self.spec, self.window_ms, self.place = spec, spec.window_ms, SUBJECTS.get(spec.subject)
        self.table, self.at = Table(), 0  # 0: no rule asks for it any more
        self.since_ms = 0  # from when on it is told of each sale; what was before comes from the books

    def key(self, sale: Sale) -> Hashable:
        return sale[self.place] if self.place is not None else (sale.card, sale.terminal_id)

    def seen(self, sale: Sale) -> Seen:
        """What counts of the sale's key at its instant, itself if it was added."""
        row = self.table.find(self.key(sale)) if self.at else None
        if row is None:
            return NOTHING
        prune(row, self.at, sale.at_ms * PARTS // self.window_ms)
        return Seen(row[self.at + COUNT], row[self.at + AMOUNT])

    def counts(self, sale: Sale) -> bool:
        spec = self.spec
        return ((spec.currency is None or spec.currency == sale.currency) and (spec.low is None or sale.amount >= spec.low)
                and (spec.high is None or sale.amount <= spec.high) and (sale.type == "refund") is spec.refunds)

    def add(self, sale: Sale, now_ms: int) -> None:
        if self.at and self.counts(sale) and now_ms - sale.at_ms <= self.window_ms + self.window_ms // PARTS:
            row = self.table.row(self.key(sale), now_ms)
            bump(row, self.at, sale.at_ms * PARTS // self.window_ms, now_ms * PARTS // self.window_ms, sale.amount)

    def take_back(self, sale: Sale) -> None:
        row = self.table.find(self.key(sale)) if self.at and self.counts(sale) else None
        if row is None:
            return
        at, part = self.at, sale.at_ms * PARTS // self.window_ms
        if row[at] != part:
            held = next((each for each in row[at + OLDER] or () if each[0] == part and each[1]), None)
            if held is None:
                return
            held[1] -= 1
            held[2] -= sale.amount
            row[at + COUNT_BEFORE] -= 1
            row[at + AMOUNT_BEFORE] -= sale.amount
        elif row[at + COUNT] == row[at + COUNT_BEFORE]:
            return
        row[at + COUNT] -= 1
        row[at + AMOUNT] -= sale.amount

    def declined(self, sale: Sale) -> None:
        """A sale that was added is declined: nothing changes for sums."""


class Different:
    """How many different cards (or terminals) a key saw: of its declined and small sales, or of all."""

    empty: tuple[Any, ...] = SET

    def __init__(self, spec: Spec) -> None:
        assert spec.different is not None
        self.spec, self.window_ms, self.place, self.of = spec, spec.window_ms, SUBJECTS[spec.subject], SUBJECTS[spec.different]
        self.table, self.at = Table(), 0
        self.since_ms = 0

    def seen(self, sale: Sale) -> dict[Hashable, int]:
        """Those within the window of the sale, each with its last instant, without the sale."""
        row = self.table.find(sale[self.place]) if self.at else None
        found: dict[Hashable, int] | None = None if row is None else row[self.at]
        if not found:
            return {}
        while found:
            first = next(iter(found))
            if sale.at_ms - found[first] < self.window_ms:
                break
            del found[first]
        return found

    def small(self, sale: Sale) -> bool:
        spec = self.spec
        return not spec.declined or (spec.high is not None and sale.amount <= spec.high and spec.currency == sale.currency)

    def add(self, sale: Sale, now_ms: int) -> None:
        if self.small(sale):
            self._add(sale, now_ms)

    def declined(self, sale: Sale) -> None:
        if self.spec.declined:
            self._add(sale, sale.at_ms)

    def take_back(self, sale: Sale) -> None:
        """A card that was tried was tried, whatever became of the sale."""

    def _add(self, sale: Sale, now_ms: int) -> None:
        if self.at and sale.type != "refund" and now_ms - sale.at_ms < self.window_ms:
            self.put(self.table.row(sale[self.place], now_ms), sale[self.of], sale.at_ms)

    def put(self, row: Row, member: Hashable, at_ms: int) -> None:
        found = row[self.at]
        if found is None:
            row[self.at] = {member: at_ms}
            return
        if len(found) == 1 and member in found:  # most cards are seen at one terminal
            found[member] = max(found[member], at_ms)
            return
        last = max(found.pop(member, 0), at_ms)
        newest = next(reversed(found.values())) if found else 0
        found[member] = last
        if last < newest:  # told late: the order is of time
            ordered = sorted(found.items(), key=lambda item: item[1])
            found.clear()
            found.update(ordered)
        if len(found) > DIFFERENT_MAX:
            del found[next(iter(found))]


class Counters:
    """All counters that rules in force ask for, by what they count: rules that ask for the same share one."""

    def __init__(self, specs: list[Spec], keys_max: int = KEYS_MAX, before: "Counters | None" = None, now_ms: int = 0) -> None:
        """`before`: whose counters go on where they are asked for again, and which is not asked any more; `new`: those that know no sale yet."""
        wanted = list(dict.fromkeys(specs))[:COUNTERS_MAX]
        known = {} if before is None else before.of
        self.of: dict[Spec, Counter | Different] = {
            spec: known.get(spec) or (Counter(spec) if spec.different is None else Different(spec)) for spec in wanted}
        self.tables: dict[str, Table] = {} if before is None else before.tables
        self.new = [self.of[spec] for spec in wanted if spec not in known]
        for counter in self.new:
            counter.since_ms = now_ms
        for subject in {*self.tables, *(spec.subject for spec in wanted)}:
            own = [counter for spec, counter in self.of.items() if spec.subject == subject]
            self.tables.setdefault(subject, Table()).lay(own, keys_max // max(1, len(wanted)))

    @property
    def forgotten(self) -> int:
        return sum(table.forgotten for table in self.tables.values())
