"""Onboarding's bodies and answers: what operators send, and how a record is shown."""

import re
from dataclasses import fields
from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request
from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from switch.api.answers import stamp
from switch.api.days import in_range
from switch.api.terminal import Model, check_content, model_of, one_of_each, read_body
from switch.errors import Problem
from switch.ids import PREFIXES, read, show
from switch.merchants.catalogue import KINDS

RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def _instant(value: Any) -> datetime:
    fault = PydanticCustomError("instant", "The time must be RFC 3339 with its offset")
    if not isinstance(value, str) or not RFC3339.fullmatch(value):
        raise fault
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise fault from None
    return in_range(found)


def _day(value: Any) -> date:
    try:
        if isinstance(value, str) and DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("day", "The day must be yyyy-mm-dd")


Codes = Annotated[dict[str, str], Field(max_length=100, description="DE39 of an answered reversal: acknowledged, not_found, retry or park")]
RerouteCodes = Annotated[list[str], Field(max_length=100, description="DE39 of declined requests after which another acquirer may be asked; "
                                          "the dialect's when not given")]
Listed = Annotated[list[str], Field(max_length=100)]
Ident = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(description="1 to 120 printable characters")]
Zone = Annotated[str, Field(description="Name of the IANA time zone database")]
Instant = Annotated[datetime, PlainValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]

Day = Annotated[date, PlainValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]


class OrganisationRequest(Model):
    name: Name


class MerchantRequest(Model):
    organisation: Ident
    name: Name
    mcc: str
    time_zone: Zone = "Asia/Shanghai"
    duplicate_policy: Literal["warn", "refuse"] = "warn"
    undelivered: Literal["alert", "reverse"] = "alert"


class StoreRequest(Model):
    """The time zone is the merchant's unless given."""

    merchant: Ident
    name: Name
    city: str = ""
    country: str = "CN"
    time_zone: Zone | None = None


class NumbersRequest(Model):
    """How an acquirer knows the terminal: DE41 and DE42. They are never changed."""

    acquirer: Ident
    card_acceptor_terminal: str
    card_acceptor: str


class TerminalRequest(Model):
    """Without `numbers` the terminal gets generated ones at every acquirer, with them exactly those."""

    store: Ident
    name: Name
    numbers: Annotated[list[NumbersRequest], Field(max_length=50)] | None = None


class AcquirerRequest(Model):
    """`number_terminals` false: the acquirer gives the terminals' numbers itself. `max_links`: lines that it takes, over all workers;
    0 = each worker has its own."""

    name: Annotated[str, Field(max_length=40)]
    dialect: Annotated[str, Field(max_length=40)]
    host: str
    port: int
    message_mode: Literal["single", "dual"] = "single"
    institution_code: str | None = None
    time_zone: Zone = "UTC"
    answer_timeout_ms: int = 30_000
    reversal_grace_ms: int = 5_000
    min_in_flight: int = 16
    max_in_flight: int = 2048
    max_links: int = 0
    number_terminals: bool = True
    reversal_codes: Codes | None = None
    reversal_max_age_s: int | None = None
    reversals_per_second: int | None = None
    reversals_at_once: int | None = None
    reversal_first: bool | None = None
    reroute_codes: RerouteCodes | None = None


class RouteRequest(Model):
    """A rule: which sales may go to the acquirer. What is left out is any. The lowest priority is tried first, then the more particular rule;
    rules of one rank share by `weight`, else the cheaper one is first. Amounts are minor units of the one currency in `currencies`; times
    are the merchant's, `weekdays` 1 (Monday) to 7. Under `healthy_percent` of requests answered the rule stands behind all others."""

    acquirer: Ident
    merchant: Ident | None = None
    brand: Annotated[str, Field(max_length=40)] | None = None
    priority: int = 100
    name: Name | None = None
    bin_low: str | None = None
    bin_high: str | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    currencies: Listed | None = None
    mccs: Listed | None = None
    entry_modes: Listed | None = None
    weekdays: Annotated[list[int], Field(max_length=7)] | None = None
    time_from: str | None = None
    time_until: str | None = None
    weight: int | None = None
    cost_basis_points: int | None = None
    cost_fixed: int | None = None
    healthy_percent: int | None = None
    stores: Annotated[list[Ident], Field(max_length=100, description="Of the one merchant")] | None = None
    date_from: Day | None = None
    date_until: Day | None = None
    state: Literal["draft", "active"] = "active"


