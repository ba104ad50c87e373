"""Templates of a dialect: widths, what the original's answer had, what comes out empty, and another reversal for another verb."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from messages.codec import decode, encode
from messages.dialect import LITERALS, Dialect, build, faults, match_key
from messages.grammar import NAMES
from messages.templates import NAMED, TEMPLATE, answered, filled
from switch.payments import translation
from switch.payments.evidence import held
from switch.payments.naming import VALUES, Names
from switch.security.pan import Pan
from switch.settlement.batches.wording import Said, totals
from tests.test_translation import ACQUIRER, MERCHANT, PAN, STORE, order, row


def literal(**changes: Any) -> dict[str, Any]:
    """A host of BASE24's kind (DE41 of 16, DE90 with both institutions), DE31 and DE62 of its answers kept."""
    whole = copy.deepcopy(dict(LITERALS["iso87_ascii"]))
    whole["fields"] |= {"31": ("reference", "ans", 48, 2), "41": ("terminal", "ans", 16, 0), "42": ("acceptor", "ans", 10, 0),
                        "62": ("bits", "b", 510, 3), "63": ("parts", "ans", 11, 3)}
    whole["sub_fields"] = {"62": ("bitmapped", 8, {2: ("transaction", "bcd", 8), 3: ("check", "ascii", 4)}),
                           "63": ("positional", (("network", "ans", 2), ("reference", "ans", 9)))}
    whole["shown"] += " 31 62 63"
    whole["composed"] = {"41": "{terminal:<16}", "42": "{merchant:>10}"}
    whole["messages"] |= {
        "capture": ("0220", {"3": "000000", "25": "06"}, ("38", "90"), {
            "31": "{answer_31}", "62": "{answer_62}", "63": "{answer_62_2}",
            "90": "{original_mti}{original_stan}{original_transmitted_at}{institution:0>11}{institution:0>11}"}),
        "reversal": ("0420", {}, ("90",), {"31": "{answer_31}", "63": "{answer_63_2}"}),
        "batch_close": (*whole["messages"]["batch_close"], {"41": "{terminal:16}", "42": "{merchant:0>10}"})}
    return whole | changes


HOST = build(literal())
CAPTURE = {"type": "capture", "mti": "0220", "pos_condition": "06"}
NUMBERS = {"card_acceptor_terminal": "T0000001", "card_acceptor": "SHOP7          "}
ANSWER = json.dumps({"0": "0110", "31": "ABC 123", "39": "00", "62": "40000000000000001234567890123456", "63": "MC000000777"})


@pytest.mark.parametrize(("template", "text"), [
    ("{terminal}", "T1"), ("{terminal:5}", "T1   "), ("{terminal:<5}", "T1   "), ("{terminal:>5}", "   T1"), ("{terminal:0>11}", "000000000T1"),
    ("{terminal::>3}", ":T1"), ("{terminal:!<3}", "T1!"), ("{terminal:<<3}", "T1<"), ("{terminal:1}", "T1"), ("a{terminal:-<4}b{terminal:99}", "aT1--bT1" + " " * 97),
])
def test_a_width_fills_on_one_side_and_cuts_nothing(template: str, text: str) -> None:
    assert TEMPLATE(template) and set(NAMED(template)) == {"terminal"}
    assert filled(template, {"terminal": "T1"}) == text


@pytest.mark.parametrize("template", [
    "{terminal:0}", "{terminal:05}", "{terminal:100}", "{terminal:^5}", "{terminal:=5}", "{terminal:é>5}", "{terminal:{stan}}", "{terminal:}}>5}",
    "{terminal:x}", "{terminal:.3}", "{terminal:5s}", "{terminal!r}", "{terminal!r:5}", "{terminal[0]}", "{terminal.real}", "{}", "{0}", "{terminal:>}",
    "{answer_}", "{answer_1234}", "{answer_62_2_1}", "{answer_62.2}", "{{terminal}}"])
