"""Days in bodies and queries: YYYY-MM-DD and nothing else."""

import re
from datetime import date
from typing import Annotated, Any

from fastapi import Query
from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from switch.errors import Problem

PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
DAY = re.compile(PATTERN.replace("$", r"\Z"), re.ASCII)
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


Day = Annotated[date, PlainValidator(_checked), WithJsonSchema({"type": "string", "pattern": PATTERN})]
DayText = Annotated[str | None, Query(pattern=PATTERN)]


def day_of(name: str, text: str | None) -> date | None:
    """The day of a query's parameter. Raises Problem invalid."""
    found = None if text is None else _day(text)
    if text is not None and found is None:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": name, "rule": RULE, "type": "day"}])
    return found
