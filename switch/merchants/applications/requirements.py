"""Which documents an applicant needs, what stands on each, and what of it is missing, wrong or expired. Pure; the tables are the rules."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import NamedTuple

from switch.merchants.applications.numbers import credit_code_valid, resident_id_valid
from switch.settlement.payouts import banking
from switch.settlement.payouts.banking import BankAccount

COMPANY, MICRO, INDIVIDUAL = "company", "micro", "individual"
ENTITY_TYPES = (COMPANY, MICRO, INDIVIDUAL)

LICENCE, TAX, ACCOUNT, IDENTITY = "business_licence", "tax_registration", "bank_account", "representative_identity"
FOOD, DRUGS, TRAVEL = "food_licence", "drug_licence", "travel_licence"
WARN_DAYS = 30  # a document that ends so soon is told


class Needed(NamedTuple):
    """A document that is needed where all three agree; None is any."""

    kind: str
    country: str | None = None
    entities: frozenset[str] | None = None
    mccs: frozenset[str] | None = None


REGISTERED = frozenset({COMPANY, MICRO})
NEEDED: Sequence[Needed] = (
    Needed(LICENCE, entities=REGISTERED),
    Needed(TAX, entities=frozenset({COMPANY})),
    Needed(ACCOUNT), Needed(IDENTITY),
    Needed(FOOD, "CN", REGISTERED, frozenset({"5411", "5422", "5441", "5451", "5462", "5499", "5811", "5812", "5813", "5814"})),
    Needed(DRUGS, "CN", REGISTERED, frozenset({"5122", "5912"})),
    Needed(TRAVEL, "CN", REGISTERED, frozenset({"4722"})),
)
KINDS = tuple(dict.fromkeys(each.kind for each in NEEDED))
EXPIRES = frozenset({IDENTITY, FOOD, DRUGS, TRAVEL})  # these have an end; a business licence may have one

_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z ./-]{3,39}", re.ASCII)
Rule = tuple[Callable[[str], object], str]
_NAME: Rule = (lambda text: 1 <= len(text) <= 120 and text.isprintable() and text == text.strip(),
               "1 to 120 printable characters, no space at either end")
_NUMBER: Rule = (_PLAIN.fullmatch, "4 to 40 letters, digits, spaces, dots, slashes and hyphens")
_CREDIT_CODE: Rule = (credit_code_valid, "a unified social credit code of 18 characters whose check character agrees (GB 32100)")
_RESIDENT: Rule = (resident_id_valid, "a resident id of 18 characters whose date and check character agree (GB 11643)")

# What stands on a document: kind -> field -> rule, by country; "*" is every other.
FIELDS: Mapping[str, Mapping[str, Mapping[str, Rule]]] = MappingProxyType({
    LICENCE: {"CN": {"number": _CREDIT_CODE, "name": _NAME}, "*": {"number": _NUMBER, "name": _NAME}},
    TAX: {"CN": {"number": _CREDIT_CODE}, "*": {"number": _NUMBER}},
    IDENTITY: {"CN": {"number": _RESIDENT, "name": _NAME}, "*": {"number": _NUMBER, "name": _NAME}},
    **{kind: {"*": {"number": _NUMBER}} for kind in (FOOD, DRUGS, TRAVEL)},
})
ACCOUNT_FIELDS = frozenset({"holder", "country", "iban", "account_number", "bank_code", "bic"})


class Fault(NamedTuple):
    field: str
    rule: str


class Paper(NamedTuple):
    """The newest version of a document. `verdict`: accepted, refused, or None until somebody looked."""

    kind: str
    fields: Mapping[str, str]
    expires_on: date | None
    filed: bool
    verdict: str | None = None
    reason: str = ""


class Gap(NamedTuple):
    """`what`: missing, no_file, refused, expired, disagrees."""

    kind: str
    what: str
    detail: str


def needed(country: str, entity_type: str, mcc: str) -> list[str]:
    """The kinds of documents that such a business needs, in the order of the table."""
    return [each.kind for each in NEEDED if each.country in (None, country) and (each.entities is None or entity_type in each.entities)
            and (each.mccs is None or mcc in each.mccs)]


def account_of(fields: Mapping[str, str]) -> BankAccount:
    iban = fields.get("iban")
    return BankAccount(fields.get("holder", ""), iban or fields.get("account_number", ""), iban is not None, fields.get("bank_code"),
                       fields.get("bic"), fields.get("country", ""))


def faults(kind: str, country: str, fields: Mapping[str, str], expires_on: date | None, today: date) -> list[Fault]:
    """What of a document cannot be right. Repeats nothing of it."""
    found = _account_faults(fields) if kind == ACCOUNT else _field_faults(kind, country, fields)
    if expires_on is None and kind in EXPIRES:
        found.append(Fault("expires_on", "the last day on which it is good"))
    if expires_on is not None and expires_on < today:
        found.append(Fault("expires_on", "a day that is not over: bring a document that is good"))
    return found


def _field_faults(kind: str, country: str, fields: Mapping[str, str]) -> list[Fault]:
    rules = FIELDS[kind].get(country) or FIELDS[kind]["*"]
    unknown = [Fault("fields", f"only: {', '.join(rules)}")] if fields.keys() - rules.keys() else []
    return unknown + [Fault(f"fields.{name}", words) for name, (right, words) in rules.items() if name not in fields or not right(fields[name])]


def _account_faults(fields: Mapping[str, str]) -> list[Fault]:
    if fields.keys() - ACCOUNT_FIELDS:
        return [Fault("fields", f"only: {', '.join(sorted(ACCOUNT_FIELDS))}")]
    if ("iban" in fields) == ("account_number" in fields):
        return [Fault("fields.iban", "either this or account_number")]
    wrong = banking.fault(account_of(fields))
    return [] if wrong is None else [Fault(f"fields.{wrong[0]}", wrong[1])]


def gaps(country: str, entity_type: str, mcc: str, papers: Iterable[Paper], today: date) -> list[Gap]:
    """What an application still lacks, as of a day: empty when it may be submitted."""
    have = {paper.kind: paper for paper in papers}
    found: list[Gap] = []
    for kind in needed(country, entity_type, mcc):
        paper = have.get(kind)
        if paper is None:
            found.append(Gap(kind, "missing", "Upload it."))
        elif not paper.filed:
            found.append(Gap(kind, "no_file", "Its fields are there; upload its PDF, PNG or JPEG."))
        elif paper.verdict == "refused":
            found.append(Gap(kind, "refused", paper.reason))
        elif paper.expires_on is not None and paper.expires_on < today:
            found.append(Gap(kind, "expired", f"It was good until {paper.expires_on}; upload the new one."))
    return found + _disagreements(have, entity_type, country)


def _disagreements(have: Mapping[str, Paper], entity_type: str, country: str) -> list[Gap]:
    """Numbers and names that must be the same on two documents."""
    found = []
    licence, tax, account, identity = (have.get(kind) for kind in (LICENCE, TAX, ACCOUNT, IDENTITY))
    if country == "CN" and licence and tax and licence.fields["number"] != tax.fields["number"]:
        found.append(Gap(TAX, "disagrees", "Its number is not the one on the business licence."))
    owner = identity if entity_type == INDIVIDUAL else licence
    names = {paper.fields["name"] for paper in (owner, identity if entity_type == MICRO else None) if paper is not None}
    if account is not None and names and account.fields["holder"] not in names:
        found.append(Gap(ACCOUNT, "disagrees", "Its holder is not who applies: the name on "
                         + ("the identity document." if entity_type == INDIVIDUAL else "the business licence.")))
    return found
