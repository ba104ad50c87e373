"""Counters against a model that keeps every sale: never less than the window, at most a twentieth longer; bounded, and sorted whatever comes late."""

from typing import NamedTuple
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from switch.payments.velocity import AMOUNT, AMOUNT_BEFORE, COUNT, COUNT_BEFORE, DIFFERENT_MAX, OLDER, PARTS, Counter, Counters, Different, Sale, Spec

WINDOW_MS = 20_000
MERCHANT, STORE = UUID(int=1), UUID(int=2)


def sale(at_ms: int, amount: int = 100, card: int = 1, terminal: int = 3, **changed: object) -> Sale:
    made = Sale(MERCHANT, STORE, UUID(int=terminal), bytes([card]) * 32, "5812", "visa", "chip", "purchase", amount, "CNY", at_ms, 0)
    return made._replace(**changed)


def counter_of(spec: Spec, keys_max: int = 1000) -> Counter:
    found = Counters([spec], keys_max).of[spec]
    assert isinstance(found, Counter)
    return found


def different_of(spec: Spec) -> Different:
    found = Counters([spec]).of[spec]
    assert isinstance(found, Different)
    return found


class Step(NamedTuple):
    later_ms: int
    amount: int
    card: int
    late_ms: int  # told by another worker, so much after it was made


steps = st.lists(st.builds(Step, st.integers(0, 6000), st.integers(0, 500), st.integers(1, 3), st.sampled_from([0, 0, 0, 500, 3000, 30_000])), max_size=80)


