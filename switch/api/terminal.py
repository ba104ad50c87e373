"""What terminals post: authorizations (the hot route, a plain ASGI callable) and cancellations, with their models."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from messages.tlv import TlvError
from switch import logs, metrics
from switch.api import answers, problems
from switch.api.straight import WHOLE_ANSWER, WholeAnswer
from switch.api.strict import StrictError
from switch.api.strict import parse as parse_json
from switch.api.strict import plain as plain_json
from switch.callers import Recognised, TerminalCaller, selling
from switch.clock import clock
from switch.directory import Directory
from switch.errors import Problem
from switch.failpoints import failpoint, failpoint_written
from switch.money import AMOUNT_MAX, CURRENCIES
from switch.payments.asked import Door
from switch.payments.authorization import ROUTE, Authorizations
from switch.payments.desk import Told
from switch.payments.transaction import told_approved
from switch.payments.translation import Emv, Order, emv
from switch.payments.undelivered import Undelivered
from switch.security.pan import Pan, PanError, PaymentCode, Secret, holds_card_number
from switch.security.vault import Vault

BODY_MAX = 64 * 1024
KEY = re.compile(rb"[A-Za-z0-9_-]{16,64}")
NOT_DIGIT = re.compile("[^0-9]")
EXPIRY = re.compile("[0-9]{2}(0[1-9]|1[0-2])")
LOCAL_TIME = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
DEADLINE_MAX_S = 300
CLOCK_OFF_MAX = timedelta(hours=24)
ANSWER_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
REPLAY_HEADERS = [*ANSWER_HEADERS, (b"idempotent-replayed", b"true")]
NO_AMOUNT = ("balance_inquiry", "account_verification")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def _pan(value: Any) -> Pan:
    try:
        return Pan(value)
    except PanError as error:
        raise PydanticCustomError(error.code, "The card number must be 12 to 19 digits with a right check digit") from None


def _payment_code(value: Any) -> PaymentCode:
    try:
        return PaymentCode(value)
    except PanError as error:
        raise PydanticCustomError(error.code, "The payment code must be 12 to 32 digits, as scanned") from None


def _secret(pattern: str, rule: str) -> Callable[[Any], Secret]:
    allowed = re.compile(pattern)

    def validate(value: Any) -> Secret:
        if not isinstance(value, str) or not allowed.fullmatch(value):
            raise PydanticCustomError("format", rule)
        return Secret(value)

    return validate


def _emv(value: Any) -> Emv:
    if not isinstance(value, str) or not 2 <= len(value) <= 510:
        raise PydanticCustomError("emv", "EMV data must be 1 to 255 bytes as hex text")
    try:
        return emv(value)
    except TlvError as error:  # says what is wrong, never with what
        raise PydanticCustomError("emv", "EMV data must be well-formed BER-TLV as hex text: {fault}", {"fault": str(error)}) from None


def _expiry(value: Any) -> str:
    if not isinstance(value, str) or not EXPIRY.fullmatch(value):
        raise PydanticCustomError("expiry", "The expiry must be YYMM")
    return value


def _currency(value: Any) -> str:
    if not isinstance(value, str) or value not in CURRENCIES:
        raise PydanticCustomError("currency", "The currency must be an ISO 4217 alpha code with minor units")
    return value


def _local_time(value: Any) -> datetime:
    if not isinstance(value, str) or not LOCAL_TIME.fullmatch(value):
        raise PydanticCustomError("local_time", "The local time must be YYYY-MM-DDThh:mm:ss, the terminal's wall clock")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("local_time", "The local time must be a real date and time") from None


def no_card_number(text: str) -> str:
    """It is stored and shown in clear, whoever's card it is."""
    if holds_card_number(text):
        raise PydanticCustomError("card_number", "It must not hold a card number")
    return text


def _hex(rule: str, pattern: str) -> Any:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "description": rule})


Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Reference = Annotated[Text, AfterValidator(no_card_number)]
CardNumber = Annotated[Pan, PlainValidator(_pan), _hex("Primary account number", "[0-9]{12,19}")]
Expiry = Annotated[str, PlainValidator(_expiry), _hex("YYMM", "[0-9]{2}(0[1-9]|1[0-2])")]
Currency = Annotated[str, PlainValidator(_currency), _hex("ISO 4217", "[A-Z]{3}")]


