"""What is asked of an application before somebody or the rules decide: a score with its reasons, and an individual's light path. Pure."""

from collections.abc import Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import NamedTuple

from switch.merchants.applications.requirements import INDIVIDUAL

BASE, SECOND_PERSON_BELOW = 100, 70
# Expected monthly volume, in minor units, from which two people decide, by currency; of another currency two people always do.
SECOND_PERSON_FROM: Mapping[str, int] = MappingProxyType({"CNY": 100_000_000, "HKD": 100_000_000, "EUR": 12_500_000, "USD": 12_500_000,
                                                "GBP": 12_500_000})
HIGH_RISK_MCCS = frozenset({"4829", "5933", "5966", "5967", "5993", "6012", "6051", "6211", "7273", "7995"})
ADULT = 18


class Limits(NamedTuple):
    """Minor units."""

    per_sale: int
    per_day: int
    per_month: int


# What an individual may take until somebody has looked; without a row here nobody passes by rules alone.
LIGHT: Mapping[str, Limits] = MappingProxyType({"CNY": Limits(100_000, 500_000, 5_000_000), "HKD": Limits(100_000, 500_000, 5_000_000)})


class Facts(NamedTuple):
    """`others`: further applications that name the same numbers; `others_refused`: of those, refused ones. `age`: of the legal representative,
    None when it is not known. `first_expiry`: of the documents. Amounts are minor units."""

    entity_type: str
    mcc: str
    currency: str
    monthly_volume: int
    average_ticket: int
    years_in_business: int
    others: int
    others_refused: int
    age: int | None
    first_expiry: date | None
    gaps: int
    documents_accepted: int
    documents: int


class Reason(NamedTuple):
    points: int
    rule: str
    words: str


class Rule(NamedTuple):
    """Counts when the fact is in [low, high]; None is no bound. A fact that is not known counts nothing."""

    name: str
    fact: str
    low: int | None
    high: int | None
    points: int
    words: str


# Facts of the rules: those of Facts that are whole numbers, and what `_measured` adds.
RULES: Sequence[Rule] = (
    Rule("high_risk_business", "high_risk", 1, None, -30, "The kind of business is one with many disputes"),
    Rule("refused_before", "others_refused", 1, None, -40, "The same licence, account or identity was refused before"),
    Rule("several_applications", "others", 2, None, -15, "The same licence, account or identity is named in several applications"),
    Rule("new_business", "years_in_business", None, 0, -15, "In business for less than a year"),
    Rule("known_business", "years_in_business", 5, None, 10, "In business for five years or longer"),
    Rule("few_large_sales", "sales_a_month", None, 9, -10, "Fewer than ten sales a month carry the expected volume"),
    Rule("young", "age", None, ADULT - 1, -100, "The legal representative is not of age"),
    Rule("document_ends_soon", "days_left", None, 30, -10, "A document ends within 30 days"),
    Rule("large_volume", "large", 1, None, -10, "The expected volume is one that two people decide about"),
)


def _measured(facts: Facts, today: date) -> Mapping[str, int | None]:
    return {"high_risk": int(facts.mcc in HIGH_RISK_MCCS), "others_refused": facts.others_refused, "others": facts.others,
            "years_in_business": facts.years_in_business, "sales_a_month": facts.monthly_volume // max(1, facts.average_ticket), "age": facts.age,
            "days_left": None if facts.first_expiry is None else (facts.first_expiry - today).days, "large": int(_large(facts))}


def _large(facts: Facts) -> bool:
    return facts.monthly_volume >= SECOND_PERSON_FROM.get(facts.currency, 0)


def reasons(facts: Facts, today: date) -> list[Reason]:
    """Every rule that counts, with its points."""
    measured = _measured(facts, today)
    found = []
    for rule in RULES:
        value = measured[rule.fact]
        if value is not None and (rule.low is None or value >= rule.low) and (rule.high is None or value <= rule.high):
            found.append(Reason(rule.points, rule.name, rule.words))
    return found


def score(given: Sequence[Reason]) -> int:
    """0 to 100."""
    return max(0, min(BASE, BASE + sum(reason.points for reason in given)))


def by_two(facts: Facts, points: int) -> list[str]:
    """Why two people must agree on an approval; empty: one may."""
    why = [f"The score is below {SECOND_PERSON_BELOW}."] if points < SECOND_PERSON_BELOW else []
    return why + (["The expected monthly volume is at or above the limit of one person."] if _large(facts) else [])


def light(facts: Facts, points: int) -> list[str]:
    """Why an individual does not pass by rules alone and waits for a person; empty: it passes."""
    limits = LIGHT.get(facts.currency)
    checks = (
        (facts.entity_type == INDIVIDUAL, "Only individuals pass by rules."),
        (limits is not None, "No limits are agreed in this currency."),
        (limits is None or facts.monthly_volume <= limits.per_month, "The expected monthly volume is above the limit of the light path."),
        (facts.gaps == 0, "Something is missing or wrong."),
        (facts.age is not None and facts.age >= ADULT, "It is not shown that the applicant is of age."),
        (facts.mcc not in HIGH_RISK_MCCS, "The kind of business needs a person's look."),
        (facts.others == 0, "The same identity or account is named in another application."),
        (points >= SECOND_PERSON_BELOW, f"The score is below {SECOND_PERSON_BELOW}."),
    )
    return [words for right, words in checks if not right]
