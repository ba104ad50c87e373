"""Counters over sliding windows, of this worker. Pure: sales and instants in, counts out; bounded by keys and by parts.

A sum (count and amount) is kept in PARTS parts of its window: a sale counts for the whole window and at most a twentieth of it longer, never
shorter. A set of different cards or terminals is exact to the millisecond up to DIFFERENT_MAX of them, which is more than any rule may ask
for. Keys of one counter are bounded: beyond the bound those that were not seen for longest are forgotten, and counted as forgotten when
their window was not over. Instants are milliseconds since 1970 UTC.
"""

from collections.abc import Hashable
from typing import NamedTuple
from uuid import UUID

PARTS = 20  # of a window
DIFFERENT_MAX = 64
KEYS_MAX = 500_000  # of all counters together
COUNTERS_MAX = 200


class Sale(NamedTuple):
    """What rules look at. `minute`: of the day where the merchant is."""

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


class Sums:
    """Of one key: parts of the window, oldest first, each its number, count and amount."""

    __slots__ = ("amount", "count", "parts")

    def __init__(self) -> None:
        self.count, self.amount = 0, 0
        self.parts: list[list[int]] = []

    def prune(self, part: int) -> None:
        parts = self.parts
        while parts and parts[0][0] < part - PARTS:
            _, count, amount = parts.pop(0)
            self.count -= count
            self.amount -= amount

    def add(self, part: int, amount: int) -> None:
        self.count += 1
        self.amount += amount
        parts = self.parts
        at = len(parts)
        while at and parts[at - 1][0] > part:  # told late by another worker
            at -= 1
        if at and parts[at - 1][0] == part:
            last = parts[at - 1]
            last[1] += 1
            last[2] += amount
        else:
            parts.insert(at, [part, 1, amount])

    def take_back(self, part: int, amount: int) -> None:
        for each in reversed(self.parts):
            if each[0] == part and each[1]:
                each[1] -= 1
                each[2] -= amount
                self.count -= 1
                self.amount -= amount
                return


NOTHING = Sums()


