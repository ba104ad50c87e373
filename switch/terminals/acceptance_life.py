"""The life of an acceptance test: one table; the database holds the same steps (migrations r0027, STEPS). Pure."""

from collections.abc import Mapping
from types import MappingProxyType

from switch.terminals.lifecycle import Refusal

OPEN, RUNNING, PASSED, FAILED, REPEATED, CANCELLED = "open", "running", "passed", "failed", "repeated", "cancelled"

# (state, event) -> state. While it is running its till sells; `repeat` opens the next test.
LIFE: Mapping[tuple[str, str], str] = MappingProxyType({
    (OPEN, "begin"): RUNNING, (OPEN, "cancel"): CANCELLED,
    (RUNNING, "pass"): PASSED, (RUNNING, "fail"): FAILED, (RUNNING, "cancel"): CANCELLED,
    (FAILED, "repeat"): REPEATED,
})
STATES = tuple(dict.fromkeys([OPEN, *LIFE.values()]))
EVENTS = frozenset(event for _, event in LIFE)


def refusal(state: str, event: str) -> Refusal | None:
    """Why `event` may not come in `state`, or None."""
    if (state, event) in LIFE:
        return None
    allowed = sorted(event for at, event in LIFE if at == state)
    can = f"it can: {', '.join(allowed)}" if allowed else "nothing follows"
    return Refusal("acceptance_move", f"A test that is {state} cannot {event}; {can}.")
