"""What a QR wallet host is asked over HTTP, and what its answers mean (docs/plug-ins.md, "The wallet host"). Pure: bytes in, values out."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from switch.plug_ins import DECLINES, WORDS, Answer, Asked, Unknown

HEAD_MAX, BODY_MAX = 16 * 1024, 64 * 1024
TEXT_MAX = 64
CLIENT, TIMESTAMP, NONCE, SIGNATURE = "wallet-client", "wallet-timestamp", "wallet-nonce", "wallet-signature"
# HTTP statuses whose signed body speaks of the order; of any other nobody knows what became of it.
SPOKEN = frozenset({200, 201, 202, 404, 409, 422})


class Call(NamedTuple):
    method: str
    target: str
    body: bytes

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.target.rpartition('/')[2][:8]}>"


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


def call(asked: Asked) -> Call:
    """The request for a question."""
    order, part = f"/orders/{asked.order}", asked.part
    money: dict[str, Any] = {"amount": asked.amount, "currency": asked.currency}
    match asked.verb:
        case "pay":
            return _post("/orders", {"order": asked.order, **money, "code": asked.code, "merchant": asked.merchant, "terminal": asked.terminal,
                                     "expires_in": asked.limit_s})
        case "refund" | "void":
            return _post(f"{order}/refunds", {"refund": part, **money})
        case "cancel" if part is not None:
            return _post(f"{order}/refunds/{part}/cancel", money)
        case "cancel" | "close":
            return _post(f"{order}/{asked.verb}", money)
        case _:
            return Call("GET", order if part is None else f"{order}/refunds/{part}", b"")


def _post(target: str, body: dict[str, Any]) -> Call:
    return Call("POST", target, json.dumps(body, separators=(",", ":")).encode())


def signature(secret: bytes, *parts: str | bytes) -> str:
    """HMAC-SHA-256 in hex over the parts, one a line; a body stands as its SHA-256, so that no part can run into the next."""
    lines = [hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else part for part in parts]
    return hmac.digest(secret, "\n".join(lines).encode(), "sha256").hex()


def headers(secret: bytes, client: str, request: Call, at: int, nonce: str) -> dict[str, str]:
    """What signs a request. `at`: unix seconds."""
    said = signature(secret, request.method, request.target, client, str(at), nonce, request.body)
    return {CLIENT: client, TIMESTAMP: str(at), NONCE: nonce, SIGNATURE: said}


def answer(asked: Asked, secret: bytes, nonce: str, reply: Reply) -> Answer | Unknown:
    """What an answer says. It is signed with our nonce, so an older one, or one to another question, is not authentic."""
    said, expected = reply.headers.get(SIGNATURE, ""), signature(secret, str(reply.status), nonce, reply.body)
    if not hmac.compare_digest(said.encode("latin-1", "replace"), expected.encode()):
        return Unknown("not_authentic", SIGNATURE, len(reply.body))
    if reply.status not in SPOKEN:
        return Unknown("unreadable", "status", len(reply.body))
    fields = _object(reply.body)
    if fields is None:
        return Unknown("unreadable", "body", len(reply.body))
    for name, kind in (("order", str), ("status", str), ("amount", int), ("currency", str)):
        if type(fields.get(name)) is not kind:
            return Unknown("unreadable", name, len(reply.body))
    for name in ("refund", "reason", "reference"):
        if fields.get(name) is not None and not (type(fields[name]) is str and len(fields[name]) <= TEXT_MAX):
            return Unknown("unreadable", name, len(reply.body))
    word, reason = fields["status"], fields.get("reason") or ""
    if word not in WORDS:
        return Unknown("unreadable", "status", len(reply.body))
    if word == "declined" and reason not in DECLINES:
        reason = "refused"
    return Answer(word, fields["order"], fields.get("refund"), fields["amount"], fields["currency"], reason, fields.get("reference") or "")


def _object(body: bytes) -> dict[str, Any] | None:
    """A JSON object in which no name stands twice, or None."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    try:
        value = json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