class Counter:
    """One spec's keys. The younger half is `young`; what was not seen since it was begun is in `old`, and goes when `young` is full."""

    def __init__(self, spec: Spec, keys_max: int) -> None:
        self.spec, self.half = spec, max(1, keys_max // 2)
        self.young: dict[Hashable, Sums] = {}
        self.old: dict[Hashable, Sums] = {}
        self.turned_ms, self.forgotten = 0, 0
        self.since_ms = 0  # from when on it is told of each sale; what was before comes from the books
        self.place = SUBJECTS.get(spec.subject)
        self.window_ms = spec.window_ms

    def key(self, sale: Sale) -> Hashable:
        return sale[self.place] if self.place is not None else (sale.card, sale.terminal_id)

    def bump(self, sale: Sale) -> Sums:
        """Counts a sale of now; what its key then has. For sales that the counter counts (`counts`): this is the hot path."""
        key = sale[self.place] if self.place is not None else (sale.card, sale.terminal_id)
        found = self.young.get(key)
        if found is None:
            found = self._younger(key, sale.at_ms)
        part, amount, parts = sale.at_ms * PARTS // self.window_ms, sale.amount, found.parts
        if not parts:
            parts.append([part, 1, amount])
            found.count, found.amount = 1, amount
        elif (last := parts[-1])[0] == part:
            last[1] += 1
            last[2] += amount
            found.count += 1
            found.amount += amount
        else:
            found.prune(part)
            found.add(part, amount)
        return found

    def seen(self, sale: Sale) -> Sums:
        """What counts of the sale's key at its instant, without it."""
        key = self.key(sale)
        found = self.young.get(key) or self.old.get(key)
        if found is None:
            return NOTHING
        found.prune(sale.at_ms * PARTS // self.window_ms)
        return found

    def counts(self, sale: Sale) -> bool:
        spec = self.spec
        return ((spec.currency is None or spec.currency == sale.currency) and (spec.low is None or sale.amount >= spec.low)
                and (spec.high is None or sale.amount <= spec.high) and (sale.type == "refund") is spec.refunds)

    def add(self, sale: Sale, now_ms: int) -> None:
        if not self.counts(sale) or now_ms - sale.at_ms > self.window_ms + self.window_ms // PARTS:
            return
        key = self.key(sale)
        found = self.young.get(key) or self._younger(key, now_ms)
        found.prune(now_ms * PARTS // self.window_ms)
        found.add(sale.at_ms * PARTS // self.window_ms, sale.amount)

    def take_back(self, sale: Sale) -> None:
        if self.counts(sale):
            key = self.key(sale)
            found = self.young.get(key) or self.old.get(key)
            if found is not None:
                found.take_back(sale.at_ms * PARTS // self.window_ms, sale.amount)

    def declined(self, sale: Sale) -> None:
        """A sale that was added is declined: nothing changes for sums."""

    def _younger(self, key: Hashable, now_ms: int) -> Sums:
        """The key's sums, among those that were seen last."""
        found = self.old.pop(key, None) if self.old else None
        if found is None:
            found = Sums()
        if len(self.young) >= self.half:
            self._turn(now_ms)
        self.young[key] = found
        return found

    def _turn(self, now_ms: int) -> None:
        if now_ms - self.turned_ms < self.window_ms:
            self.forgotten += len(self.old)
        self.old, self.young, self.turned_ms = self.young, {}, now_ms


class Different:
    """Like Counter, for how many different cards (or terminals) a key saw: of its declined and small sales, or of all."""

    def __init__(self, spec: Spec, keys_max: int) -> None:
        self.spec, self.half, self.window_ms = spec, max(1, keys_max // 2), spec.window_ms
        self.young: dict[Hashable, dict[Hashable, int]] = {}
        self.old: dict[Hashable, dict[Hashable, int]] = {}
        self.turned_ms, self.forgotten = 0, 0
        self.since_ms = 0  # from when on it is told of each sale; what was before comes from the books
        assert spec.different is not None
        self.place, self.of = SUBJECTS[spec.subject], SUBJECTS[spec.different]

    def seen(self, sale: Sale) -> dict[Hashable, int]:
        """Those within the window of the sale, each with its last instant, without the sale."""
        key = sale[self.place]
        found = self.young.get(key) or self.old.get(key)
        if found is None:
            return {}
        self._prune(found, sale.at_ms)
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
        if sale.type == "refund" or now_ms - sale.at_ms >= self.window_ms:
            return
        key, member = sale[self.place], sale[self.of]
        found = self.young.get(key)
        if found is None:
            found = self.old.pop(key, None) or {}
            if len(self.young) >= self.half:
                self._turn(now_ms)
            self.young[key] = found
        last = max(found.pop(member, 0), sale.at_ms)
        newest = next(reversed(found.values()), 0)
        found[member] = last
        if last < newest:  # told late: the order is of time
            self._sort(found)
        if len(found) > DIFFERENT_MAX:
            del found[next(iter(found))]

    @staticmethod
    def _sort(found: dict[Hashable, int]) -> None:
        ordered = sorted(found.items(), key=lambda item: item[1])
        found.clear()
        found.update(ordered)

    def _prune(self, found: dict[Hashable, int], now_ms: int) -> None:
        while found:
            first = next(iter(found))
            if now_ms - found[first] < self.window_ms:
                return
            del found[first]

    def _turn(self, now_ms: int) -> None:
        if now_ms - self.turned_ms < self.window_ms:
            self.forgotten += len(self.old)
        self.old, self.young, self.turned_ms = self.young, {}, now_ms


class Counters:
    """All counters that rules in force ask for, by what they count: rules that ask for the same share one."""

    def __init__(self, specs: list[Spec], keys_max: int = KEYS_MAX, before: "Counters | None" = None, now_ms: int = 0) -> None:
        """`before`: whose counters go on where they are asked for again; `new` are those that know no sale yet."""
        wanted = list(dict.fromkeys(specs))[:COUNTERS_MAX]
        each = keys_max // max(1, len(wanted))
        known = {} if before is None else before.of
        self.of: dict[Spec, Counter | Different] = {
            spec: known.get(spec) or (Counter(spec, each) if spec.different is None else Different(spec, each)) for spec in wanted}
        for counter in self.of.values():
            counter.half = max(1, each // 2)
        self.new = [self.of[spec] for spec in wanted if spec not in known]
        for counter in self.new:
            counter.since_ms = now_ms

    @property
    def forgotten(self) -> int:
        return sum(counter.forgotten for counter in self.of.values())
