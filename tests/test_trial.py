"""`switch dialect check` says every message once: what a host would never get is found before money waits for it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import rows
from test_translation import ACQUIRER, MERCHANT, STORE, order

from messages import dialect as dialects
from messages import soundness, trial
from messages.dialect import LITERALS, build, faults, load
from messages.grammar import NAMES
from switch.payments import translation
from switch.payments.naming import VALUES


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    literal = copy.deepcopy(dict(LITERALS[name]))
    change(literal)
    return literal


def found(literal: dict[str, Any]) -> list[str]:
    return faults(literal) or trial.faults(build(literal))


@pytest.mark.parametrize("name", sorted(LITERALS))
def test_what_is_shipped_can_say_all_of_its_messages(name: str) -> None:
    assert trial.faults(load(name)) == []


def without(literal: dict[str, Any], number: str) -> None:
    del literal["fields"][number]
    literal["request_fields"] = tuple(each for each in literal["request_fields"] if each != number)
    literal["shown"] = " ".join(each for each in literal["shown"].split() if each != number)


BAD: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("iso87_ascii", lambda literal: without(literal, "13"), "field 13: not a field of this dialect"),
    ("iso87_ascii", lambda literal: literal["fields"].update({"41": ("terminal", "ans", 16, 0)}), "field 41: not exactly 16"),
    ("iso87_ascii", lambda literal: literal["fields"].update({"54": ("amounts", "an", 12, 3)}), "field 54"),
    ("iso87_ascii", lambda literal: literal.update(network_rule={"composed": {"7": "{stan}", "11": "{stan}", "70": "{code}"}}), "network sign_on: field 7"),
    ("iso87_ascii", lambda literal: literal["network"].update({"echo": "00301"}), "network echo: field 70"),
    ("iso87_ascii", lambda literal: literal.update(network_rule={"refused": "0030"}), "our answer '0030' to a host: field 39"),
    ("iso93_ascii", lambda literal: literal["messages"]["reversal"][3].update({"90": "{original_mti}"}), "field 90"),
    ("unionpay_pos", lambda literal: literal["messages"]["capture"][3].pop("61"), "message capture: field 61 is required, and nothing makes it"),
    ("unionpay_pos", lambda literal: literal["messages"]["capture"][3].update({"60": "20{batch}000600000000"}), "message capture: field 60"),
    ("iso87_ascii", lambda literal: literal["messages"].pop("reversal"), "no reversal"),
    ("iso87_ascii", lambda literal: literal.update(match={"*": ("41", "42")}), "match *: neither 11 nor 37"),
    ("iso87_ascii", lambda literal: literal.update(match={"*": ("11", "38")}), "field 38 is in no request"),
    ("iso87_ascii", lambda literal: literal["fields"].update({"37": ("rrn", "an", 20, 0)}), "field 37: the books keep at most 12"),
    ("iso87_ascii", lambda literal: literal.update(messages={}), "messages: none"),
    ("iso87_ascii", lambda literal: literal["messages"].update({"purchase": literal["messages"].pop("purchase.single")}), "purchase.single or purchase.dual"),
    ("iso87_ascii", lambda literal: literal["messages"].update({"capture": ("0210", *literal["messages"]["capture"][1:])}), "is no request or advice"),
    ("iso87_ascii", lambda literal: literal["messages"].update({"purchase.single": ("0800", *literal["messages"]["purchase.single"][1:])}), "of its class"),
    ("iso87_ascii", lambda literal: literal["messages"]["capture"][1].update({"25": "006"}), "field 25"),
    ("iso87_ascii", lambda literal: literal["fields"].update({"13": ("date", "n", 4.0, 0)}), "fields 13: length"),
    ("iso87_ascii", lambda literal: literal.update(framing=("binary2", 4096.5)), "framing"),
    ("iso87_ascii", lambda literal: literal.update(coding=["text"]), "coding: a dict"),
    ("iso87_ascii", lambda literal: literal.update(network_rule=["70"]), "network_rule: a dict"),
    ("unionpay_pos", lambda literal: literal.update(header=("tpdu", "60" * 300)), "header"),
    ("iso87_ascii", lambda literal: literal.update({f"key{at}": 1 for at in range(90)}), "and 85 unknown keys more"),
    ("iso93_ascii", lambda literal: literal["messages"]["void"][3].update({"56": "{answer_2}"}), "field 2 is never taken from an answer"),
    ("iso93_ascii", lambda literal: literal["messages"]["void"][3].update({"56": "{original_rrn:0x}"}), "not a template"),
]


@pytest.mark.parametrize(("name", "change", "says"), BAD)
def test_what_cannot_be_said_is_named(name: str, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    told = found(changed(name, change))
    assert any(says in fault for fault in told), told
    assert len(told) <= 12, "one fault is told once and not for each message"


def test_what_the_trial_says_is_what_the_switch_says() -> None:
    """Its sample has the fields of a real request, and its names are those of templates, with nothing to spare."""
    for name in sorted(LITERALS):
        dialect = load(name)
        verb, rule = next((verb, rule) for verb, rule in dialect.messages.items() if verb.startswith("purchase."))
        row = rows.transaction(mti=rule.mti, processing_code=rule.fixed["3"], pos_condition=rule.fixed.get("25", "00"))
        acquirer = ACQUIRER._replace(dialect=dialect, institution_code="12345678", message_mode=verb.partition(".")[2])
        made = translation.request(order(), row, acquirer, MERCHANT, STORE)
        tried = next(trial._messages(dialect, verb, rule, "12345678"))
        assert set(made) <= set(tried) and set(tried) - set(made) <= {"23", "35", "43", "52", "54", "55", *dialect.with_pin}, name
        assert set(VALUES) == set(trial.names(dialect, rule, "")) == set(NAMES), name


def test_what_follows_a_request_is_tried_with_the_institution_that_it_has() -> None:
    house = load("iso87_ascii")
    for verb in ("capture", "reversal"):
        tried = next(trial._messages(house, verb, house.messages[verb], "12345678"))
        assert tried["32"] == "12345678"
        assert "32" not in next(trial._messages(house, verb, house.messages[verb], ""))


def test_a_dialect_with_templates_in_its_messages_alone_is_not_of_the_house() -> None:
    literal = changed("iso87_ascii", lambda literal: literal["messages"].update({"void": (*literal["messages"]["void"], {"63": "V{stan}"})}))
    assert not build(literal).house and load("iso87_ascii").house
    assert soundness.faults(dialects.build(literal)) == []