def test_what_is_no_name_with_a_width_is_no_template(template: str) -> None:
    assert not TEMPLATE(template) or not {*NAMED(template)} <= NAMES.keys()
    assert faults(literal(composed={"60": template})), "the dialect is sound"


def test_each_name_of_the_grammar_has_a_value_and_no_other_has() -> None:
    assert VALUES.keys() == NAMES.keys()
    names = Names(row(), None, HOST, "6212", "2812")
    assert all(isinstance(names[name], str) for name in NAMES) and names["expiry"] == "2812"
    for name in ("colour", "answer_", "row"):
        with pytest.raises(KeyError):
            names[name]


def test_a_terminal_an_acceptor_and_a_currency_stand_in_their_widths() -> None:
    host = build(literal(composed={"41": "{terminal:<16}", "42": "{merchant:>10}", "60": "{currency}"}))
    said = translation.request(order(), row(**NUMBERS), ACQUIRER._replace(dialect=host), MERCHANT, STORE)
    assert (said["41"], said["42"], said["60"]) == ("T0000001        ", "     SHOP7", "156")
    assert decode(host, encode(host, said)) == said


def test_the_expiry_of_a_card_has_its_name() -> None:
    host = build(literal(composed={"60": "X{expiry}"}))
    assert translation.request(order(), row(**NUMBERS), ACQUIRER._replace(dialect=host), MERCHANT, STORE)["60"] == "X2812"
    assert translation.reversal(row(), host, Pan(PAN), "2812", "000999", "1123080107")["60"] == "X2812"


def test_the_original_elements_have_institutions_of_11_digits() -> None:
    said = translation.follow_up(row(**CAPTURE, **NUMBERS), row(mti="0100"), HOST, Pan(PAN), "2812", "6212")
    assert said["90"] == "0100" + "000123" + "1123080000" + "00000006212" * 2
    assert said["41"] == "T0000001        " and decode(HOST, encode(HOST, said)) == said


def test_the_totals_of_a_terminal_are_said_in_the_same_widths() -> None:
    said = totals(Said("CNY", row().business_date, "000001", "1123080000", 0, "T0000001", "SHOP7          "), {}, HOST)
    assert (said["41"], said["42"]) == ("T0000001        ", "00000SHOP7")
    encode(HOST, said)


def test_a_width_longer_or_shorter_than_the_field_is_refused_by_the_codec_not_cut() -> None:
    host = build(literal(composed={"41": "{terminal:17}"}))
    said = translation.request(order(), row(**NUMBERS), ACQUIRER._replace(dialect=host), MERCHANT, STORE)
    with pytest.raises(ValueError, match="field 41"):
        encode(host, said)


def test_a_late_answer_is_not_held_against_a_terminal_as_the_row_has_it() -> None:
    assert {"41", "42"} & held(row(), HOST).keys() == set() and held(row(), HOST)["4"] == "000000001000"
    assert held(row(), build(LITERALS["iso87_ascii"]))["41"] == "T0000001"


# What the original's answer had.


def test_a_follow_up_names_what_its_originals_answer_had() -> None:
    said = translation.follow_up(row(**CAPTURE), row(mti="0100", answer_message=ANSWER), HOST, Pan(PAN), "2812")
    assert (said["31"], said["62"], said["63"]) == ("ABC 123", "40000000000000001234567890123456", "1234567890123456")


def test_a_reversal_names_the_answer_of_what_it_undoes_and_not_of_its_original() -> None:
    undone = row(**CAPTURE, answer_message=json.dumps({"0": "0230", "31": "OWN", "63": "MC000000999"}))
    said = translation.reversal(undone, HOST, Pan(PAN), "2812", "000999", "1123080107", row(answer_message=ANSWER))
    assert (said["31"], said["63"]) == ("OWN", "000000999")
    assert translation.reversal_key(undone, HOST, "000999", "1123080107") == match_key(HOST, said)