class Model(BaseModel):
    """What a body may hold. Each is built when it is first asked for: all at once would be a quarter of a start."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True, defer_build=True)


class Pin(Model):
    """An encrypted PIN block; it is translated to the acquirer's key where that has one, else passed on as it is, and never stored."""

    block: Annotated[Secret, PlainValidator(_secret("[0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}", "The PIN block must be 16 or 32 hex characters")),
                     _hex("PIN block", "[0-9A-Fa-f]{16,32}")]
    format: Literal["iso0", "iso1", "iso3", "iso4", "sm4"]
    key_id: Text | None = None
    ksn: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{16,24}$")] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Pin":
        if len(self.block.reveal()) != (32 if self.format in ("iso4", "sm4") else 16):
            raise PydanticCustomError("pin", "An iso4 or sm4 block has 32 hex characters, every other one 16")
        if (self.key_id is None) == (self.ksn is None):
            raise PydanticCustomError("pin", "Send either key_id or ksn")
        return self


class Card(Model):
    """The card as the terminal read it. Track, PIN block and security code are used for this request and never stored."""

    entry_mode: Literal["chip", "contactless", "magstripe", "manual", "fallback"]
    pan: CardNumber
    expiry: Expiry
    track2: Annotated[Secret, PlainValidator(_secret("[0-9]{12,19}[=D][0-9]{4,24}", "Track 2 must be PAN, = or D, and discretionary digits")),
                      _hex("Track 2", "[0-9]{12,19}[=D][0-9]{4,24}")] | None = None
    sequence_number: Annotated[str, Field(pattern=r"^[0-9]{1,3}$")] | None = None
    emv: Annotated[Emv, PlainValidator(_emv), _hex("EMV data, BER-TLV", "([0-9A-Fa-f]{2}){1,255}")] | None = None
    security_code: Annotated[Secret, PlainValidator(_secret("[0-9]{3,4}", "The security code must be 3 or 4 digits")),
                             _hex("Security code", "[0-9]{3,4}")] | None = None
    pin: Pin | None = None

    @model_validator(mode="after")
    def _one_card(self) -> "Card":
        if self.track2 is not None:
            track, pan = self.track2.reveal(), self.pan.reveal()
            if len(track) > 37 or not (track.startswith(pan) and track[len(pan):len(pan) + 1] in "=D"):
                raise PydanticCustomError("track2", "Track 2 must carry the same card number, in at most 37 characters")
        return self


class Qr(Model):
    """What the terminal scanned from the payer's phone. It is used for this request and never stored."""

    code: Annotated[PaymentCode, PlainValidator(_payment_code), _hex("Payment code of the payer", "[0-9]{12,32}")]


class AuthorizationRequest(Model):
    """What is charged in all is `amount`, in minor units; tip and cashback are parts of it."""

    model_config = ConfigDict(defer_build=False)  # no first sale waits for it

    type: Literal["purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification"]
    amount: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] | None = None
    currency: Currency
    card: Card | None = None
    qr: Qr | None = None
    capture_method: Literal["automatic", "manual"] | None = None
    partial_approval: Literal["accept", "refuse"] = "refuse"
    tip_amount: Annotated[int, Field(ge=0, le=AMOUNT_MAX)] = 0
    cashback_amount: Annotated[int, Field(ge=0, le=AMOUNT_MAX)] = 0
    terminal_trace: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,12}$")] | None = None
    reference: Reference | None = None
    local_time: Annotated[datetime, PlainValidator(_local_time), _hex("Wall clock at the terminal",
                          "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")] | None = None

    @model_validator(mode="after")
    def _sums(self) -> "AuthorizationRequest":
        if (self.amount is None) != (self.type in NO_AMOUNT):
            raise PydanticCustomError("amount", "amount is required, except for balance_inquiry and account_verification, which have none")
        if self.tip_amount + self.cashback_amount > (self.amount or 0):
            raise PydanticCustomError("amount", "tip_amount and cashback_amount are parts of amount")
        if self.capture_method is not None and self.type in NO_AMOUNT:
            raise PydanticCustomError("capture_method", "this type has nothing to capture")
        if (self.card is None) == (self.qr is None):
            raise PydanticCustomError("card", "Send either card or qr")
        secret = self.card.pan.reveal() if self.card is not None else self.qr.code.reveal() if self.qr is not None else ""
        for text in (self.reference, self.terminal_trace):  # both are stored and shown in clear
            if text is not None and len(text) >= len(secret) and secret in NOT_DIGIT.sub("", text):
                raise PydanticCustomError("card_number", "reference and terminal_trace must not hold the card number or payment code")
        return self