class KeyRequest(Model):
    """`terminal` for a terminal's key, `merchant` for its owner's, `store` and `person` for one of its staff's, `person` for those of ours, whose
    keys administrators give."""

    role: Literal["terminal", "merchant", "staff", "operator", "support", "reviewer", "administrator"]
    terminal: Ident | None = None
    merchant: Ident | None = None
    store: Ident | None = None
    person: Name | None = None
    expires_at: Instant | None = None


class MerchantChange(Model):
    """What is given changes. A closed merchant stays closed."""

    status: Literal["active", "suspended", "closed"] | None = None
    undelivered: Literal["alert", "reverse"] | None = None


class TerminalChange(Model):
    """A retired terminal stays retired."""

    status: Literal["active", "suspended", "retired"]


class StoreChange(Model):
    """Where it is, in millionths of a degree (31.230416 is 31230416); both null: not known."""

    latitude_e6: int | None
    longitude_e6: int | None


class AcquirerChange(Model):
    """What is given changes. Every worker's line follows the status and the address."""

    status: Literal["active", "down", "draining"] | None = None
    host: str | None = None
    port: int | None = None
    answer_timeout_ms: int | None = None
    reversal_grace_ms: int | None = None
    min_in_flight: int | None = None
    max_in_flight: int | None = None
    reversal_codes: Codes | None = None
    reversal_max_age_s: int | None = None
    reversals_per_second: int | None = None
    reversals_at_once: int | None = None
    reversal_first: bool | None = None
    max_links: int | None = None
    reroute_codes: RerouteCodes | None = None


MODELS = (OrganisationRequest, MerchantRequest, StoreRequest, NumbersRequest, TerminalRequest, AcquirerRequest, RouteRequest, KeyRequest,
          MerchantChange, StoreChange, TerminalChange, AcquirerChange)


def identified(kind: str, text: str) -> UUID:
    """Raises Problem not_found: an id of another form is as absent as one that does not exist."""
    found = read(kind, text)
    if found is None:
        raise Problem("not_found")
    return found


def _value(kind: str, value: Any) -> Any:
    if isinstance(value, UUID):
        return show(kind, value) if kind in PREFIXES else str(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list) and value and isinstance(value[0], UUID):
        return [show(kind.removesuffix("s"), part) for part in value]
    if isinstance(value, tuple):
        return [{name.removesuffix("_id"): _value(name.removesuffix("_id"), part) for name, part in each._asdict().items()} for each in value]
    return value


def shown(record: Any) -> dict[str, Any]:
    """A record as it is answered: its own id is `id`, others are named without `_id`, all with their prefix."""
    own = KINDS[type(record)].ident
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {"id" if name == own else name.removesuffix("_id"): _value(name.removesuffix("_id"), value) for name, value in values.items()}


def said(body: Any, status: int = 200) -> Response:
    return JSONResponse(body, status, {"cache-control": "no-store"})


def paged(items: list[dict[str, Any]], limit: int, ident: str = "id") -> Response:
    """One item more than `limit` was read: it tells whether there is a next page, after the item with this `ident`."""
    return said({"items": items[:limit], "next": items[limit - 1][ident] if len(items) > limit else None})


async def body_of(request: Request, model: type[Model]) -> Any:
    """The checked model of a strict JSON body. Raises Problem: json_*, content_*, body_too_large, invalid."""
    headers = one_of_each(request.scope["headers"])
    check_content(headers)
    return model_of(model, await read_body(headers, request.receive))[0]
