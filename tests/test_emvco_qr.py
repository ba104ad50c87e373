"""Merchant-presented codes: published payloads are read and made as they stand, and nothing malformed is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.emvco_qr import Account, Merchant, QrError, crc, parse, payload

# The example of the EMVCo specification (Merchant-Presented Mode, annex): an account of a national scheme, another language, tips asked for.
PUBLISHED = ("00020101021229300012D156000000000510A93FO3230Q31280012D15600000001030812345678520441115802CN5914BEST TRANSPORT6007BEIJING64200002ZH0104最佳运输"
             "0202北京540523.7253031565502016233030412340603***0708A60086670902ME91320016A0112233449988770708123456786304A13A")
SHOP = Merchant("Corner Cafe", "Shanghai", "CN", "5812")
ACCOUNT = Account("com.example.wallet", {"01": "M00000000000001", "02": "T0000001"})


def test_the_published_payload_is_read_and_its_crc_is_right() -> None:
    found = parse(PUBLISHED)
    assert (found["52"], found["53"], found["54"], found["58"], found["59"], found["60"]) == ("4111", "156", "23.72", "CN", "BEST TRANSPORT", "BEIJING")
    assert found["29"] == {"00": "D15600000000", "05": "A93FO3230Q"}
    assert found["64"] == {"00": "ZH", "01": "最佳运输", "02": "北京"}
    assert crc(PUBLISHED[:-4]) == "A13A"


def test_the_crc_is_that_of_ccitt_false() -> None:
    assert crc("123456789") == "29B1"  # the check value of the catalogues of CRCs


def test_a_static_code_has_no_amount_and_a_dynamic_one_is_of_one_sale() -> None:
    static = parse(payload(SHOP, ACCOUNT, "156"))
    assert static["01"] == "11" and "54" not in static and static["26"] == {"00": "com.example.wallet", "01": "M00000000000001", "02": "T0000001"}
    dynamic = parse(payload(SHOP, ACCOUNT, "156", "12.50", {"05": "table 4", "07": "T0000001"}))
    assert (dynamic["01"], dynamic["54"], dynamic["62"]) == ("12", "12.50", {"05": "table 4", "07": "T0000001"})


def test_names_that_are_not_ascii_stand_in_the_template_of_their_language() -> None:
    found = parse(payload(Merchant("街角咖啡", "上海", "CN", "5812"), ACCOUNT, "156"))
    assert (found["59"], found["60"], found["64"]) == ("-", "-", {"00": "ZH", "01": "街角咖啡", "02": "上海"})


@pytest.mark.parametrize("amount", ["", "0", "0.00", "12.", ".5", "1,50", "-1", "1.2.3", "12345678901.00", "１２"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(QrError, match="54"):
        payload(SHOP, ACCOUNT, "156", amount)


@pytest.mark.parametrize(("guid", "additional"), [("", {}), ("x" * 100, {}), ("é", {}), ("a.b", {"05": "x" * 26}), ("a.b", {"05": ""}), ("a.b", {"5": "x"})])
def test_what_a_code_cannot_hold_is_refused(guid: str, additional: dict[str, str]) -> None:
    with pytest.raises(QrError):
        payload(SHOP, Account(guid, {}), "156", "1", additional)


SOUND = payload(SHOP, ACCOUNT, "156", "12.50", {"07": "T0000001"})


@pytest.mark.parametrize(("text", "says"), [
    ("", "12 to"), (SOUND[:-1], "cut off|63"), (SOUND[:-4] + "0000", "63: wrong"), (SOUND[6:], "00: "), (SOUND[:-8], "63"), ("000202" + SOUND[6:], "00: "),
    (SOUND.replace("5802CN", ""), "58: missing|63"), (SOUND[:6] + "0102125303156" + SOUND[6:], "twice|63"), (SOUND[:-8] + "63040000" + SOUND[-8:], "twice|63"), ("x" * 600, "12 to"),
    ("0002019900" + SOUND[6:], "not a data object"),
])
def test_a_malformed_payload_is_refused(text: str, says: str) -> None:
    with pytest.raises(QrError, match=says):
        parse(text)


@given(st.integers(0, len(SOUND) - 5), st.characters(min_codepoint=32, max_codepoint=126))
def test_one_wrong_character_is_noticed(at: int, character: str) -> None:
    if SOUND[at] != character:
        with pytest.raises(QrError):
            parse(SOUND[:at] + character + SOUND[at + 1:])


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except QrError:
        return


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60), st.text(max_size=40), st.integers(1, 10**12), st.sampled_from([".00", ".5", ""]))
def test_what_is_made_is_read_back(name: str, city: str, whole: int, fraction: str) -> None:
    amount = f"{whole}{fraction}"[:13].rstrip(".")
    try:
        text = payload(Merchant(name, city, "CN", "5812"), ACCOUNT, "156", amount)
    except QrError:
        return
    found = parse(text)
    assert (found["54"], found["26"]) == (amount, {"00": ACCOUNT.guid, **ACCOUNT.numbers})
