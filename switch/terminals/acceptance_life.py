"""The life of an acceptance test: one table; the database holds the same steps (migrations r0027, STEPS). Pure."""

from switch.life import Life

OPEN, RUNNING, PASSED, FAILED, REPEATED, CANCELLED = "open", "running", "passed", "failed", "repeated", "cancelled"

# (state, event) -> state. While it is running its till sells; `repeat` opens the next test.
LIFE = Life("A test", "acceptance_move", {
    (OPEN, "begin"): RUNNING, (OPEN, "cancel"): CANCELLED,
    (RUNNING, "pass"): PASSED, (RUNNING, "fail"): FAILED, (RUNNING, "cancel"): CANCELLED,
    (FAILED, "repeat"): REPEATED,
})