UndoReason = Literal["chip_declined"]  # messages.grammar.CHIP_DECLINED


class CancellationRequest(Model):
    """`reason`: chip_declined when it was approved and the chip then refused: its issuer's cryptogram was wrong, or the card said no."""

    idempotency_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
    reason: UndoReason | None = None


def order_of(request: AuthorizationRequest) -> Order:
    card, capture_method = request.card, request.capture_method
    if capture_method is None and request.type not in NO_AMOUNT:
        capture_method = "manual" if request.type == "preauthorization" else "automatic"
    if card is None:
        assert request.qr is not None
        return Order(
            request.type, request.amount or 0, request.currency, capture_method, request.partial_approval, request.tip_amount,
            request.cashback_amount, "qr", request.qr.code, "", None, None, None, None, request.terminal_trace, request.reference,
            request.local_time)
    pin = card.pin
    return Order(
        request.type, request.amount or 0, request.currency, capture_method, request.partial_approval, request.tip_amount,
        request.cashback_amount, card.entry_mode, card.pan, card.expiry, card.track2,
        card.sequence_number.zfill(3) if card.sequence_number else None, card.emv, pin.block if pin else None,
        request.terminal_trace, request.reference, request.local_time, *((pin.format, pin.key_id, pin.ksn) if pin else ()))


def check_clock(order: Order, seller: TerminalCaller, received_at: datetime) -> None:
    """Raises Problem invalid when the terminal's clock is more than 24 hours off its store's."""
    if order.local_time is not None:
        store_time = received_at.astimezone(seller.store.zone).replace(tzinfo=None)
        if abs(order.local_time - store_time) > CLOCK_OFF_MAX:
            raise Problem("invalid", "The terminal's clock is more than 24 hours off.",
                          errors=[{"field": "local_time", "rule": "within 24 hours of the store's time", "type": "clock"}])


def idempotency_key(header: bytes | None) -> str:
    if header is None:
        raise Problem("idempotency_key_missing")
    if not KEY.fullmatch(header):
        raise Problem("idempotency_key_malformed")
    return header.decode()


def request_deadline(header: bytes | None) -> float | None:
    if header is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,3}(\.[0-9]{1,3})?", header) or float(header) > DEADLINE_MAX_S:
        raise Problem("invalid", "A header is wrong; see errors.",
                      errors=[{"field": "header.Request-Deadline", "rule": f"a number of seconds up to {DEADLINE_MAX_S}", "type": "number"}])
    return float(header)


