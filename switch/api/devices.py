"""Devices for people: registered, moved through their life, swapped and given codes by operators; seen by the merchant whose they are."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.resolving import plain_text
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.terminals.activation import Activation
from switch.terminals.devices import PAGE_MAX, By, Devices, Wanted
from switch.terminals.health import HOURS_MAX, Health
from switch.terminals.lifecycle import BY_PEOPLE

State = Literal["inventory", "ordered", "shipped", "installed", "activated", "live", "maintenance", "returned", "retired"]
Move = Literal["order", "cancel", "ship", "install", "go_live", "maintain", "restore", "tamper", "return", "restock", "repair", "retire"]
assert set(Move.__args__) == BY_PEOPLE  # type: ignore[attr-defined]
Serial = Annotated[str, Field(pattern=r"^[0-9A-Z][0-9A-Z._/-]{3,39}$", description="As the maker prints it, in capital letters")]
DeviceModel = Annotated[str, Field(pattern=r"^[0-9A-Za-z][ 0-9A-Za-z._/+-]{0,39}$")]
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class DeviceRequest(Model):
    """A device that is not in a shop yet."""

    serial_number: Serial
    model: DeviceModel
    reason: Reason


class MoveRequest(Model):
    """`store` with order, `terminal` with install, `sells` with maintain: whether its till may sell meanwhile."""

    event: Move
    reason: Reason
    store: Ident | None = None
    terminal: Ident | None = None
    sells: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "MoveRequest":
        if (self.store is not None) != (self.event == "order"):
            raise PydanticCustomError("store", "store is given to order, and only then")
        if (self.terminal is not None) != (self.event == "install"):
            raise PydanticCustomError("terminal", "terminal is given to install, and only then")
        if self.sells is not None and self.event != "maintain":
            raise PydanticCustomError("sells", "sells is given to maintain, and only then")
        return self


class SwapRequest(Model):
    """`replacement` takes over the till; the device that is swapped goes back."""

    replacement: Ident
    reason: Reason


class CodeRequest(Model):
    """A new code ends the one before."""


MODELS = (DeviceRequest, MoveRequest, SwapRequest, CodeRequest)


class ShownDevice(Shape):
    """`sells`: whether its till may. `keys_to_erase`: of keys that were ended and may still be in the device. `code_issued_at`, `code_expires_at`:
    of the activation code that waits to be used."""

    id: str
    serial_number: str
    model: str
    state: State
    since: str
    merchant: str | None
    store: str | None
    terminal: str | None
    sells: bool
    tampered_at: str | None
    keys_to_erase: int
    code_issued_at: str | None
    code_expires_at: str | None
    software_version: str | None
    last_heartbeat_at: str | None
    silent_since: str | None
    created_at: str


class DevicePage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownDevice]
    next: str | None


class DeviceEvent(Shape):
    number: int
    at: str
    event: str
    was: State | None
    state: State
    merchant: str | None
    store: str | None
    terminal: str | None
    by: str
    reason: str


class DeviceEventPage(Shape):
    """The latest first; `next` goes into `after`, null at the end."""

    items: list[DeviceEvent]
    next: str | None


class ShownCode(Shape):
    """The code is in this answer and nowhere else."""

    device: str
    code: str
    expires_at: str


class Hour(Shape):
    hour: str
    heartbeats: int
    software_version: str | None
    battery_min: int | None
    signal_min: int | None
    paper: str | None
    latitude_e6: int | None
    longitude_e6: int | None
    tamper: bool


class DeviceHealth(Shape):
    """What the device last said of itself, and its hours, the latest first."""

    device: str
    last_at: str
    software_version: str | None
    battery_percent: int | None
    charging: bool | None
    paper: str | None
    signal_dbm: int | None
    network: str | None
    latitude_e6: int | None
    longitude_e6: int | None
    accuracy_m: int | None
    tamper: bool
    parameters_version: str | None
    batch_open: bool | None
    queued_offline: int | None
    silent_after_s: int
    silent_since: str | None
    hours: list[Hour]


class Parts(Protocol):
    """What these routes need of the switch."""

    devices: Devices
    activation: Activation
    health: Health


def shown(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("device", row["device_id"]), **{name: row[name] for name in ("serial_number", "model", "state", "sells", "keys_to_erase",
                                                                                    "software_version")},
            **_place(row), "last_heartbeat_at": stamp(row["last_at"]), "since": stamp(row["state_since"]),
            **{name: stamp(row[name]) for name in ("tampered_at", "silent_since", "created_at", "code_issued_at", "code_expires_at")}}


def _place(row: asyncpg.Record) -> dict[str, str | None]:
    return {kind: None if row[f"{kind}_id"] is None else show(kind, row[f"{kind}_id"]) for kind in ("merchant", "store", "terminal")}


def _event(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    """Who of the operator's people did it is not the merchant's concern."""
    by = row["person"] if people or row["person"].startswith("device ") else "operator"
    return {**{name: row[name] for name in ("number", "event", "was", "state", "reason")}, "at": stamp(row["at"]), **_place(row), "by": by}


def _health(row: asyncpg.Record, hours: list[asyncpg.Record]) -> dict[str, Any]:
    plain = {name: value for name, value in row.items() if name not in ("device_id", "last_at", "silent_since")}
    return {"device": show("device", row["device_id"]), **plain, **{name: stamp(row[name]) for name in ("last_at", "silent_since")},
            "hours": [{**dict(each), "hour": stamp(each["hour"])} for each in hours]}


def operating(identify: Callable[[Request], Caller], request: Request) -> tuple[Caller, By]:
    """The operator who writes here, logged. Raises Problem."""
    caller = require(identify(request), "operator")
    logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
    return caller, By(caller.person or "", caller.key_id)


def optional(kind: str, text: str | None) -> UUID | None:
    return None if text is None else identified(kind, text)


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 403, 404, 422, 503))
    _reads(routes, parts, identify)
    _moves(routes, parts, identify)
    return routes


def _reads(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/devices", summary="Devices, newest first; a merchant's are its own", responses=shaped(200, "One page", DevicePage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, state: State | None = None, merchant: str | None = None,
                   store: str | None = None, terminal: str | None = None, serial_number: Annotated[str | None, Query(max_length=40)] = None,
                   silent: bool | None = None) -> Response:
        wanted = Wanted(whose(identify(request), merchant), optional("device", after), state, optional("store", store),
                        optional("terminal", terminal), serial_number, silent)
        rows = await parts.devices.page(wanted, limit + 1)
        return said({"items": [shown(row) for row in rows[:limit]],
                     "next": show("device", rows[limit - 1]["device_id"]) if len(rows) > limit else None})

    @routes.get("/v1/devices/{device}", summary="One device as it is now", responses=shaped(200, "The device", ShownDevice))
    async def one(request: Request, device: str) -> Response:
        merchant_id = whose(identify(request), None)
        return said(shown(await parts.devices.one(identified("device", device), merchant_id)))

    @routes.get("/v1/devices/{device}/events", summary="Every move of a device: who, when, why",
                responses=shaped(200, "One page", DeviceEventPage))
    async def events(request: Request, device: str, limit: Limit = 50, after: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        rows = await parts.devices.events(identified("device", device), caller.merchant_id, after, limit + 1)
        return said({"items": [_event(row, caller.role == "operator") for row in rows[:limit]],
                     "next": str(rows[limit - 1]["number"]) if len(rows) > limit else None})

    @routes.get("/v1/devices/{device}/health", summary="What a device last said of itself, and its hours",
                responses=shaped(200, "Its health", DeviceHealth))
    async def health(request: Request, device: str, hours: Annotated[int, Query(ge=0, le=HOURS_MAX)] = 24) -> Response:
        merchant_id = whose(identify(request), None)
        return said(_health(*await parts.health.of(identified("device", device), merchant_id, hours)))


def _moves(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(device_id: UUID, status: int = 200) -> Response:
        return said(shown(await parts.devices.one(device_id, None)), status)

    @routes.post("/v1/devices", status_code=201, summary="Take a device into the inventory",
                 responses=shaped(201, "It is there", ShownDevice) | refused(400, 409, 413, 415),
                 openapi_extra=documented(DeviceRequest, {"serial_number": "PX7-00012345", "model": "PX7", "reason": "Delivery of 12 November"}))
    async def register(request: Request) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, DeviceRequest)
        return await now(await parts.devices.register(wanted.serial_number, wanted.model, by, wanted.reason), 201)

    @routes.post("/v1/devices/{device}/moves", summary="The next step of a device's life",
                 responses=shaped(200, "As it is now", ShownDevice) | refused(400, 409, 413, 415),
                 openapi_extra=documented(MoveRequest, {"event": "install", "terminal": f"trm_{_ID}", "reason": "Installed by Chen Jie"}))
    async def move(request: Request, device: str) -> Response:
        _, by = operating(identify, request)
        device_id, wanted = identified("device", device), await body_of(request, MoveRequest)
        await parts.devices.move(device_id, wanted.event, by, wanted.reason, store_id=optional("store", wanted.store),
                                 terminal_id=optional("terminal", wanted.terminal), sells=wanted.sells or False)
        return await now(device_id)

    @routes.post("/v1/devices/{device}/swap", summary="Another device takes over the till; this one goes back",
                 responses=shaped(200, "The replacement, installed: it needs a code", ShownDevice) | refused(400, 409, 413, 415),
                 openapi_extra=documented(SwapRequest, {"replacement": f"dev_{_ID}", "reason": "Printer broken, ticket 4711"}))
    async def swap(request: Request, device: str) -> Response:
        _, by = operating(identify, request)
        device_id, wanted = identified("device", device), await body_of(request, SwapRequest)
        replacement_id = identified("device", wanted.replacement)
        await parts.devices.swap(device_id, replacement_id, by, wanted.reason)
        return await now(replacement_id)

    @routes.post("/v1/devices/{device}/activation-codes", status_code=201, summary="A code that activates the device once, within a day",
                 responses=shaped(201, "The code, shown once", ShownCode) | refused(400, 409, 413, 415), openapi_extra=documented(CodeRequest, {}))
    async def code(request: Request, device: str) -> Response:
        _, by = operating(identify, request)
        device_id, _ = identified("device", device), await body_of(request, CodeRequest)
        issued = await parts.activation.issue(device_id, by)
        return said({"device": device, "code": issued.code, "expires_at": stamp(issued.expires_at)}, 201)
