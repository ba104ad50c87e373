"""Identities: UUIDv7 with a prefix; ordered by time; read in one form only."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.ids import PREFIXES, instant, lowest, read, show, uuid7

MS_MAX = 2**48 - 1
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


def test_the_example_of_rfc_9562() -> None:
    # Appendix A.6: 2022-02-22 14:22:22.00 GMT-05:00, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    randomness = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, randomness) == UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


@given(st.integers(0, MS_MAX), st.binary(min_size=10, max_size=10))
def test_version_variant_and_time_are_in_place_whatever_the_randomness(at_ms: int, randomness: bytes) -> None:
    made = uuid7(at_ms, randomness)
    assert (made.version, made.variant, made.int >> 80) == (7, "specified in RFC 4122", at_ms)


@given(INSTANTS, st.binary(min_size=10, max_size=10))
def test_the_lowest_id_of_an_instant_is_not_above_any_id_of_it(at: datetime, randomness: bytes) -> None:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    made = uuid7((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), randomness)
    assert lowest(at) <= made < lowest(at + timedelta(milliseconds=1))
    assert instant(made) == at


@pytest.mark.parametrize("year", [1, 1960, 1969])
def test_before_1970_there_is_no_id_so_the_lowest_is_the_lowest_of_all(year: int) -> None:
    assert lowest(datetime(year, 1, 2, tzinfo=UTC)) == UUID(int=0)


def test_the_lowest_id_is_that_of_the_instant_in_any_zone() -> None:
    at = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    assert lowest(at) == lowest(at.astimezone(timezone(timedelta(hours=8))))


@pytest.mark.parametrize("kind", sorted(PREFIXES))
def test_what_is_shown_can_be_read_again(kind: str) -> None:
    made = uuid7(1, bytes(10))
    assert read(kind, show(kind, made)) == made
    assert read(kind, show(kind, made).replace(str(made), str(made).upper())) == made
    assert not any(read(other, show(kind, made)) for other in PREFIXES if other != kind)


GOOD = "0192aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"


@pytest.mark.parametrize("text", [
    "", "txn_", GOOD, f"txn_{GOOD}0", f"txn_{GOOD[:-1]}", f"txn_ {GOOD[1:]}", f"TXN_{GOOD}", f"txn_{GOOD[:-1]}g", f"txn_{GOOD}\n",
    "txn_0192aaaabbbb7ccc8dddeeeeeeeeeeee----", "txn_0192_aaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "txn_0x92aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee",
    "txn_{0192aaaa-bbbb7ccc-8ddd-eeeeeeeeeeee", "txn_+192aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "txn_０192aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee",
])
def test_other_forms_of_an_id_are_absent(text: str) -> None:
    assert read("transaction", text) is None


@given(st.text(max_size=60))
def test_any_text_is_read_or_absent_but_never_raises(text: str) -> None:
    assert read("transaction", "txn_" + text) is None or str(read("transaction", "txn_" + text)) == text.lower()