@example([Step(999, 100, 1, 0), Step(WINDOW_MS - 99, 100, 2, 0)])  # at the end of a part, seen at the end of the window
@given(steps)
def test_a_sum_holds_the_whole_window_and_at_most_a_part_more(made: list[Step]) -> None:
    counter, kept, now = counter_of(Spec("card", WINDOW_MS)), [], 1_000_000
    for step in made:
        now += step.later_ms
        each = sale(now - step.late_ms, step.amount, step.card)
        counter.add(each, now)
        kept.append(each)
        for card in (1, 2, 3):
            seen = counter.seen(sale(now, card=card))
            own = [known for known in kept if known.card == bytes([card]) * 32]
            least = [known.amount for known in own if now - known.at_ms < WINDOW_MS]
            most = [known.amount for known in own if now - known.at_ms <= WINDOW_MS + WINDOW_MS // PARTS]
            assert len(least) <= seen.sales <= len(most)
            assert sum(least) <= seen.amount <= sum(most)
            row = counter.table.find(bytes([card]) * 32)
            if row is not None:
                older = row[counter.at + OLDER] or []
                own_part = [row[counter.at + total] - row[counter.at + before] for total, before in ((COUNT, COUNT_BEFORE), (AMOUNT, AMOUNT_BEFORE))]
                assert seen == (own_part[0] + sum(part[1] for part in older), own_part[1] + sum(part[2] for part in older))
                assert len(older) <= PARTS
                assert [part[0] for part in older] == sorted(part[0] for part in older)


@given(steps, st.data())
def test_what_is_taken_back_was_never_there(made: list[Step], data: st.DataObject) -> None:
    once, twice, now = counter_of(Spec("card", WINDOW_MS)), counter_of(Spec("card", WINDOW_MS)), 1_000_000
    for step in made:
        now += step.later_ms
        each = sale(now, step.amount, step.card)
        twice.add(each, now)
        if data.draw(st.booleans()):
            twice.take_back(each)
        else:
            once.add(each, now)
        left, right = once.seen(each), twice.seen(each)
        assert (left.sales, left.amount) == (right.sales, right.amount)


@given(steps)
def test_different_cards_are_exact(made: list[Step]) -> None:
    counter, kept, now = different_of(Spec("terminal", WINDOW_MS, different="card")), [], 1_000_000
    for step in made:
        now += step.later_ms
        each = sale(now - step.late_ms, step.amount, step.card)
        counter.add(each, now)
        kept.append(each)
        seen = counter.seen(sale(now))
        assert set(seen) == {known.card for known in kept if now - known.at_ms < WINDOW_MS}
        assert list(seen.values()) == sorted(seen.values())


def test_different_cards_are_bounded_and_the_newest_stay() -> None:
    counter = different_of(Spec("terminal", WINDOW_MS, different="card"))
    for card in range(200):
        counter.add(sale(1_000_000 + card, card=card), 1_000_000 + card)
    seen = counter.seen(sale(1_000_300))
    assert (len(seen), bytes([199]) * 32 in seen, bytes([100]) * 32 in seen) == (DIFFERENT_MAX, True, False)


def test_only_small_and_declined_sales_are_card_testing() -> None:
    counter = different_of(Spec("terminal", WINDOW_MS, currency="CNY", high=100, different="card", declined=True))
    small, large, declined = sale(1_000_000, 100, 1), sale(1_000_000, 101, 2), sale(1_000_001, 5000, 3)
    for each in (small, large, declined, small._replace(card=b"\x04" * 32, currency="USD")):
        counter.add(each, 1_000_001)
    counter.declined(declined)
    assert set(counter.seen(sale(1_000_002))) == {small.card, declined.card}


def test_keys_are_bounded_and_what_was_forgotten_before_its_time_is_counted() -> None:
    counter = counter_of(Spec("card", WINDOW_MS), 100)
    for card in range(256):
        counter.add(sale(1_000_000 + card, card=card), 1_000_000 + card)
    assert len(counter.table.young) + len(counter.table.old) <= 100
    assert counter.table.forgotten > 0
    quiet = counter_of(Spec("card", WINDOW_MS), 100)
    for card in range(256):  # the window of each is over before its half is full
        quiet.add(sale(1_000_000 + card * WINDOW_MS, card=card), 1_000_000 + card * WINDOW_MS)
    assert quiet.table.forgotten == 0


def test_a_key_that_is_seen_again_is_not_forgotten() -> None:
    counter, always = counter_of(Spec("card", 10_000_000), 20), sale(1_000_000, card=255)
    for card in range(100):
        counter.add(sale(1_000_000 + card, card=card), 1_000_000 + card)
        counter.add(always._replace(at_ms=1_000_000 + card), 1_000_000 + card)
    assert counter.seen(always._replace(at_ms=1_000_200)).sales == 100


def test_a_counter_of_refunds_counts_them_alone_and_one_of_amounts_those_between() -> None:
    refunds, near = counter_of(Spec("merchant", WINDOW_MS, refunds=True)), counter_of(Spec("split", WINDOW_MS, None, "CNY", 90, 100))
    for each in (sale(1, 95, type="refund"), sale(1, 89), sale(1, 90), sale(1, 100), sale(1, 101), sale(1, 95, currency="USD")):
        for counter in (refunds, near):
            counter.add(each, 1)
    assert (refunds.seen(sale(2)).sales, near.seen(sale(2)).amount) == (1, 190)
    assert near.seen(sale(2, terminal=4)).sales == 0


def test_counters_that_are_still_asked_for_go_on_and_new_ones_say_so() -> None:
    kept, new = Spec("card", WINDOW_MS), Spec("terminal", WINDOW_MS)
    before = Counters([kept, kept])
    before.of[kept].add(sale(1_000_000), 1_000_000)
    after = Counters([new, kept], before=before, now_ms=5)
    assert after.of[kept] is before.of[kept]
    assert [(counter.spec, counter.since_ms) for counter in after.new] == [(new, 5)]


def test_a_row_follows_its_counters_when_the_rules_change() -> None:
    one, other, third = (Spec("card", window) for window in (WINDOW_MS, WINDOW_MS + 1, WINDOW_MS + 2))
    first = Counters([one, other])
    first.of[one].add(sale(1_000_000, 7), 1_000_000)
    first.of[other].add(sale(1_000_000, 9), 1_000_000)
    second = Counters([third, other], before=first)
    gone = first.of[one]
    for counter in (gone, second.of[third]):
        counter.add(sale(1_000_001, 5), 1_000_001)
    assert [second.of[spec].seen(sale(1_000_002)) for spec in (other, third)] == [(1, 9), (1, 5)]
    assert gone.seen(sale(1_000_002)) == (0, 0)  # nobody asks for it, and it knows nothing
    again = Counters([one, other, third], before=second)
    assert [again.of[spec].seen(sale(1_000_002)) for spec in (one, other, third)] == [(0, 0), (1, 9), (1, 5)]
