"""Applications' pure rules: the life, check digits, requirements, score and the light path."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations.versions import r0022_applications
from switch.api import applications as api
from switch.merchants.applications import life, requirements, scoring
from switch.merchants.applications.life import BY_APPLICANT, CLOSED, DECISIONS, LIFE, TIME, WAITS_FOR
from switch.merchants.applications.numbers import CREDIT_CODE_SIGNS, age, born, credit_code_valid, resident_id_valid
from switch.merchants.applications.requirements import ACCOUNT, FIELDS, IDENTITY, KINDS, LICENCE, TAX, Paper, faults, gaps, needed
from switch.merchants.applications.scoring import LIGHT, RULES, Facts, by_two, light, reasons, score

TODAY = date(2026, 11, 26)
# Published: in GB 32100's and GB 11643's own examples or registers that everybody can read.
CODES = ("91110000600037341L", "9144030071526726XG", "914403001922038216", "91330100799655058B")
IDS = ("11010519491231002X", "34052419800101001X")


def test_the_database_holds_the_same_steps() -> None:
    assert set(r0022_applications.STEPS) == {f"{was}>{state}" for (was, _), state in LIFE.items()}
    assert len(set(r0022_applications.STEPS)) == len(r0022_applications.STEPS)
    assert set(r0022_applications.STATES.replace("'", "").split(", ")) == set(LIFE.states) == set(api.State.__args__)  # type: ignore[attr-defined]
    assert set(r0022_applications.KINDS.replace("'", "").split(", ")) == set(KINDS) == set(api.Kind.__args__)  # type: ignore[attr-defined]


def test_every_other_move_is_refused_with_what_is_possible() -> None:
    for state in LIFE.states:
        for event in LIFE.events:
            refused = LIFE.refusal(state, event)
            assert (refused is None) == ((state, event) in LIFE)
            if refused is not None:
                assert refused.code == "application_move" and all(able in refused.detail for at, able in LIFE if at == state)
                with pytest.raises(LookupError):
                    LIFE[state, event]


def test_what_is_closed_stays_closed_and_anything_else_waits_for_somebody_with_an_end() -> None:
    assert {state for state in LIFE.states if not any(at == state for at, _ in LIFE)} == CLOSED
    assert set(WAITS_FOR) == set(TIME) == set(LIFE.states) - CLOSED
    assert BY_APPLICANT | DECISIONS | {"pass", "take", "take_over"} == LIFE.events and {at for at, event in LIFE if event == "submit"} == life.OPEN_TO_APPLICANT


@pytest.mark.parametrize("code", CODES)
def test_a_credit_code_with_one_sign_changed_is_none(code: str) -> None:
    assert credit_code_valid(code)
    for at in range(18):
        for sign in CREDIT_CODE_SIGNS:
            assert credit_code_valid(code[:at] + sign + code[at + 1:]) == (sign == code[at])


@pytest.mark.parametrize("ident", IDS)
def test_a_resident_id_with_one_sign_changed_is_none(ident: str) -> None:
    assert resident_id_valid(ident)
    for at in range(18):
        for sign in "0123456789X":
            assert resident_id_valid(ident[:at] + sign + ident[at + 1:]) == (sign == ident[at])


@given(st.text(max_size=20))
def test_any_text_is_judged_without_a_fault(text: str) -> None:
    assert isinstance(credit_code_valid(text), bool) and isinstance(resident_id_valid(text), bool)


def test_dates_of_birth_and_ages() -> None:
    assert born(IDS[0]) == date(1949, 12, 31) and born("11010519491331002X") is None and born("") is None
    assert [age(date(2008, 11, 27), TODAY), age(date(2008, 11, 26), TODAY)] == [17, 18]


@pytest.mark.parametrize(("country", "entity", "mcc", "kinds"), [
    ("CN", "company", "5462", "business_licence tax_registration bank_account representative_identity food_licence"),
    ("CN", "micro", "5912", "business_licence bank_account representative_identity drug_licence"),
    ("CN", "individual", "5462", "bank_account representative_identity"), ("DE", "company", "5462", "business_licence tax_registration bank_account representative_identity"),
    ("CN", "company", "4722", "business_licence tax_registration bank_account representative_identity travel_licence"),
])
def test_what_is_needed(country: str, entity: str, mcc: str, kinds: str) -> None:
    assert needed(country, entity, mcc) == kinds.split()


def test_every_kind_has_fields_for_every_country() -> None:
    assert {*FIELDS, ACCOUNT} == set(KINDS) and all("*" in each for each in FIELDS.values())


WHOLE = {LICENCE: Paper(LICENCE, {"number": CODES[0], "name": "港湾"}, None, True), TAX: Paper(TAX, {"number": CODES[0]}, None, True),
         ACCOUNT: Paper(ACCOUNT, {"holder": "港湾", "country": "CN", "account_number": "100123", "bank_code": "102"}, None, True),
         IDENTITY: Paper(IDENTITY, {"number": IDS[0], "name": "王芳"}, date(2030, 1, 1), True)}


@pytest.mark.parametrize(("kind", "changed", "what"), [
    (LICENCE, None, "missing"), (LICENCE, {"filed": False}, "no_file"), (LICENCE, {"verdict": "refused", "reason": "Cut"}, "refused"),
    (IDENTITY, {"expires_on": date(2026, 11, 25)}, "expired"), (TAX, {"fields": {"number": CODES[1]}}, "disagrees"),
    (ACCOUNT, {"fields": {"holder": "王芳", "country": "CN", "account_number": "100123", "bank_code": "102"}}, "disagrees"),
])
def test_each_gap_is_found_alone(kind: str, changed: dict[str, Any] | None, what: str) -> None:
    assert gaps("CN", "company", "5999", WHOLE.values(), TODAY) == []
    papers = {**WHOLE, kind: WHOLE[kind]._replace(**changed)} if changed is not None else {each: paper for each, paper in WHOLE.items() if each != kind}
    assert [(gap.kind, gap.what) for gap in gaps("CN", "company", "5999", papers.values(), TODAY)] == [(kind, what)]


def test_a_document_is_good_on_its_last_day() -> None:
    for day, expired in ((date(2030, 1, 1), False), (date(2030, 1, 2), True)):
        assert bool(gaps("CN", "company", "5999", WHOLE.values(), day)) is expired
        assert bool(faults(IDENTITY, "CN", {"number": IDS[0], "name": "王芳"}, date(2030, 1, 1), day)) is expired


def test_a_micro_business_is_paid_to_itself_or_its_owner_and_to_nobody_else() -> None:
    for holder, right in (("港湾", True), ("王芳", True), ("李娜", False)):
        account = WHOLE[ACCOUNT]._replace(fields={**WHOLE[ACCOUNT].fields, "holder": holder})
        assert (gaps("CN", "micro", "5999", {**WHOLE, ACCOUNT: account}.values(), TODAY) == []) is right


SOUND = Facts("individual", "5999", "CNY", 1_000_000, 4500, 3, 0, 0, 30, date(2030, 1, 1), 0, 0, 2)


def test_nothing_counts_for_a_plain_application_and_it_passes() -> None:
    assert reasons(SOUND, TODAY) == [] and score([]) == 100 and by_two(SOUND, 100) == [] and light(SOUND, 100) == []


@pytest.mark.parametrize(("changed", "rule"), [
    ({"mcc": "7995"}, "high_risk_business"), ({"others_refused": 1}, "refused_before"), ({"others": 2}, "several_applications"), ({"years_in_business": 0}, "new_business"),
    ({"years_in_business": 5}, "known_business"), ({"average_ticket": 100_001}, "few_large_sales"), ({"age": 17}, "young"), ({"first_expiry": date(2026, 12, 26)}, "document_ends_soon"),
    ({"monthly_volume": 100_000_000}, "large_volume"),
])
def test_each_rule_counts_alone_with_its_points(changed: dict[str, Any], rule: str) -> None:
    found = reasons(SOUND._replace(**changed), TODAY)
    (points,) = [each.points for each in RULES if each.name == rule]
    assert [(each.rule, each.points) for each in found] == [(rule, points)] and score(found) == max(0, min(100, 100 + points))


def test_every_rule_of_the_table_is_shown_above() -> None:
    (mark,) = [mark for mark in test_each_rule_counts_alone_with_its_points.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert sorted(rule for _, rule in mark.args[1]) == sorted(rule.name for rule in RULES)


@pytest.mark.parametrize("changed", [{"entity_type": "micro"}, {"currency": "EUR"}, {"monthly_volume": LIGHT["CNY"].per_month + 1}, {"gaps": 1}, {"age": None}, {"age": 17},
                                     {"mcc": "7995"}, {"others": 1}])
def test_each_check_of_the_light_path_stops_alone(changed: dict[str, Any]) -> None:
    assert len(light(SOUND._replace(**changed), 100)) == 1
    assert light(SOUND, 69) and not light(SOUND, 70)


def test_two_people_decide_from_the_limit_on_below_the_score_and_in_a_currency_without_a_limit() -> None:
    for facts, points, two in ((SOUND, 70, False), (SOUND, 69, True), (SOUND._replace(monthly_volume=99_999_999), 100, False),
                               (SOUND._replace(monthly_volume=100_000_000), 100, True), (SOUND._replace(currency="JPY"), 100, True)):
        assert bool(by_two(facts, points)) is two
    assert all(limits.per_sale <= limits.per_day <= limits.per_month for limits in LIGHT.values()) and requirements.INDIVIDUAL == "individual" == scoring.INDIVIDUAL
