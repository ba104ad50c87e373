"""Timers nest: whoever waits waits longer than what it waits for. One check, at the start and at every change. Pure."""

from typing import NamedTuple

SEND_WITHIN_S = 2.0  # of the request: later nothing may leave (send_not_after); less when the answer timeout is short
HTTP_MARGIN_S = 2.0  # on top of the acquirer's time and the commit budget
TERMINAL_S = 45.0  # how long terminals are advised to wait (docs/terminal-guide.md)
GRACE_MIN_S = 0.2  # between the last moment at which an original may leave and its reversal: it must have arrived


class Limits(NamedTuple):
    """What this process grants, whoever the acquirer. Seconds."""

    commit_budget_s: float = 3.0
    http_deadline_s: float = 35.0
    terminal_s: float = TERMINAL_S


class Lease(NamedTuple):
    """A worker's lease: how long it holds, how long its holder trusts it, how often it is renewed. Seconds."""

    holds_s: float
    trusted_s: float
    renewed_s: float


def send_within(answer_timeout_s: float) -> float:
    """How long after the request its message may still leave: always before the answer is given up."""
    return min(SEND_WITHIN_S, answer_timeout_s * 0.75)


def http_deadline(answer_timeout_s: float, commit_budget_s: float) -> float:
    """When the terminal is answered at the latest, whatever happens."""
    return answer_timeout_s + commit_budget_s + HTTP_MARGIN_S


def acquirer_faults(answer_timeout_s: float, reversal_grace_s: float, limits: Limits) -> list[tuple[str, str]]:
    """(field, sentence) for each rule that an acquirer's timers break."""
    found, commit, http = [], limits.commit_budget_s, limits.http_deadline_s
    if http_deadline(answer_timeout_s, commit) > http:
        found.append(("answer_timeout_ms", f"the answer timeout of {answer_timeout_s:g} s, the commit budget of {commit:g} s and a margin of "
                      f"{HTTP_MARGIN_S:g} s do not fit into the HTTP deadline of {http:g} s: at most {http - commit - HTTP_MARGIN_S:g} s"))
    if reversal_grace_s < GRACE_MIN_S:
        found.append(("reversal_grace_ms", f"the reversal grace of {reversal_grace_s:g} s is less than the {GRACE_MIN_S:g} s that an original may "
                      "need to arrive before its reversal"))
    return found


def worker_faults(limits: Limits, lease: Lease) -> list[str]:
    """One sentence for each rule that this process' own timers break."""
    found, commit, http = [], limits.commit_budget_s, limits.http_deadline_s
    if http > limits.terminal_s:
        found.append(f"the HTTP deadline of {http:g} s is more than the {limits.terminal_s:g} s that terminals wait; set SWITCH_HTTP_DEADLINE lower")
    if commit + HTTP_MARGIN_S >= http:
        found.append(f"the commit budget of {commit:g} s and a margin of {HTTP_MARGIN_S:g} s leave no time for an acquirer within the HTTP deadline "
                     f"of {http:g} s; set SWITCH_COMMIT_BUDGET lower or SWITCH_HTTP_DEADLINE higher")
    if not lease.holds_s > lease.trusted_s > lease.renewed_s > 0:
        found.append(f"a lease of {lease.holds_s:g} s must last longer than it is trusted ({lease.trusted_s:g} s), and that longer than the time "
                     f"between two renewals ({lease.renewed_s:g} s)")
    elif lease.holds_s - lease.trusted_s < SEND_WITHIN_S:
        found.append(f"a message may leave for {SEND_WITHIN_S:g} s after the end of trust ({lease.trusted_s:g} s), and the lease ends at "
                     f"{lease.holds_s:g} s: make it longer")
    return found
