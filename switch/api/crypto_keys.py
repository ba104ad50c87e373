"""Cryptographic keys over HTTP: loaded by several people, listed by their check values. No route gives one back."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.resolving import EXAMPLES, plain_text, shown_approval
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.approvals import Approvals
from switch.merchants.crypto_keys import CryptoKeys, Wanted
from switch.payments.resolution import Person
from switch.security.pan import Secret

LOAD, RETIRE = "load_crypto_key", "retire_crypto_key"
OWNER_KINDS = ("acquirer", "terminal", "merchant")
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
REASON = "Key letter of 1 March, both envelopes unopened"


def _hidden(pattern: str, rule: str) -> Callable[[Any], Secret]:
    allowed = re.compile(pattern)

    def validate(value: Any) -> Secret:
        if not isinstance(value, str) or not allowed.fullmatch(value):
            raise PydanticCustomError("format", "{rule}", {"rule": rule})
        return Secret(value)

    return validate


PART = "[0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}|[0-9A-Fa-f]{48}|[0-9A-Fa-f]{64}"
BLOCK = "[BD][0-9]{4}[0-9A-Za-z]{32,1019}"
Kcv = Annotated[str, Field(pattern=r"^[0-9A-F]{6}$", description="The first three bytes of the check value, upper-case hex")]
Component = Annotated[Secret, PlainValidator(_hidden(PART, "One component, hex, as long as the key")),
                      WithJsonSchema({"type": "string", "pattern": f"^(?:{PART})$", "description": "One component, hex, as long as the key"})]
Block = Annotated[Secret, PlainValidator(_hidden(BLOCK, "A TR-31 key block of version B or D")),
                  WithJsonSchema({"type": "string", "pattern": f"^{BLOCK}$", "description": "A TR-31 key block of version B or D"})]
Reason = Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]


class KeyBlock(Model):
    """`under`: the key encryption key (cky_...) of the same owner."""

    block: Block
    under: Ident


class FirstComponent(Model):
    """The first of `count` components, with its own check value; the others come from other people."""

    count: Annotated[int, Field(ge=2, le=3)]
    component: Component
    kcv: Kcv


class CryptoKeyRequest(Model):
    """`owner`: acq_, trm_ or mer_. `kcv`: of the whole key. Either a key block or the first component. `name`: a terminal's key_id, or the
    start of the serial numbers of a base key (10 hex characters for TDES, 8 for AES)."""

    owner: Ident
    purpose: Literal["kek", "tmk", "pin", "mac", "track", "bdk"]
    name: Annotated[str, Field(max_length=64, pattern=r"^[ -~]*$")] = ""
    algorithm: Literal["des", "tdes", "aes", "sm4"]
    kcv: Kcv
    key_block: KeyBlock | None = None
    components: FirstComponent | None = None
    reason: Reason

    @model_validator(mode="after")
    def _one_way(self) -> "CryptoKeyRequest":
        if (self.key_block is None) == (self.components is None):
            raise PydanticCustomError("key", "Send either key_block or components")
        return self


class ComponentRequest(Model):
    """The next component, by another person than those before, with its own check value."""

    component: Component
    kcv: Kcv
    reason: Reason


class ApprovalRequest(Model):
    reason: Reason


MODELS = (CryptoKeyRequest, ComponentRequest, ApprovalRequest)


class ShownCryptoKey(Shape):
    """`collecting`: components are missing. `waiting`: whole, and a second person has not approved it."""

    id: str
    owner: str
    purpose: Literal["kek", "tmk", "pin", "mac", "track", "bdk"]
    name: str
    algorithm: Literal["des", "tdes", "aes", "sm4"]
    kcv: str
    source: Literal["components", "key_block", "sign_in", "activation"]
    components: int
    entered: int
    state: Literal["collecting", "waiting", "active", "replaced"]
    requested_by: str | None
    requested_at: str | None
    approved_by: str | None
    active_at: str | None
    ended_at: str | None


class CryptoKeyList(Shape):
    items: list[ShownCryptoKey]
    next: str | None


class Parts(Protocol):
    crypto_keys: CryptoKeys
    approvals: Approvals


EXAMPLE = {"owner": f"acq_{_ID}", "purpose": "tmk", "algorithm": "tdes", "kcv": "08D7B4", "reason": REASON,
           "components": {"count": 2, "component": "0123456789ABCDEFFEDCBA9876543210", "kcv": "08D7B4"}}
NEXT = {"component": "FEDCBA98765432100123456789ABCDEF", "kcv": "7B83D6", "reason": REASON}
WAITS: dict[int | str, dict[str, Any]] = {202: {"description": "It waits for a second person", "content": {"application/json": {
    "example": {**EXAMPLES["approval"], "kind": LOAD, "object": f"cky_{_ID}", "payload": {"key": f"cky_{_ID}", "purpose": "tmk", "kcv": "08D7B4"}}}}}}


def shown_key(row: asyncpg.Record) -> dict[str, Any]:
    owner = next(show(kind, row[f"{kind}_id"]) for kind in OWNER_KINDS if row[f"{kind}_id"] is not None)
    plain = ("purpose", "name", "algorithm", "kcv", "source", "components", "entered", "state", "requested_by", "approved_by")
    return {"id": show("crypto_key", row["key_id"]), "owner": owner, **{name: row[name] for name in plain},
            **{name: stamp(row[name]) for name in ("requested_at", "active_at", "ended_at")}}


def owner_of(text: str) -> tuple[str, UUID]:
    """Raises Problem not_found."""
    for kind in OWNER_KINDS:
        if (identity := read(kind, text)) is not None:
            return kind, identity
    raise Problem("not_found")


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    async def operator(request: Request) -> Caller:
        caller = require(identify(request), "operator")
        if request.method != "GET":
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return caller

    async def waits(row: asyncpg.Record, reason: str, caller: Caller) -> Response:
        """A key that is whole asks for its second person, to be used or to be used no more; one that is not is shown as it stands."""
        if row["state"] == "collecting":
            return said(shown_key(row), 201)
        assert caller.person is not None  # the database holds it for every operator's key
        shown, kind = shown_key(row), RETIRE if row["state"] == "active" else LOAD
        payload = {"key": shown["id"], **{name: shown[name] for name in ("owner", "purpose", "name", "algorithm", "kcv", "source")}}
        approval = await parts.approvals.request(kind, shown["id"], payload, reason, Person(caller.person, caller.key_id))
        return said(shown_approval(approval), 202)

    routes = APIRouter(tags=["crypto keys"], responses=refused(401, 403, 404, 422, 503))
    _routes(routes, parts, operator, waits)
    return routes


def _routes(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any], waits: Callable[[asyncpg.Record, str, Caller], Any]) -> None:
    collects = shaped(201, "More components are needed", ShownCryptoKey)

    @routes.get("/v1/crypto-keys", summary="Keys by their check values, newest first", dependencies=[Depends(operator)],
                responses=shaped(200, "One page", CryptoKeyList))
    async def page(owner: str | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50, after: str | None = None) -> Response:
        of = None if owner is None else owner_of(owner)[1]
        rows = await parts.crypto_keys.page(of, None if after is None else identified("crypto_key", after), limit + 1)
        items = [shown_key(row) for row in rows]
        return said({"items": items[:limit], "next": items[limit - 1]["id"] if len(items) > limit else None})

    @routes.get("/v1/crypto-keys/{key}", summary="One key by its check value", dependencies=[Depends(operator)],
                responses=shaped(200, "As it stands", ShownCryptoKey))
    async def one(key: str) -> Response:
        return said(shown_key(await parts.crypto_keys.get(identified("crypto_key", key))))

    @routes.post("/v1/crypto-keys", summary="Load a key: a TR-31 block, or the first of two or three components", status_code=201,
                 openapi_extra=documented(CryptoKeyRequest, EXAMPLE), responses=collects | WAITS | refused(400, 409, 413, 415))
    async def load(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        asked = await body_of(request, CryptoKeyRequest)
        assert caller.person is not None
        wanted = Wanted(*owner_of(asked.owner), asked.purpose, asked.name, asked.algorithm, asked.kcv)
        if asked.key_block is not None:
            under = identified("crypto_key", asked.key_block.under)
            return await waits(await parts.crypto_keys.take(wanted, asked.key_block.block, under, caller.person), asked.reason, caller)  # type: ignore[no-any-return]
        first = asked.components
        row = await parts.crypto_keys.begin(wanted, first.count, first.component, first.kcv, caller.person)
        return await waits(row, asked.reason, caller)  # type: ignore[no-any-return]

    @routes.post("/v1/crypto-keys/{key}/components", summary="Give the next component; with the last one the key waits to be approved",
                 status_code=201, openapi_extra=documented(ComponentRequest, NEXT),
                 responses=collects | WAITS | refused(400, 409, 413, 415))
    async def add(request: Request, key: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        given = await body_of(request, ComponentRequest)
        assert caller.person is not None
        row = await parts.crypto_keys.add(identified("crypto_key", key), given.component, given.kcv, caller.person)
        return await waits(row, given.reason, caller)  # type: ignore[no-any-return]

    @routes.post("/v1/crypto-keys/{key}/approval", summary="Ask again for the second person of a key that is whole", status_code=202,
                 openapi_extra=documented(ApprovalRequest, {"reason": REASON}), responses=WAITS | refused(400, 409, 413, 415))
    async def ask(request: Request, key: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted, row = await body_of(request, ApprovalRequest), await parts.crypto_keys.get(identified("crypto_key", key))
        if row["state"] != "waiting":
            raise Problem("conflict", "Only a key that is whole and not yet in force can be approved.")
        return await waits(row, wanted.reason, caller)  # type: ignore[no-any-return]

    @routes.post("/v1/crypto-keys/{key}/retirement", summary="Ask a second person to take a key out of use, with nothing in its place",
                 status_code=202, openapi_extra=documented(ApprovalRequest, {"reason": "The terminal was stolen on 1 March"}),
                 responses=WAITS | refused(400, 409, 413, 415))
    async def retire(request: Request, key: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted, row = await body_of(request, ApprovalRequest), await parts.crypto_keys.get(identified("crypto_key", key))
        if row["state"] != "active":
            raise Problem("conflict", "Only a key that is in force can be retired.")
        return await waits(row, wanted.reason, caller)  # type: ignore[no-any-return]