@pytest.mark.parametrize("stored", [None, "{}", json.dumps({"0": "0110", "39": "00"}), json.dumps({"0": "0110", "31": "", "62": "zz", "63": "M"}),
                                    json.dumps({"0": "0110", "31": "<7 characters>", "62": "***", "63": "<9 characters>"})])
def test_without_an_answer_that_has_it_the_field_is_left_out(stored: str | None) -> None:
    said = translation.reversal(row(answer_message=stored), HOST, Pan(PAN), "2812", "000999", "1123080107")
    assert not {"31", "63"} & said.keys()
    said = translation.follow_up(row(**CAPTURE), row(mti="0100", answer_message=stored), HOST, Pan(PAN), "2812")
    assert {"31", "62", "63"} & said.keys() <= ({"62"} if stored and "zz" in stored else set())


def test_what_was_masked_in_an_answer_is_shown_where_the_dialect_says_so_and_so_can_be_said_again() -> None:
    stored = translation.masked(HOST, {"0": "0110", "31": "ABC 123", "39": "00", "2": PAN})
    assert translation.reversal(row(answer_message=stored), HOST, Pan(PAN), "2812", "000999", "1123080107")["31"] == "ABC 123"


@pytest.mark.parametrize(("change", "fault"), [
    (lambda whole: whole["composed"].update({"63": "{answer_48}"}), "composed 63: {answer_48}: field 48 is not in shown"),
    (lambda whole: whole["composed"].update({"63": "x{answer_3:>9}{answer_99}"}), None),
    (lambda whole: whole["composed"].update({"63": "{answer_65}"}), "composed 63: {answer_65}: no field 65 in fields"),
    (lambda whole: whole["composed"].update({"63": "{answer_2}"}), "{answer_2}: field 2 is never taken from an answer"),
    *((lambda whole, number=number: (whole["composed"].update({"63": f"{{answer_{number}}}"}), whole.update(shown=f"{whole['shown']} {number}")),
       f"{{answer_{number}}}: field {number} is never taken from an answer") for number in ("2", "14", "35", "36", "45", "52", "55", "64")),
    (lambda whole: whole["composed"].update({"60": "{answer_62_4}"}), "{answer_62_4}: no part 62.4 in sub_fields"),
    (lambda whole: whole["composed"].update({"60": "{answer_63_3}"}), "{answer_63_3}: no part 63.3 in sub_fields"),
    (lambda whole: whole["composed"].update({"60": "{answer_3_1}"}), "{answer_3_1}: no part 3.1 in sub_fields"),
    (lambda whole: whole["network_rule"].update({"composed": {"11": "{stan}", "70": "{answer_70}"}}) if "network_rule" in whole
     else whole.update(network_rule={"composed": {"7": "{transmitted_at}", "11": "{stan}", "70": "{answer_70}"}}), "network_rule: composed 70: no name answer_70"),
    (lambda whole: whole["composed"].update({"60": "{reversal_reason:4}"}), "reversal_reasons: unanswered, answered must be there"),
])
def test_only_what_is_stored_and_no_secret_may_be_named(change: Callable[[dict[str, Any]], object], fault: str | None) -> None:
    whole = literal()
    whole["composed"] = dict(whole["composed"])
    change(whole)
    found = faults(whole)
    assert found == [] if fault is None else any(fault in each for each in found), found


# What comes out empty.


def asked(composed: dict[str, str], institution: str | None) -> dict[str, str]:
    host = build(literal(composed=composed))
    return translation.request(order(), row(**NUMBERS), ACQUIRER._replace(dialect=host, institution_code=institution), MERCHANT, STORE)


@pytest.mark.parametrize(("template", "said", "without"), [
    ("{institution}", "6212", None), ("{institution_length}{institution}", "046212", None), ("{institution}{institution_length}", "621204", None),
    ("{institution:0>11}", "00000006212", "00000000000"), ("I{institution}", "I6212", "I"), ("{institution_length}0{institution}", "0406212", "000"),
    ("00", "00", "00"), ("", None, None), ("{approval_code}", "      ", "      ")])
