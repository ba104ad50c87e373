"""The rules for one kind of sale made into one function: it counts a sale and says which rules it may break. Pure.

The function is Python source, made once per plan. It holds nothing but numbers of ours (places in rows, windows, bounds), asks each table for its
row once and each window for its part once, and makes no object for a sale that breaks nothing. A kind is broken for certain by what its line says,
or may be (refund_ratio, card_testing, card_spread): then the words of risk.py look again.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any

from switch.payments.velocity import AMOUNT, COUNT, PARTS, Counter, Different, Sale, Table, bump
from switch.watchlist import RiskRule

Counts = tuple[Counter | Different, ...]
PLACE = {name: at for at, name in enumerate(Sale._fields)}


@lru_cache(maxsize=1000)
def code(source: str) -> CodeType:
    return compile(source, "<switch.payments.judging>", "exec")


class Plan:
    """What is asked of sales of one kind of merchant, brand, entry mode, currency and type, and what counts them."""

    def __init__(self, asked: "Sequence[tuple[RiskRule, Counts]]", sale: Sale) -> None:
        """`asked`: the rules whose scope such a sale is in, each with its counters; `sale`: one of the kind."""
        self.asked, self.refund, self.currency = asked, sale.type == "refund", sale.currency
        self.counters: Counts = tuple(dict.fromkeys(counter for _, counts in asked for counter in counts))
        self.sums: list[Counter] = [
            each for each in self.counters if isinstance(each, Counter) and each.spec.refunds == self.refund and self._own(each.spec.currency)]
        self.sets: list[Different] = [each for each in self.counters if isinstance(each, Different) and not self.refund]
        self.counting: Counts = (*self.sums, *self.sets)
        self.tables: list[Table] = list(dict.fromkeys(each.table for each in self.counting))
        self.windows = list(dict.fromkeys(each.window_ms for each in self.sums))
        room: dict[str, Any] = {"bump": bump}
        for number, table in enumerate(self.tables):
            room |= {f"table{number}": table, f"layout{number}": table.layout}
        for number, different in enumerate(self.sets):
            room[f"put{number}"] = different.put
        exec(code("\n".join(self._source())), room)
        self.judge: Callable[[Sale], tuple[int, ...]] = room["judge"]

    def _own(self, currency: str | None) -> bool:
        return currency is None or currency == self.currency

    def _source(self) -> Iterator[str]:
        yield "def judge(sale):"
        yield f" at_ms, amount, found = sale[{PLACE['at_ms']}], sale[{PLACE['amount']}], ()"
        yield from (f" part{number} = at_ms * {PARTS} // {window}" for number, window in enumerate(self.windows))
        for number in range(len(self.tables)):
            yield from self._table(number)
        yield from (f" {line}" for at, (rule, _) in enumerate(self.asked) for line in self._plain(at, rule))
        yield from (" if found:", "  return found")
        yield from (f" {line}" for number, different in enumerate(self.sets) for line in self._put(number, different))
        yield " return found"

    def _table(self, number: int) -> Iterator[str]:
        """The key's row, found once; sums counted and compared, sets compared."""
        table = self.tables[number]
        some = next(each for each in self.counting if each.table is table)
        key = f"sale[{some.place}]" if some.place is not None else f"(sale[{PLACE['card']}], sale[{PLACE['terminal_id']}])"
        row = (f"key = {key}", f"row{number} = table{number}.young.get(key)", f"if row{number} is None or row{number}[0] is not layout{number}:",
               f" row{number} = table{number}.row(key, at_ms)")
        wide = [each for each in self.sums if each.table is table and each.spec.high is None]
        if wide or any(each.table is table for each in self.sets):
            yield from (f" {line}" for line in row)
        for counter in wide:
            yield from (f" {line}" for line in self._sum(number, counter))
        for counter in (each for each in self.sums if each.table is table and each.spec.high is not None):
            yield f" if {counter.spec.low} <= amount <= {counter.spec.high}:"
            yield from (f"  {line}" for line in (*row, *self._sum(number, counter)))
        for at, (rule, counts) in enumerate(self.asked):
            if counts[-1:] and counts[-1].table is table:
                yield from (f" {line}" for line in self._maybe(at, rule, counts[-1], number))

    def _sum(self, number: int, counter: Counter) -> Iterator[str]:
        row, at, part = f"row{number}", counter.at, f"part{self.windows.index(counter.window_ms)}"
        yield f"if {row}[{at}] == {part}:"
        yield f" {row}[{at + COUNT}] += 1; {row}[{at + AMOUNT}] += amount"
        yield f"else: bump({row}, {at}, {part}, {part}, amount)"
        for place, (rule, counts) in enumerate(self.asked):
            if rule.kind in ("velocity", "split") and counts[0] is counter:
                summed, most = (COUNT, rule.count_max) if rule.count_max is not None else (AMOUNT, rule.amount_max)
                yield f"if {row}[{at + summed}] > {most}: found += ({place},)"

    def _maybe(self, place: int, rule: RiskRule, counter: Counter | Different, number: int) -> Iterator[str]:
        """What was counted before and may have left the window since; one more at most comes with this sale."""
        held, most = f"row{number}[{counter.at}]", rule.count_max or 0
        if isinstance(counter, Different) and not self.refund:
            yield f"found += ({place},)" if most == 0 else f"if {held} is not None and len({held}) >= {most}: found += ({place},)"
        elif rule.kind == "refund_ratio" and rule.currency == self.currency:
            yield f"if row{number}[{counter.at + COUNT}] > {most}: found += ({place},)"

    def _plain(self, place: int, rule: RiskRule) -> Iterator[str]:
        """What the sale says itself."""
        if rule.kind == "amount" and rule.currency == self.currency:
            yield f"if amount > {rule.amount_max}: found += ({place},)"
        if rule.kind == "night" and self._own(rule.currency):
            begin, end = rule.minute_from or 0, rule.minute_until or 0
            minute = f"sale[{PLACE['minute']}]"
            within = f"{begin} <= {minute} < {end}" if begin < end else f"({minute} >= {begin} or {minute} < {end})"
            yield f"if {within} and amount >= {rule.amount_min or 0}: found += ({place},)"
        if rule.kind == "relocated":
            away = f"sale[{PLACE['away']}]"
            yield f"if {away} is not None and {away}[0] > {(rule.distance_km or 0) * 1000} and at_ms - {away}[2] <= {(rule.window_s or 0) * 1000}: "\
                  f"found += ({place},)"

    def _put(self, number: int, different: Different) -> Iterator[str]:
        put = f"put{number}(row{self.tables.index(different.table)}, sale[{different.of}], at_ms)"
        if not different.spec.declined:
            yield put
        elif different.spec.high is not None and different.spec.currency == self.currency:
            yield f"if amount <= {different.spec.high}: {put}"
