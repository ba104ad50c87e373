"""Days in bodies and queries: YYYY-MM-DD and nothing else; instants in queries: RFC 3339, or a day for its beginning."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from switch.errors import Problem

PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
DAY = re.compile(PATTERN.replace("$", r"\Z"), re.ASCII)
BEGINNING = re.compile(PATTERN.removesuffix("$"), re.ASCII)
RULE = "A day that exists, as YYYY-MM-DD"


def _checked(value: Any) -> date:
    found = _day(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("day", RULE)
    return found


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if DAY.fullmatch(text) else None
    except ValueError:
        return None


def _dated(value: Any) -> Any:
    """A bare number is no time, although it could be read as seconds since 1970."""
    if isinstance(value, str) and not BEGINNING.match(value):
        raise PydanticCustomError("instant", "The time must be RFC 3339")
    return value


def _in_utc(at: datetime) -> datetime:
    """Without an offset it is UTC."""
    at = in_range(at)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def in_range(at: datetime) -> datetime:
    """In every zone, and a day earlier or later, it is still a time."""
    if not 1 < at.year < 9999:
        raise PydanticCustomError("instant", "The time must be of the years 2 to 9998")
    return at


Moment = Annotated[datetime, BeforeValidator(_dated), AfterValidator(_in_utc)]
Day = Annotated[date, PlainValidator(_checked), WithJsonSchema({"type": "string", "pattern": PATTERN})]
DayText = Annotated[str | None, Query(pattern=PATTERN)]
From = Annotated[Moment | None, Query(alias="from", description="At or after this instant, RFC 3339. A day alone is its beginning in UTC, "
                                      "and a time without an offset is UTC: say the offset of your zone, as 2026-11-28T00:00:00%2B08:00.")]
To = Annotated[Moment | None, Query(alias="to", description="Before this instant, which is not included; written as `from`.")]
FirstDay = Annotated[DayText, Query(alias="from", description="The first business date, included.")]
LastDay = Annotated[DayText, Query(alias="to", description="The last business date, included.")]


def day_of(name: str, text: str | None) -> date | None:
    """The day of a query's parameter. Raises Problem invalid."""
    found = None if text is None else _day(text)
    if text is not None and found is None:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": name, "rule": RULE, "type": "day"}])
    return found


def in_order(since: date | None, until: date | None) -> None:
    """Raises Problem invalid: nothing lies between them, and an empty list would say that there is nothing."""
    if since is None or until is None or since < until:
        return
    if isinstance(since, datetime):  # `to` is not included
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": "from", "rule": "before `to`", "type": "order"}])
    if since > until:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": "from", "rule": "not after `to`", "type": "order"}])
