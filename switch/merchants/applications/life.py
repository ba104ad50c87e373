"""An application's life. Pure: all that changes its state is in LIFE; the database holds the same steps (migrations r0022, STEPS)."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from switch.life import Life

DRAFT, SUBMITTED, IN_REVIEW, MORE_WANTED = "draft", "submitted", "in_review", "more_wanted"
APPROVED, REFUSED, WITHDRAWN = "approved", "refused", "withdrawn"

# (state, event) -> state. `pass` is the rules' own word about an individual; the applicant's are submit and withdraw; the others are reviewers'.
LIFE = Life("An application", "application_move", {
    (DRAFT, "submit"): SUBMITTED, (MORE_WANTED, "submit"): SUBMITTED,
    (SUBMITTED, "pass"): APPROVED,
    (SUBMITTED, "take"): IN_REVIEW, (IN_REVIEW, "take_over"): IN_REVIEW,  # from a colleague who is away
    (IN_REVIEW, "ask_more"): MORE_WANTED,
    (IN_REVIEW, "approve"): APPROVED,
    (IN_REVIEW, "refuse"): REFUSED, (MORE_WANTED, "refuse"): REFUSED,
    **{(state, "withdraw"): WITHDRAWN for state in (DRAFT, SUBMITTED, IN_REVIEW, MORE_WANTED)},
})
BY_APPLICANT = frozenset({"submit", "withdraw"})
DECISIONS = frozenset({"approve", "refuse", "ask_more"})
OPEN_TO_APPLICANT = frozenset({DRAFT, MORE_WANTED})  # may change its profile and documents
CLOSED = frozenset({APPROVED, REFUSED, WITHDRAWN})

# Whose turn it is in a state, and how long that may take.
WAITS_FOR: Mapping[str, str] = MappingProxyType({DRAFT: "applicant", MORE_WANTED: "applicant", SUBMITTED: "reviewer", IN_REVIEW: "reviewer"})
TIME: Mapping[str, timedelta] = MappingProxyType({DRAFT: timedelta(days=90), MORE_WANTED: timedelta(days=30), SUBMITTED: timedelta(days=2),
                                                  IN_REVIEW: timedelta(days=5)})
