"""The first answer of a sale, from its row alone."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from rows import transaction

from switch.api import answers
from switch.payments.transaction import Transaction

NOON = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)


def told(**changes: Any) -> Any:
    row = transaction(state="APPROVED", outcome="APPROVED", version=2, response_code="00", approved_amount=1000, **changes)
    return orjson.loads(answers.first(row)[1])


@pytest.mark.parametrize(("at", "written"), [
    (NOON, "2026-11-27T12:00:00.000000Z"), (NOON.replace(microsecond=1), "2026-11-27T12:00:00.000001Z"),
    (NOON.replace(microsecond=120_000), "2026-11-27T12:00:00.120000Z"), (NOON.replace(microsecond=999_999), "2026-11-27T12:00:00.999999Z"),
    (NOON.replace(microsecond=5, tzinfo=timezone(timedelta(0), "of a driver")), "2026-11-27T12:00:00.000005Z"),
])
def test_times_have_six_places_whoever_writes_them(at: datetime, written: str) -> None:
    assert answers.stamp(at) == written
    body = told(received_at=at, outcome_at=at)
    assert (body["created_at"], body["server_time"]) == (written, written)


def test_a_blank_row_has_every_default_of_a_row_and_nothing_else() -> None:
    whole, blank = transaction(), Transaction.blank()
    given = {name for name in Transaction.__slots__ if getattr(blank, name) != getattr(whole, name)}
    assert all(getattr(blank, name) is None for name in given)
    assert {"amount", "stan", "pan_sealed", "received_at"} <= given and not {"state", "version", "reserved"} & given
