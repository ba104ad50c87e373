"""When a sale may be tried at another acquirer under its key. Pure.

Only when nothing of it can stand where it was tried: no byte of it left (Bounced), or the host declined it with a code that the acquirer's
record or its dialect names. Silence, a lost line, doubt and an unknown code never allow it: those are reversed.
"""

from collections.abc import Container

from switch.links import Bounced, Reply, Silence
from switch.payments.transaction import DECLINED, NOT_SENT, Transaction

ATTEMPTS_MAX = 3
# Too late is too late for everybody, and a worker without its lease may send to nobody.
BOUNCES = frozenset({"line_down", "window_full", "draining", "duplicate_key", "not_encodable"})
LEAST_S = 0.1  # for the commit of the next attempt, before it may not leave any more
SUPERSEDED = "ask_again"  # advice on an attempt that another one followed: the key tells


def cause(transaction: Transaction, result: Reply | Bounced | Silence, codes: Container[str]) -> str:
    """Why another acquirer may be asked, "" when none may be."""
    if isinstance(result, Bounced) and transaction.state == NOT_SENT and result.reason in BOUNCES:
        return result.reason
    if isinstance(result, Reply) and transaction.state == DECLINED and transaction.response_code in codes:
        return f"code_{transaction.response_code}"
    return ""


def superseded(transaction: Transaction) -> bool:
    """Whether another attempt may have followed it."""
    return transaction.outcome in (DECLINED, NOT_SENT) and transaction.advice == SUPERSEDED and transaction.original_id is None
