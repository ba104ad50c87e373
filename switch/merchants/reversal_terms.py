"""An acquirer's terms for reversals: what its codes mean to one, how old one may get, how fast they leave. And for its lines."""

import json
from typing import Any, TypedDict
from uuid import UUID

from switch import acquirers
from switch.database import Connection
from switch.merchants.rules import ACQUIRER_RULES, check


class ReversalTerms(TypedDict, total=False):
    """What is given changes; None is what was not given. `reversal_codes` replaces all of the acquirer's own, {} leaves the dialect's."""

    reversal_codes: dict[str, str] | None  # DE39 -> acknowledged, not_found, retry, park
    reversal_max_age_s: int | None
    reversals_per_second: int | None  # of all workers together
    reversals_at_once: int | None  # of all workers together
    reversal_first: bool | None
    max_links: int | None  # over all workers; 0 = each worker has its own
    reroute_codes: list[str] | None  # DE39 of declined requests after which another acquirer may be asked; [] for none
    sign_on: bool | None  # True: every worker signs its line on again


SET = """UPDATE acquirer SET reversal_codes = coalesce($2::jsonb, reversal_codes), reversal_max_age_s = coalesce($3, reversal_max_age_s),
reversals_per_second = coalesce($4, reversals_per_second), reversals_at_once = coalesce($5, reversals_at_once),
reversal_first = coalesce($6, reversal_first), max_links = coalesce($7, max_links),
sign_on_at = CASE WHEN $8 THEN now() ELSE sign_on_at END, reroute_codes = coalesce($9::text[], reroute_codes) WHERE acquirer_id = $1"""


def check_terms(terms: ReversalTerms) -> None:
    """Raises Problem invalid with every term that breaks its rule."""
    check(ACQUIRER_RULES, **terms)


def dialect_faults(name: str, message_mode: str, reversal_first: bool | None) -> list[tuple[str, str]]:
    """What of a new acquirer its dialect has no words for."""
    try:
        unsound = acquirers.unsound(name)
    except LookupError:
        return [("dialect", "the name of a dialect that this release speaks")]
    if unsound:
        return [("dialect", f"a sound one: {unsound}; see switch dialect check, mend the file, start anew")]
    dialect = acquirers.load(name)
    other = "dual" if message_mode == "single" else "single"
    silent = f"purchase.{message_mode}" not in dialect.messages and f"purchase.{other}" in dialect.messages
    unsaid = [("message_mode", f"{other}: {name} has no sales of {message_mode} messages")] if silent else []
    return unsaid + first_faults(reversal_first, dialect.reversal_first)


def first_faults(asked: bool | None, in_force: bool) -> list[tuple[str, str]]:
    return [("reversal_first", "true: the hosts of this dialect want it")] if asked is False and in_force else []


async def set_terms(connection: Connection, acquirer_id: UUID, terms: ReversalTerms) -> None:
    """In the caller's transaction; nothing given, nothing written."""
    if any(value is not None for value in terms.values()):
        codes = terms.get("reversal_codes")
        await connection.execute(SET, acquirer_id, None if codes is None else json.dumps(codes), terms.get("reversal_max_age_s"),
                                 terms.get("reversals_per_second"), terms.get("reversals_at_once"), terms.get("reversal_first"),
                                 terms.get("max_links"), terms.get("sign_on"), terms.get("reroute_codes"))


def read_terms(values: dict[str, Any]) -> dict[str, Any]:
    """The row with its codes as a mapping, and what is in force: a dialect whose host wants reversals first cannot be told otherwise."""
    first = values["reversal_first"] or acquirers.load(values["dialect"]).reversal_first
    return {**values, "reversal_codes": json.loads(values["reversal_codes"]), "reversal_first": first}
