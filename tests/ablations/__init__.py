"""Ablations: each takes one safeguard out of a copy of the tree; the one test it names must then go red. A check that never failed proves nothing.

One file per safeguard, `<name>.toml`: `why` (what the safeguard is for), `test` (a node id), `quick = true` for those that `make test` runs,
and `[[change]]` tables with `file`, `old` (a text that stands in the file exactly once) and `new`.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# The safeguards, in the order of a payment's way. What is not built yet stands here with what would have to exist first.
SAFEGUARDS = (
    "no_unique_index_on_the_key", "claim_by_select_then_insert", "no_version_in_the_compare_and_set", "send_before_the_intent_commits",
    "answer_before_the_outcome_commits", "commits_that_are_not_flushed", "an_error_on_commit_read_as_a_failure", "no_send_not_after",
    "reversal_at_once_without_grace", "recovery_ignores_leases", "lease_by_the_wall_clock_of_the_worker", "duty_deleted", "no_repeat_mti",
    "answer_matched_by_stan_only", "amount_not_compared", "breaker_counts_declines", "another_try_after_unknown", "reversal_dated_anew",
    "business_date_from_midnight", "stan_block_without_open_check", "first_answer_not_kept", "fingerprint_without_amount",
    "default_422_handler", "plain_json_loads", "merchant_left_out_of_a_query", "row_level_security_off", "log_denylist",
    "seal_without_its_place", "audit_chain_without_anchor", "one_lane_for_intents_and_outcomes", "shed_after_the_intent",
)
NOT_BUILT = {
    "row_level_security_off": "no table has row-level security; the merchant is a condition of each query",
    "audit_chain_without_anchor": "there is no audit chain",
}


class Change(NamedTuple):
    file: str
    old: str
    new: str


class Ablation(NamedTuple):
    name: str
    why: str
    test: str
    quick: bool
    changes: tuple[Change, ...]


def ablations() -> list[Ablation]:
    """All, those of SAFEGUARDS first and in its order."""
    found = {}
    for path in sorted(HERE.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        changes = tuple(Change(**change) for change in table["change"])
        found[path.stem] = Ablation(path.stem, table["why"], table["test"], table.get("quick", False), changes)
    ordered = [name for name in SAFEGUARDS if name in found]
    return [found[name] for name in [*ordered, *(name for name in found if name not in ordered)]]


def applied(ablation: Ablation, root: Path = ROOT) -> dict[str, str]:
    """The changed files' new texts. Raises LookupError that says which text is no longer there exactly once."""
    texts: dict[str, str] = {}
    for file, old, new in ablation.changes:
        try:
            text = texts[file] if file in texts else (root / file).read_text(encoding="utf-8")
        except OSError:
            raise LookupError(f"{file} is not there any more") from None
        if text.count(old) != 1:
            raise LookupError(f"{file} holds {text.count(old)} times: {old.strip()[:100]}")
        texts[file] = text.replace(old, new)
    return texts
