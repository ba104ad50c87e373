"""messages.subfields: parts of a field by position, records, TLV, inner bitmaps; what is cut or hostile is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.dialect import load
from messages.subfields import Found, Layout, SubfieldError, joined, layout, split

CUP, VISA = load("unionpay_pos"), load("visa_base1")
BATCH, TOTALS, CODE, INNER = CUP.sub_fields["60"], CUP.sub_fields["48"], CUP.sub_fields["59"], VISA.sub_fields["62"]


def values(number: str, how: Layout, value: str, mti: str = "0200") -> dict[str, str]:
    return {found.path: found.value for found in split(number, how, value, mti)}


def test_positions_may_end_early_and_keep_their_names() -> None:
    assert values("60", BATCH, "2200072700060") == {"60.1": "22", "60.2": "000727", "60.3": "000", "60.4": "6", "60.5": "0"}
    assert split("60", BATCH, "22", "0200") == [Found("60.1", "message_type", "22")]


def test_totals_and_batch_items_are_told_apart_by_the_message() -> None:
    assert values("48", TOTALS, "0012", "0320") == {"48.1": "0012"}
    assert joined("48", TOTALS, {"48.1": "0012"}, "0320") == "0012"
    totals = "000000012500" + "002" + "000000000500" + "001" + "0"
    assert values("48", TOTALS, totals, "0500") == {"48.1": "000000012500", "48.2": "002", "48.3": "000000000500", "48.4": "001", "48.5": "0"}
    item = "22" + "000079" + "0" * 20 + "000000001111"
    assert values("48", TOTALS, "02" + item * 2, "0320")["48.2.4"] == "000000001111"
    assert split("48", TOTALS, "whatever", "0400") == []


def test_tags_of_text_and_an_inner_bitmap() -> None:
    assert values("59", CODE, "A3003abc04000") == {"59.A3": "abc", "59.04": ""}
    assert values("62", INNER, "8000000000000000E8") == {"62.1": "Y"}
    assert values("62", INNER, "4000000000000000" + "0123456789012345") == {"62.2": "0123456789012345"}


@pytest.mark.parametrize(("number", "how", "value", "mti", "part"), [
    ("60", BATCH, "2", "0200", "60.1"), ("60", BATCH, "22000", "0200", "60.2"), ("60", BATCH, "2200000A", "0200", "60.2"),
    ("60", BATCH, "2" * 18, "0200", "60"), ("48", TOTALS, "0", "0320", "48"), ("48", TOTALS, "02220", "0320", "48"),
    ("48", TOTALS, "x2", "0320", "48"), ("59", CODE, "A3", "0200", "59"), ("59", CODE, "A3004abc", "0200", "59"), ("59", CODE, "A3+03abc", "0200", "59"),
    ("59", CODE, "A3000" * 100, "0200", "59"), ("62", INNER, "80", "0100", "62"), ("62", INNER, "8000000000000000", "0100", "62.1"),
    ("62", INNER, "0080000000000000", "0100", "62.9"), ("62", INNER, "8000000000000000E8E8", "0100", "62"), ("62", INNER, "zz", "0100", "62"),
    ("62", INNER, "4000000000000000" + "0123456789ABCDEF", "0100", "62.2"), ("55", layout(("ber",)), "9F26089F", "0100", "55"),
])
def test_what_is_cut_or_hostile_is_refused_by_its_part(number: str, how: Layout, value: str, mti: str, part: str) -> None:
    with pytest.raises(SubfieldError) as caught:
        split(number, how, value, mti)
    assert caught.value.part == part
    assert value not in str(caught.value) or len(value) < 3


@given(st.text(max_size=60), st.sampled_from(["0200", "0320", "0500"]), st.sampled_from([("60", BATCH), ("48", TOTALS), ("59", CODE), ("62", INNER)]))
def test_any_text_gives_parts_that_join_to_it_or_a_refusal(value: str, mti: str, field: tuple[str, Layout]) -> None:
    number, how = field
    try:
        parts = values(number, how, value, mti)
    except SubfieldError:
        return
    if parts and len(parts) == len(split(number, how, value, mti)):
        assert joined(number, how, parts, mti).upper() == value.upper()


def test_parts_that_do_not_fit_are_not_joined() -> None:
    with pytest.raises(SubfieldError):
        joined("60", BATCH, {"60.1": "22", "60.3": "001"}, "0200")
    with pytest.raises(SubfieldError):
        joined("62", INNER, {"62.9": "1"}, "0100")