def test_a_field_that_comes_out_empty_is_left_out(template: str, said: str | None, without: str | None) -> None:
    assert asked({"60": template}, "6212").get("60") == said
    assert asked({"60": template}, None).get("60") == without


def test_what_is_composed_to_nothing_is_not_said_as_the_house_says_it_either() -> None:
    assert asked({}, "6212")["32"] == "6212"
    assert "32" not in asked({"32": "{answer_31}"}, "6212")
    assert asked({"42": "{answer_31}", "41": "{terminal:16}"}, None).keys() == asked({"41": "{terminal:16}"}, None).keys() - {"42"}


def test_templates_of_a_message_count_where_the_dialect_has_no_others() -> None:
    house = {**LITERALS["iso87_ascii"]}
    plain, own = build(house), build({**house, "messages": {**house["messages"], "refund": ("0200", {"3": "200000", "25": "00"}, (), {"48": "{transaction}"})}})
    refund = row(type="refund", processing_code="200000")
    assert plain.house and not own.house
    assert translation.follow_up(refund, row(), own, Pan(PAN), "2812")["48"] == refund.transaction_id.hex
    assert "48" not in translation.follow_up(refund, row(), plain, Pan(PAN), "2812")


# Another reversal for another verb.


def undoing(dialect: Dialect, **changes: Any) -> dict[str, str]:
    undone = row(**changes)
    said = translation.reversal(undone, dialect, Pan(PAN), "2812", "000999", "1123080107")
    assert translation.reversal_key(undone, dialect, "000999", "1123080107") == match_key(dialect, said)
    return said


@pytest.mark.parametrize("composed", [{}, {"41": "{terminal:<16}", "42": "{merchant:>10}"}], ids=["as the house says it", "of its own"])
def test_what_was_said_as_a_verb_has_a_reversal_of_its_own(composed: dict[str, str]) -> None:
    own = ("0400", {"70": "300"}, ("90",), {"63": "CAP{original_stan}"} if composed else {})
    messages = literal()["messages"] | {"reversal.capture": own, "reversal.offline_sale": ("0401", {}, ("90",))}
    base = literal() if composed else LITERALS["iso87_ascii"] | {"messages": LITERALS["iso87_ascii"]["messages"]}
    plain = {verb: rule for verb, rule in base["messages"].items() if verb != "reversal"} | {"reversal": ("0420", {}, ("90",))}
    dialect = build({**base, "composed": composed, "messages": (messages if composed else plain | {
        "reversal.capture": own, "reversal.offline_sale": ("0401", {}, ("90",))})})
    assert undoing(dialect, **CAPTURE)["0"] == "0400" and undoing(dialect)["0"] == "0420"
    assert undoing(dialect, type="purchase", exchange="advice", mti="0220")["0"] == "0401", "what was stood in for was said as an offline sale"
    if composed:
        assert (undoing(dialect, **CAPTURE)["70"], undoing(dialect, **CAPTURE)["63"]) == ("300", "CAP000123")
        assert "70" not in undoing(dialect)


def test_a_reversal_of_a_verb_that_is_not_said_is_a_fault() -> None:
    whole = literal()
    assert not faults({**whole, "messages": whole["messages"] | {"reversal.void": ("0420", {}, ())}})
    for verb in ("query", "single", "cash_advance"):
        said = {name: rule for name, rule in whole["messages"].items() if not name.startswith("cash_advance")}
        found = faults({**whole, "messages": said | {f"reversal.{verb}": ("0420", {}, ())}})
        assert f"message reversal.{verb}: there is no message {verb}" in found, found


def test_a_dialect_without_one_has_the_reversal_of_all() -> None:
    assert replace(HOST, composed={}).rule("reversal", "capture") is HOST.messages["reversal"]
    assert answered("answer_62_2") == "62.2" and answered("answer_code") == answered("stan") == ""
