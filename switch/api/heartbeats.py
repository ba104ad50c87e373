"""What a device asks itself: its key by a code, its parameters, and what to do next in answer to its heartbeat."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.devices import Serial, State
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.merchants.device_keys import DeviceKeys
from switch.records import Terminal
from switch.settings import Settings
from switch.terminals import guesses, parameters
from switch.terminals.activation import Activation
from switch.terminals.health import Health, Heartbeat, Told
from switch.terminals.parameter_sets import ParameterSets

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._+-]{0,39}$")]


Point = Annotated[str, Field(pattern=r"^04[0-9A-Fa-f]{128}$", description="A fresh public point of P-256: the answer then has a master key")]


class ActivationRequest(Model):
    """What a person typed, and the serial number that the device has of itself. Capitals, spaces and hyphens of the code do not matter."""

    serial_number: Serial
    code: Annotated[str, Field(min_length=1, max_length=20)]
    transport_key: Point | None = None


class Position(Model):
    """Millionths of a degree: 31.230416 is 31230416."""

    latitude_e6: Annotated[int, Field(ge=-90_000_000, le=90_000_000)]
    longitude_e6: Annotated[int, Field(ge=-180_000_000, le=180_000_000)]
    accuracy_m: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class HeartbeatRequest(Model):
    """`tamper`: its case was opened, at any time. `batch_open`: it holds sales that are in no closed batch."""

    serial_number: Serial
    software_version: Version
    battery_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    charging: bool | None = None
    paper: Literal["ok", "low", "out"] | None = None
    signal_dbm: Annotated[int, Field(ge=-200, le=0)] | None = None
    network: Literal["wifi", "ethernet", "2g", "3g", "4g", "5g", "bluetooth"] | None = None
    position: Position | None = None
    tamper: bool = False
    parameters_version: Annotated[str, Field(pattern=r"^[0-9.]{1,48}$")] | None = None
    batch_open: bool | None = None
    queued_offline: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


MODELS = (ActivationRequest, Position, HeartbeatRequest)
EXAMPLE = {"serial_number": "PX7-00012345", "software_version": "4.2.0", "battery_percent": 83, "charging": False, "paper": "ok", "signal_dbm": -67,
           "network": "4g", "position": {"latitude_e6": 31_230_416, "longitude_e6": 121_473_701, "accuracy_m": 20}, "tamper": False,
           "parameters_version": "3.0.1.2", "batch_open": True, "queued_offline": 0}


class MasterKey(Shape):
    """A TDES key in a TR-31 block (D) under AES-256 = HKDF-SHA256(ECDH x, info "terminal transport key|serial number|your point|public_key")."""

    public_key: str
    key_block: str
    kcv: str


class WorkingKey(Shape):
    """A TDES key in a TR-31 block (B) under the master key: compare its check value. `key_id` of the PIN key goes into `card.pin.key_id`."""

    purpose: Literal["pin", "mac", "track"]
    key_id: str | None
    key_block: str
    kcv: str


class WorkingKeys(Shape):
    """Use these from now on; those before are good for nothing."""

    keys: list[WorkingKey]


class ShownActivation(Shape):
    """The key is in this answer and nowhere else: store it before anything else."""

    device: str
    terminal: str
    merchant: str
    store: str
    key: str
    master_key: MasterKey | None


class SoftwareNow(Shape):
    """`install`: none, now, or after_batch: close the batch first, then ask again."""

    install: Literal["none", "now", "after_batch"]
    version: str | None
    url: str | None
    sha256: str | None
    size: int | None


class HeartbeatAnswer(Shape):
    """`erase_keys`: erase every key at once and show that the device must be serviced. `parameters_version` differs from yours: fetch them."""

    device: str
    state: State
    sells: bool
    erase_keys: bool
    parameters_version: str
    heartbeat_interval_s: int
    software: SoftwareNow


class ShownParameters(Shape):
    """What holds for the terminal; `version` names it for ever."""

    terminal: str
    version: str
    values: dict[str, Any]


class Parts(Protocol):
    """What these routes need of the switch."""

    settings: Settings
    directory: Directory
    activation: Activation
    health: Health
    parameter_sets: ParameterSets

    device_keys: DeviceKeys

    def admit(self) -> None: ...


def _told(told: Told) -> dict[str, Any]:
    return {"device": show("device", told.device["device_id"]), "state": told.device["state"], "sells": told.device["sells"],
            "erase_keys": told.erase_keys, "parameters_version": told.parameters_version, "heartbeat_interval_s": told.heartbeat_interval_s,
            "software": told.software._asdict()}


def visible(directory: Directory, caller: Caller, shown_id: str) -> Terminal:
    """A terminal sees itself, staff those of their store, a merchant its own, an operator all. Raises Problem not_found."""
    known = directory.terminals.get(identified("terminal", shown_id))
    if (known is None or caller.merchant_id not in (None, known.merchant_id) or caller.store_id not in (None, known.store_id)
            or caller.terminal_id not in (None, known.terminal_id)):
        raise Problem("not_found")
    return known


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 422, 503))
    _activation(routes, parts)
    _sign_in(routes, parts, identify)
    _heartbeat(routes, parts, identify)
    _parameters(routes, parts, identify)
    return routes


def client_of(request: Request, settings: Settings) -> str | None:
    """The address that asks, as far as proxies are trusted to tell it."""
    peer = request.client.host if request.client else None
    return guesses.client_of(peer, ",".join(request.headers.getlist("x-forwarded-for")), settings.trusted_proxies)


def _activation(routes: APIRouter, parts: Parts) -> None:
    @routes.post("/v1/activations", status_code=201, summary="A device's key, once, for its code; it has no key to ask with",
                 responses=shaped(201, "The key, shown once", ShownActivation) | refused(400, 413, 415, 429),
                 openapi_extra=documented(ActivationRequest, {"serial_number": "PX7-00012345", "code": "7K2M-9QXD"}) | {"security": []})
    async def activate(request: Request) -> Response:
        wanted = await body_of(request, ActivationRequest)
        parts.admit()
        if wanted.transport_key is not None:
            assert parts.device_keys.hsm is not None  # or it says so, before the code is used
        made = await parts.activation.activate(wanted.serial_number, wanted.code, client_of(request, parts.settings),
                                               None if wanted.transport_key is None else bytes.fromhex(wanted.transport_key))
        return said({"device": show("device", made.device_id), "terminal": show("terminal", made.terminal_id),
                     "merchant": show("merchant", made.merchant_id), "store": show("store", made.store_id), "key": made.key,
                     "master_key": made.given and {"public_key": made.given.public, "key_block": made.given.block, "kcv": made.given.key.kcv}}, 201)


def _sign_in(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/terminals/{terminal}/key-sign-ins", status_code=201, summary="New working keys for a device that has its master key",
                 responses=shaped(201, "Its keys, in blocks under its master key", WorkingKeys) | refused(403, 404, 409, 429))
    async def sign_in(request: Request, terminal: str) -> Response:
        known = visible(parts.directory, require(identify(request), "terminal"), terminal)
        parts.admit()
        given = await parts.device_keys.signed_in(known.merchant_id, known.terminal_id)
        return said({"keys": [{"purpose": each.purpose, "key_id": each.name or None, "key_block": each.block, "kcv": each.kcv}
                              for each in given]}, 201)


def _heartbeat(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/terminals/{terminal}/heartbeats", summary="How the device is, and what it shall do now",
                 responses=shaped(200, "What to do now", HeartbeatAnswer) | refused(400, 403, 404, 409, 413, 415),
                 openapi_extra=documented(HeartbeatRequest, EXAMPLE))
    async def beat(request: Request, terminal: str) -> Response:
        caller = require(identify(request), "terminal")
        known = visible(parts.directory, caller, terminal)
        wanted = await body_of(request, HeartbeatRequest)
        place = wanted.position.model_dump() if wanted.position is not None else {}
        heartbeat = Heartbeat(**wanted.model_dump(exclude={"serial_number", "position"}), **place)
        return said(_told(await parts.health.beat(known.terminal_id, wanted.serial_number, heartbeat)))


def _parameters(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/terminals/{terminal}/parameters", summary="What holds for a terminal: from the defaults, its merchant, its store and itself",
                responses={**shaped(200, "With an ETag; send it as If-None-Match", ShownParameters), 304: {"description": "You have them"},
                           **refused(404)},
                openapi_extra={"parameters": [{"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"},
                                               "description": "The ETag of what you have"}]})
    async def get(request: Request, terminal: str, version: Annotated[str | None, Query(max_length=48, description="As it was")] = None) -> Response:
        known = visible(parts.directory, identify(request), terminal)
        versions = _versions(version)
        found = await parts.parameter_sets.of(known.merchant_id, known.store_id, known.terminal_id, versions)
        headers = {"etag": found.etag, "cache-control": "private, no-cache"}
        if parameters.same(request.headers.get("if-none-match", ""), found.etag):
            return Response(status_code=304, headers=headers)
        answer = said({"terminal": show("terminal", known.terminal_id), "version": found.version, "values": found.values})
        answer.headers.update(headers)
        return answer


def _versions(text: str | None) -> list[int] | None:
    """Raises Problem not_found: nothing ever had a version of another form."""
    if text is None:
        return None
    found = parameters.versions_of(text)
    if found is None:
        raise Problem("not_found")
    return found
