"""messages.dialect: the dialect as data, its match rules and its response codes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from messages.codec import encode
from messages.dialect import LITERALS, DialectError, answer_fault, answer_mti, build, differing_field, load, match_key, repeat_mti
from messages.framing import Framing

DIALECT = load("iso87_ascii")
REQUEST = {
    "0": "0200",
    "2": "4111111111111111",
    "3": "000000",
    "4": "000000012500",
    "7": "1123091500",
    "11": "000123",
    "37": "632709000123",
    "41": "TERM0001",
    "42": "MERCHANT0000001",
    "49": "978",
}
ANSWER = {**{number: REQUEST[number] for number in ("3", "4", "7", "11", "37", "41", "42", "49")}, "0": "0210", "38": "A1B2C3", "39": "00"}


def test_a_dialect_is_built_once() -> None:
    assert load("iso87_ascii") is DIALECT
    assert DIALECT.framing == Framing("binary2", 4096)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(LookupError, match="iso87_ascii"):
        load("iso99_smoke_signals")


def test_a_dialect_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DIALECT.codes["05"] = DIALECT.codes["00"]  # type: ignore[index]
    with pytest.raises(TypeError):
        DIALECT.messages["void"].fixed["3"] = "000000"  # type: ignore[index]


def test_every_field_of_1987_is_there_and_65_is_not() -> None:
    assert set(DIALECT.fields) == {str(number) for number in range(2, 129)} - {"65"}


@pytest.mark.parametrize(
    ("number", "type_", "length", "prefix"),
    [
        *[("2", "n", 19, 2), ("3", "n", 6, 0), ("4", "n", 12, 0), ("7", "n", 10, 0), ("11", "n", 6, 0), ("22", "n", 3, 0)],
        *[("28", "x+n", 9, 0), ("32", "n", 11, 2), ("35", "z", 37, 2), ("36", "z", 104, 3), ("37", "an", 12, 0), ("38", "an", 6, 0)],
        *[("39", "an", 2, 0), ("41", "ans", 8, 0), ("42", "ans", 15, 0), ("43", "ans", 40, 0), ("45", "ans", 76, 2), ("49", "n", 3, 0)],
        *[("52", "b", 16, 0), ("54", "an", 120, 3), ("55", "b", 510, 3), ("64", "b", 16, 0), ("70", "n", 3, 0), ("90", "n", 42, 0)],
        *[("95", "an", 42, 0), ("97", "x+n", 17, 0), ("102", "ans", 28, 2), ("127", "ans", 999, 3), ("128", "b", 16, 0)],
    ],
)
def test_field_formats_are_those_of_the_contract(number: str, type_: str, length: int, prefix: int) -> None:
    assert DIALECT.fields[number][2:5] == (type_, length, prefix)


@pytest.mark.parametrize(
    ("code", "processing_code", "verdict", "advice"),
    [
        *[("00", "000000", "approved", "none"), ("08", "000000", "approved", "none"), ("11", "000000", "approved", "none")],
        *[("10", "000000", "partial", "none"), ("85", "330000", "approved", "none"), ("85", "000000", "doubt", "new_payment_allowed")],
        *[("85", "", "doubt", "new_payment_allowed"), ("00", "330000", "approved", "none")],
        *[
            (code, "000000", "doubt", "new_payment_allowed")
            for code in ("06", "68", "96", "98", "09", "94", "zz", "", "Z9", "77", "99", "A0")
        ],
        *[(code, "000000", "declined", "other_card") for code in ("05", "14", "51", "54", "61", "65", "75")],
        *[(code, "000000", "declined", "retry_new_key") for code in ("19", "90", "91", "92")],
        *[(code, "000000", "declined", "call_issuer") for code in ("01", "02")],
        *[(code, "000000", "declined", "capture_card") for code in ("04", "07", "33", "34", "35", "36", "37", "38", "41", "43")],
        *[("55", "000000", "declined", "enter_pin"), ("12", "000000", "declined", "none"), ("58", "000000", "declined", "none")],
    ],
)
def test_response_codes_mean_what_the_contract_says(code: str, processing_code: str, verdict: str, advice: str) -> None:
    response = DIALECT.response(code, processing_code)
    assert (response.verdict, response.advice) == (verdict, advice)


def test_the_terminal_is_told_why() -> None:
    assert DIALECT.response("51").reason == "insufficient_funds"
    assert DIALECT.response("zz").reason == "unknown_code"


def test_a_reversal_is_closed_only_by_a_code_that_speaks_about_the_undo() -> None:
    by_meaning = {meaning: {code for code, said in DIALECT.reversal_codes.items() if said == meaning}
                  for meaning in ("acknowledged", "not_found", "retry", "park")}
    assert by_meaning == {"acknowledged": {"00", "94"}, "not_found": {"12", "25"}, "retry": {"06", "09", "68", "91", "96", "98"},
                          "park": {"21", "30", "40"}}
    assert DIALECT.reversal_first is False


@pytest.mark.parametrize(
    ("verb", "mti", "fixed", "required"),
    [
        ("purchase.single", "0200", {"3": "000000", "25": "00"}, ()),
        ("purchase.dual", "0100", {"3": "000000", "25": "00"}, ()),
        ("cash_advance.single", "0200", {"3": "010000", "25": "00"}, ()),
        ("cash_advance.dual", "0100", {"3": "010000", "25": "00"}, ()),
        ("preauthorization", "0100", {"3": "000000", "25": "06"}, ()),
        ("balance_inquiry", "0100", {"3": "310000", "4": "000000000000", "25": "00"}, ()),
        ("account_verification", "0100", {"3": "330000", "4": "000000000000", "25": "00"}, ()),
        ("increment", "0100", {"3": "000000", "25": "60"}, ("38", "90")),
        ("capture", "0220", {"3": "000000", "25": "06"}, ("38", "90")),
        ("offline_sale", "0220", {"3": "000000", "25": "00"}, ("38",)),
        ("tip", "0220", {"3": "020000", "25": "00"}, ("38", "90")),
        ("void", "0200", {"3": "020000", "25": "00"}, ("38", "90")),
        ("refund", "0200", {"3": "200000", "25": "00"}, ("90",)),
        ("reversal", "0420", {}, ("90",)),
        ("batch_close", "0500", {}, ("15", "50", "74", "76", "86", "88", "97")),
    ],
)
def test_each_verb_has_its_message(verb: str, mti: str, fixed: dict[str, str], required: tuple[str, ...]) -> None:
    assert DIALECT.messages[verb] == (mti, fixed, required, {})


def test_every_verb_is_in_the_table_above() -> None:
    assert len(DIALECT.messages) == 15


def test_network_codes_and_entry_modes_are_those_of_the_contract() -> None:
    assert dict(DIALECT.network) == {"sign_on": "001", "sign_off": "002", "echo": "301", "cut_over": "201", "key_change": "101"}
    card = {"manual": "01", "magstripe": "02", "chip": "05", "contactless": "07", "fallback": "80"}
    assert dict(DIALECT.entry_modes) == {**card, "pin_present": "1", "pin_absent": "2"}


@pytest.mark.parametrize(
    ("mti", "answer", "repeat"),
    [
        ("0100", "0110", "0101"),
        ("0200", "0210", "0201"),
        ("0201", "0210", "0201"),
        ("0220", "0230", "0221"),
        ("0420", "0430", "0421"),
        ("0421", "0430", "0421"),
        ("0800", "0810", "0801"),
        ("0402", "0412", "0403"),
    ],
)
def test_answer_and_repeat_follow_from_the_mti(mti: str, answer: str, repeat: str) -> None:
    assert answer_mti(mti) == answer
    assert repeat_mti(mti) == repeat


def test_request_repeat_and_answer_have_one_match_key() -> None:
    key = "2|1123091500|000123|632709000123|TERM0001|MERCHANT0000001"
    assert match_key(DIALECT, REQUEST) == match_key(DIALECT, {**REQUEST, "0": "0201"}) == match_key(DIALECT, ANSWER) == key
    assert match_key(DIALECT, {"0": "0800", "7": "1123091500", "11": "000124", "70": "301"}) == "8|1123091500|000124"


@pytest.mark.parametrize(
    ("number", "value"), [("7", "1123091501"), ("11", "000124"), ("37", ""), ("41", "TERM0002"), ("42", "MERCHANT0000002")]
)
def test_another_key_field_is_another_key_and_is_named(number: str, value: str) -> None:
    other = {**ANSWER, number: value}
    assert match_key(DIALECT, other) != match_key(DIALECT, REQUEST)
    assert differing_field(DIALECT, REQUEST, other) == number


def test_another_class_is_another_key_and_a_match_differs_in_nothing() -> None:
    assert differing_field(DIALECT, REQUEST, {**ANSWER, "0": "0430"}) == "0"
    assert differing_field(DIALECT, REQUEST, ANSWER) is None
    without = {number: value for number, value in ANSWER.items() if number != "41"}
    assert differing_field(DIALECT, REQUEST, without) == "41"


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"0": "0200"}, "0"),
        ({"0": "0201"}, "0"),
        ({"0": "0211"}, "0"),
        ({"39": None}, "39"),
        ({"39": "  "}, "39"),
        ({"3": "010000"}, "3"),
        ({"3": None}, "3"),
        ({"4": "000000012400"}, "4"),
        ({"4": None}, "4"),
        ({"49": "840"}, "49"),
        ({"49": None}, "49"),
        ({"38": None}, "38"),
        ({"38": "      "}, "38"),
        ({"2": "4111111111111111"}, None),
        ({"2": "5555555555554444"}, "2"),
        ({"39": "05", "38": None}, None),
        ({"39": "zz", "38": None}, None),
        ({"39": "05", "4": "000000012400"}, "4"),
        ({"39": "10", "4": "000000006200"}, None),
        ({"39": "10"}, None),
        ({"39": "10", "4": "000000012501"}, "4"),
        ({"39": "10", "4": "000000000000"}, "4"),
        ({"39": "10", "4": None}, "4"),
        ({"39": "10", "38": None}, "38"),
        ({"39": "10", "4": "000000006200", "49": "840"}, "49"),
    ],
)
def test_a_matched_message_is_an_answer_only_when_it_agrees(changed: dict[str, str | None], fault: str | None) -> None:
    answer = {number: value for number, value in {**ANSWER, **changed}.items() if value is not None}
    assert answer_fault(DIALECT, REQUEST, answer) == fault


@pytest.mark.parametrize(
    ("mti", "changed"),
    [
        ("0100", {"3": "310000", "4": "000000000000"}),
        ("0100", {"3": "310000"}),
        ("0100", {"3": "330000", "4": "000000000000"}),
        ("0100", {"4": "000000000000"}),
        ("0220", {}),
        ("0420", {}),
    ],
)
def test_inquiries_zero_amounts_advices_and_reversals_are_answered_without_an_approval_code(mti: str, changed: dict[str, str]) -> None:
    request = {**REQUEST, "0": mti, **changed}
    answer = {**ANSWER, "0": answer_mti(mti), **changed}
    del answer["38"]
    assert answer_fault(DIALECT, request, answer) is None


def test_a_network_answer_needs_only_its_response_code() -> None:
    request = {"0": "0800", "7": "1123091500", "11": "000124", "70": "301"}
    answer = {"0": "0810", "7": "1123091500", "11": "000124", "39": "00"}
    assert answer_fault(DIALECT, request, answer) is None
    del answer["39"]
    assert answer_fault(DIALECT, request, answer) == "39"


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    literal: dict[str, Any] = copy.deepcopy(dict(LITERALS["iso87_ascii"]))
    change(literal)
    return literal


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda literal: literal.pop("agree"), "agree"),
        (lambda literal: literal.update(framing=("ascii9", 4096)), "framing: kind: 'ascii9'"),
        (lambda literal: literal.update(framing=("binary2", 70_000)), "max_length"),
        (lambda literal: literal["fields"].update({"65": ("third_bitmap", "b", 16, 0)}), "field 65"),
        (lambda literal: literal["fields"].update({"129": ("beyond", "n", 6, 0)}), "field 129"),
        (lambda literal: literal["fields"].update({"03": ("leading_zero", "n", 6, 0)}), "field 03"),
        (lambda literal: literal["fields"].update({"3": ("processing_code", "number", 6, 0)}), "field 3: type"),
        (lambda literal: literal["fields"].update({"2": ("pan", "n", 100, 2)}), "field 2: length 100"),
        (lambda literal: literal["fields"].update({"2": ("pan", "n", 19, 1)}), "field 2: length 19 .* 1 digits"),
        (lambda literal: literal["fields"].update({"52": ("pin_block", "b", 15, 0)}), "field 52: hex text of odd"),
        (lambda literal: literal["fields"].update({"11": ("stan", "n", 6)}), "literal"),
        (lambda literal: literal.update(agree=("3", "1")), "agree: no field 1"),
        (lambda literal: literal.update(match={"8": ("7", "11")}), "match: no default"),
        (lambda literal: literal.update(match={"*": ("2", "11")}), "match: field 2 is not fixed"),
        (lambda literal: literal.update(shown="2 35"), "shown: field 35 is never stored"),
        (lambda literal: literal["codes"].update({"51": ("refused", "insufficient_funds", "other_card")}), "codes 51: verdict: 'refused'"),
        (lambda literal: literal["codes"].update({"51": ("declined", "insufficient_funds", "go_away")}), "codes 51: advice: 'go_away'"),
        (lambda literal: literal["codes"].update({"5": ("declined", "insufficient_funds", "none")}), "code 5"),
        (lambda literal: literal.update(codes_only_for={"Q1": ("33",)}), "codes_only_for: no code Q1"),
        (lambda literal: literal["reversal_codes"].update({"05": "maybe"}), "reversal_codes 05: 'maybe' is not accepted"),
        (lambda literal: literal.update(like="iso87"), "like: 'iso87' is none of iso87_ascii"),
        (lambda literal: literal.update(like="visa_base1"), "like: 'visa_base1' is none of iso87_ascii"),  # it is like another itself
        (lambda literal: literal.update(like=["iso87_ascii"]), "literal"),
        (lambda literal: literal["messages"].update({"void": ("200", {}, ())}), "messages void: MTI: '200'"),
        (lambda literal: literal["messages"].update({"void": ("0200", {}, ("1",))}), "message void: no field 1"),
        (lambda literal: literal["messages"].update({"void": ("0200", {"3": "2"}, ())}), "message void: field 3 cannot be 2"),
    ],
)
def test_a_literal_that_contradicts_itself_is_refused_by_name(change: Callable[[dict[str, Any]], object], part: str) -> None:
    with pytest.raises(DialectError, match=part):
        build(broken(change))


def test_a_dialect_that_is_like_another_says_only_where_it_differs() -> None:
    def change(literal: dict[str, Any]) -> None:
        del literal["entry_modes"], literal["codes_only_for"]
        literal |= {"name": "other", "like": "iso87_ascii", "reversal_codes": {"12": "park"},
                    "codes": {"85": None, "51": ("declined", "no_money", "none"), "Z9": ("doubt", "who_knows", "none")}}
    with pytest.raises(DialectError, match="codes_only_for: no code 85"):
        build(broken(change))
    other = build(broken(change) | {"codes_only_for": {"85": None}})
    assert (other.entry_modes, other.reversal_codes) == (DIALECT.entry_modes, {**DIALECT.reversal_codes, "12": "park"})
    assert {code: meaning for code, meaning in other.codes.items() if DIALECT.codes.get(code) != meaning} == {
        "51": ("declined", "no_money", "none"), "Z9": ("doubt", "who_knows", "none")}
    assert set(DIALECT.codes) - set(other.codes) == {"85"} and not other.codes_only_for


def test_another_field_table_is_another_codec_without_code() -> None:
    other = build(broken(lambda literal: literal["fields"].update({"37": ("retrieval_reference_number", "n", 4, 0)})))
    assert encode(other, {"0": "0800", "37": "1234"}).endswith(b"1234")