def one_of_each(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name. Raises Problem request_malformed when one that decides is there twice."""
    found = dict(headers)
    if len(found) != len(headers):
        for name in (b"authorization", b"idempotency-key", b"content-type", b"content-length", b"request-deadline"):
            if sum(1 for other, _ in headers if other == name) > 1:
                raise Problem("request_malformed", f"The header {name.decode()} came twice.")
    return found


def check_content(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Problem("content_encoding")
    media, _, parameters = headers.get(b"content-type", b"").partition(b";")
    if media.strip().lower() != b"application/json" or parameters.strip().lower() not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise Problem("content_type")


async def read_body(headers: dict[bytes, bytes], receive: Receive, most: int = BODY_MAX) -> bytes:
    """The whole body, at most 64 kB unless said. Raises Problem body_too_large before buffering, request_malformed when the client is gone."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > most:
        raise Problem("body_too_large")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("request_malformed", "The connection ended before the body.")
        body += bytes(message.get("body", b""))
        if len(body) > most:
            raise Problem("body_too_large")
        if not message.get("more_body", False):
            return body


def model_of(model: type[Model], body: bytes) -> tuple[Any, Any]:
    """The checked model and the plain value behind it. Raises Problem: json_*, invalid."""
    try:
        value = parse_json(body)
    except StrictError as error:
        raise Problem(error.code, error.detail) from None
    try:
        return model.model_validate(value), value
    except ValidationError as error:
        problem = problems.invalid(error)
    raise problem


def authorization_of(body: bytes) -> tuple[AuthorizationRequest, Any]:
    """As `model_of`. No number of an authorization is long or broken, so whatever `plain` lets through beyond `parse`, the model refuses."""
    if (value := plain_json(body)) is not None:
        try:
            return AuthorizationRequest.model_validate(value), value
        except ValidationError:  # what it is told comes from `parse`, if that finds a fault
            pass
    return model_of(AuthorizationRequest, body)


def canonical(value: Any) -> bytes:
    """The same bytes for the same parsed body, whatever the order of keys and the white space."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class AuthorizationEndpoint:
    """POST /v1/authorizations without a framework: the same models, documented in the OpenAPI file (api/documented.py)."""

    def __init__(self, directory: Directory, authorizations: Authorizations, vault: Vault, undelivered: Undelivered,
                 admit: Callable[[], None]) -> None:
        self.directory, self.authorizations, self.vault, self.undelivered, self.admit = directory, authorizations, vault, undelivered, admit
        self.recognised = Recognised(directory)
        self.now = asyncio.get_running_loop().time

    def start(self, headers: list[tuple[bytes, bytes]], body: bytes, whole: WholeAnswer) -> None:
        """A request that is whole (edge.StraightWay). Its task is the switch's own: the walk may run in it."""
        self.authorizations.desk.begin(self._straight(headers, body, whole))

    async def _straight(self, headers: list[tuple[bytes, bytes]], body: bytes, whole: WholeAnswer) -> None:
        try:
            await self._serve(headers, body, whole, whole.cycle.send)  # type: ignore[arg-type]
        except Exception as error:  # nobody else would hear of it: the client sees its connection end, and asks again
            logs.error("request_failed", error=type(error).__name__, path="/v1/authorizations", where=logs.place(error))
            whole.cycle.transport.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope["headers"], receive, scope.get("extensions", {}).get(WHOLE_ANSWER), send)

    async def _serve(self, sent: list[tuple[bytes, bytes]], body_from: bytes | Receive, whole: WholeAnswer | None, send: Send) -> None:
        door_at = self.now()
        headers, told = ANSWER_HEADERS, None
        try:
            status, body, told = await self._answer(sent, body_from, door_at)
            if told.replayed:
                headers = REPLAY_HEADERS
        except Exception as error:
            response = problems.rendered(error) if isinstance(error, Problem) else problems.broken(error, "/v1/authorizations")
            status, body = response.status_code, bytes(response.body)
            headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        failpoint("reply.before")
        metrics.authorization_seconds.observe(self.now() - door_at)
        lost = False
        if whole is None or not whole.write(status, headers, body):
            await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": body})
            lost = whole is not None and whole.lost()
        if told is not None and (lost or told.replayed) and told_approved(told.transaction):
            (self.undelivered.lost if lost else self.undelivered.heard)(told.transaction)
        failpoint_written("reply.after")

    async def _answer(self, sent: list[tuple[bytes, bytes]], body_from: bytes | Receive, door_at: float) -> tuple[int, bytes, Told]:
        """`body_from`: the whole body, of a request in a task of our own, or where it comes from."""
        received_at = clock.now()
        headers, whole = one_of_each(sent), isinstance(body_from, bytes)
        caller = self.recognised.identify(headers.get(b"authorization"))
        seller = selling(self.directory, caller)
        key = idempotency_key(headers.get(b"idempotency-key"))
        self.authorizations.ways.look(seller, key)
        check_content(headers)
        deadline_s = request_deadline(headers.get(b"request-deadline"))
        request, value = authorization_of(body_from if isinstance(body_from, bytes) else await read_body(headers, body_from))
        order = order_of(request)
        if order.pan.reveal() in key.replace("-", "").replace("_", ""):
            raise Problem("idempotency_key_malformed", "The key must not hold the card number or payment code: keys are stored in clear.")
        check_clock(order, seller, received_at)
        self.admit()
        fingerprint = self.vault.fingerprint(ROUTE.encode() + canonical(value))
        told = await self.authorizations.authorize(order, seller, key, fingerprint, Door(door_at, received_at, deadline_s), own_task=whole)
        status, body = answers.first(told.transaction)
        return status, body, told
