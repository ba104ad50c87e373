"""messages.tlv: the data of DE55."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import tlv
from messages.tlv import DEPTH_MAX, ELEMENTS_MAX, EMV_STORED, LAYOUTS_MAX, TlvError, keep, parse

NEVER_STORED = ["5A", "57", "56", "5F20", "5F24", "9F1F", "9F20", "9F6B", "9F24", "DF8129"]


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        ("8A023030", [("8A", "3030")]),
        ("8a029f1a", [("8A", "9F1A")]),
        ("9F2608DEAE676D1C4734119F270180", [("9F26", "DEAE676D1C473411"), ("9F27", "80")]),
        ("DF8129015A", [("DF8129", "5A")]),
        ("9100", [("91", "")]),
        ("5081025A5A", [("50", "5A5A")]),
        ("508200025A5A", [("50", "5A5A")]),
        ("5081FF" + "41" * 255, [("50", "41" * 255)]),
        ("00008A0230300000", [("8A", "3030")]),
        ("710F9F1804000000018606840000000400", [("71", "9F1804000000018606840000000400")]),
        ("8A0130" * 2, [("8A", "30")] * 2),
    ],
)
def test_elements_are_read_in_order_with_long_tags_long_lengths_and_fill(text: str, elements: list[tuple[str, str]]) -> None:
    assert parse(text) == elements


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8", "hexadecimal"),
        ("8A0 13", "hexadecimal"),
        ("8A 0130 ", "hexadecimal"),
        ("ZZ", "hexadecimal"),
        ("8A013²", "hexadecimal"),
        ("9F", "tag is cut"),
        ("9F81", "tag is cut"),
        ("9F8181818101", "tag of more than 4 bytes"),
        ("8A", "length is missing"),
        ("8A81", "length is cut"),
        ("8A8200", "length is cut"),
        ("8A8030300000", "indefinite length"),
        ("8A830000023030", "length of more than two bytes"),
        ("8A0330", "runs past the end"),
        ("71028A05", "runs past the end"),
    ],
)
def test_what_is_cut_indefinite_or_no_hex_is_refused(text: str, reason: str) -> None:
    with pytest.raises(TlvError, match=reason):
        parse(text)
    with pytest.raises(TlvError, match=reason):
        keep(text, frozenset({"71", "8A"}))


def nested(levels: int) -> str:
    data = "8A0130"
    for _ in range(levels - 1):
        data = f"E1{len(data) // 2:02X}{data}"
    return data


def test_nesting_and_number_of_elements_have_limits() -> None:
    assert parse(nested(DEPTH_MAX))
    with pytest.raises(TlvError, match="levels"):
        parse(nested(DEPTH_MAX + 1))
    assert len(parse("8A00" * ELEMENTS_MAX)) == ELEMENTS_MAX
    with pytest.raises(TlvError, match="elements"):
        parse("8A00" * (ELEMENTS_MAX + 1))
    inner = "8A00" * 33
    with pytest.raises(TlvError, match="elements"):
        parse(f"E142{inner}E242{inner}")


def test_keep_leaves_only_the_named_tags() -> None:
    assert keep("5A0841111111111111119f2701808A023030", frozenset({"9F27", "8A"})) == "9F2701808A023030"


@pytest.mark.parametrize("text", ["9A03261123" * 2, "9F360200019A032611239F36020002", "8A013071009A01188A0130", "DF81290100" * 2, "9A8103261123" * 2])
def test_a_tag_twice_is_refused_where_it_may_stand_once(text: str) -> None:
    keep(text, EMV_STORED)
    with pytest.raises(TlvError, match="twice"):
        keep(text, EMV_STORED, once=True)


@pytest.mark.parametrize("text", ["9A032611239F36020001", "7206860184860185" + "8A023030", "9A03261123" + "0000", "7203860184" + "7103860184"])
def test_once_is_about_the_top_alone(text: str) -> None:
    assert keep(text, EMV_STORED, once=True) == keep(text, EMV_STORED)


def test_keep_looks_into_constructed_elements_and_corrects_their_length() -> None:
    script = "9F180400000001"
    assert keep(f"7211{script}5A084111111111111111", frozenset({"72", "9F18"})) == f"7207{script}"


def test_keep_writes_long_lengths() -> None:
    long = "50820123" + "41" * 291
    assert keep(long, frozenset({"50"})) == long
    assert keep("5081C8" + "41" * 200, frozenset({"50"})) == "5081C8" + "41" * 200


@pytest.mark.parametrize("tag", NEVER_STORED)
def test_card_data_is_on_no_list_of_what_may_be_stored(tag: str) -> None:
    assert tag not in EMV_STORED
    assert keep(f"{tag}0841111111111111118A023030", EMV_STORED) == "8A023030"


@pytest.mark.parametrize("tag", ["91", "71", "72", "8A", "9F26", "9F36", "95"])
def test_what_terminal_and_dispute_need_may_be_stored(tag: str) -> None:
    assert tag in EMV_STORED


@given(st.binary(max_size=255))
def test_any_data_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        elements = parse(data.hex())
    except TlvError:
        return
    assert keep(data.hex(), frozenset()) == ""
    assert sum(len(tag) + len(value) for tag, value in elements) <= 2 * len(data)


KNOWN_TAGS = ["9F26", "9F27", "9F10", "95", "9A", "82", "5A", "57", "9F6B", "5F24"]


@given(st.lists(st.tuples(st.sampled_from(KNOWN_TAGS), st.integers(0, 8)), max_size=12), st.randoms(use_true_random=False), st.booleans())
def test_a_form_that_was_read_before_is_read_the_same(form: list[tuple[str, int]], chance: random.Random, once: bool) -> None:
    """The third of a form goes by the expression made of the first two."""
    for _ in range(3):
        elements = [(tag, chance.randbytes(length).hex().upper()) for tag, length in form]
        text = "".join(f"{tag}{len(value) // 2:02X}{value}" for tag, value in elements)
        if once and len(dict(elements)) < len(elements):
            with pytest.raises(TlvError, match="twice"):
                keep(text.lower(), EMV_STORED, once)
            continue
        assert keep(text.lower(), EMV_STORED, once) == "".join(f"{tag}{len(value) // 2:02X}{value}" for tag, value in elements if tag in EMV_STORED)


@pytest.mark.parametrize("wrong", ["9F2602ﬀFF9F270180", "9F2602 F F9F270180", "9F2602GGGG9F270180", "9F2602ＡＡＡＡ9F270180"])
def test_what_is_no_hex_is_refused_in_a_known_form_too(wrong: str) -> None:
    for _ in range(3):
        keep("9F2602AAAA9F270180", EMV_STORED)
    with pytest.raises(TlvError, match="hexadecimal"):
        keep(wrong, EMV_STORED)


def test_forms_are_learnt_up_to_a_limit() -> None:
    for number in range(3 * LAYOUTS_MAX):
        for _ in range(2):
            keep(f"9F{number // 128:02X}01{number % 256:02X}5001AA" + "9A01BB" * (number % 7) + f"{'5F' if number % 2 else '9F'}{number % 128:02X}0100", EMV_STORED)
    assert sum(map(len, tlv._layouts.values())) <= LAYOUTS_MAX and len(tlv._seen) <= tlv.SEEN_MAX
