"""When a sale may be tried at another acquirer: never unless nothing of it can stand where it was tried."""

from datetime import UTC, datetime

import pytest
import rows

from switch.links import Bounced, Reply, Silence
from switch.payments.rerouting import cause
from switch.payments.transaction import STATUS

AT = datetime(2026, 11, 26, tzinfo=UTC)
CODES = frozenset({"91", "92"})
ANSWER = Reply({"39": "91"}, AT, AT)


@pytest.mark.parametrize(("result", "state", "code", "why"), [
    (Bounced("line_down"), "NOT_SENT", None, "line_down"), (Bounced("window_full"), "NOT_SENT", None, "window_full"),
    (Bounced("draining"), "NOT_SENT", None, "draining"), (Bounced("duplicate_key"), "NOT_SENT", None, "duplicate_key"),
    (Bounced("not_encodable"), "NOT_SENT", None, "not_encodable"),
    (Bounced("too_late"), "NOT_SENT", None, ""), (Bounced("lease_lost"), "NOT_SENT", None, ""),
    (ANSWER, "DECLINED", "91", "code_91"), (ANSWER, "DECLINED", "92", "code_92"), (ANSWER, "DECLINED", "51", ""), (ANSWER, "DECLINED", None, ""),
    (Silence("timeout", AT), "REVERSING", None, ""), (Silence("line_lost", AT), "REVERSING", None, ""),
])
def test_only_what_was_never_sent_or_was_declined_by_a_named_code(result: Reply | Bounced | Silence, state: str, code: str | None, why: str) -> None:
    assert cause(rows.transaction(state=state, response_code=code), result, CODES) == why


@pytest.mark.parametrize("state", [state for state in STATUS if state not in ("DECLINED", "NOT_SENT")])
@pytest.mark.parametrize("result", [ANSWER, Bounced("line_down"), Silence("timeout", AT)], ids=lambda each: type(each).__name__)
def test_a_code_that_is_named_by_mistake_allows_nothing_that_might_stand(state: str, result: Reply | Bounced | Silence) -> None:
    """An acquirer's record may name any code: an approval, a doubt, a reversal is never tried again."""
    assert cause(rows.transaction(state=state, response_code="91"), result, CODES) == ""
