"""Problems a person or a program can meet: one closed table, served at /problems/<code> (RFC 9457)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple


class Kind(NamedTuple):
    status: int
    title: str
    remedy: str  # what to do about it


PROBLEMS = MappingProxyType({
    "json_malformed": Kind(400, "The body is not JSON", "Send one JSON object, UTF-8, without a byte order mark."),
    "json_encoding": Kind(400, "The body is not UTF-8", "Encode the body as UTF-8 without a byte order mark."),
    "json_duplicate_key": Kind(400, "A JSON object has a key twice", "Send every key once."),
    "json_number": Kind(400, "A number is not a plain integer", "Send integers of at most 15 digits: no fraction, exponent, NaN or Infinity."),
    "json_depth": Kind(400, "The JSON is nested too deeply", "Nest at most 16 levels."),
    "json_surrogate": Kind(400, "A string holds half a surrogate pair", "Send whole characters."),
    "json_nul": Kind(400, "A string holds NUL", "Leave out U+0000."),
    "request_malformed": Kind(400, "The request is not well-formed HTTP", "Send a known method, one Host, one length, and no conflicting headers."),
    "request_timeout": Kind(408, "The request took too long to arrive", "Send the whole request within 10 seconds."),
    "headers_too_large": Kind(431, "The headers are too large", "Keep the request line and headers under 32 kB."),
    "too_many_connections": Kind(503, "Too many connections", "Wait for Retry-After, then send the same key again."),
    "unauthenticated": Kind(401, "No valid key was sent", "Send `Authorization: Bearer <key>` with a key that is neither expired nor revoked."),
    "forbidden": Kind(403, "This key may not do that", "Use a key of the role that the route names."),
    "not_found": Kind(404, "There is no such object", "Check the id; objects of others look the same as absent ones."),
    "method_not_allowed": Kind(405, "This address does not know that method", "See /docs for the methods of each address."),
    "idempotency_key_missing": Kind(400, "The Idempotency-Key header is missing", "Make a key of 16 to 64 characters, store it, then send it."),
    "idempotency_key_malformed": Kind(400, "The Idempotency-Key is malformed", "Use 16 to 64 characters of A-Z a-z 0-9 _ and -."),
    "idempotency_key_reused": Kind(422, "This key belongs to another request", "Make a new key for a new sale; send the same body to ask again."),
    "in_progress": Kind(409, "The first request with this key is still running", "Wait for Retry-After, then send the same key again."),
    "cancelled_by_terminal": Kind(409, "The terminal cancelled this key", "Make a new sale under a new key."),
    "possible_duplicate": Kind(409, "This looks like a sale that was already made", "Ask the cardholder; a new sale is accepted after 5 minutes."),
    "body_too_large": Kind(413, "The body is too large", "Send at most 64 kB; an estimate of fees may have 4 MB."),
    "content_type": Kind(415, "A body of that type is not taken here", "Send `Content-Type: application/json` and no Content-Encoding."),
    "content_encoding": Kind(415, "The body must not be compressed", "Send the body without Content-Encoding."),
    "invalid": Kind(422, "A field is missing, unknown or wrong", "See `errors`: each names a field and the rule it broke."),
    "file_refused": Kind(422, "The file was refused whole", "See `errors` for line and reason; the sender must make the file anew."),
    "evidence_refused": Kind(422, "The file is no evidence that can be taken", "Send a whole PDF, PNG or JPEG of at most 4 MB."),
    "evidence_missing": Kind(422, "Nothing supports the answer", "Upload at least one file first, name it in `files`, or send a statement."),
    "deadline_too_short": Kind(422, "The deadline is too short", "Allow the acquirer's time and the commit's: see `detail`."),
    "not_supported": Kind(422, "The acquirer does not offer that", "See `detail`; use another type or capture method."),
    "conflict": Kind(409, "The object is not in a state for that", "Read the object again and decide anew."),
    "taken": Kind(409, "Somebody else has it", "`detail` says who and since when. Take it over with a reason if they cannot go on."),
    "same_person": Kind(409, "The person who asked may not decide", "Another person must approve it, with a key of their own."),
    "already_exists": Kind(409, "Such an object already exists", "Use the existing one or another name."),
    "day_closed": Kind(409, "The business day is closed", "Use a refund."),
    "not_capturable": Kind(409, "It cannot be captured", "See `detail`; an expired or undone authorization needs a new sale."),
    "not_incrementable": Kind(409, "It cannot be raised", "See `detail`; authorize the difference as a new preauthorization."),
    "not_voidable": Kind(409, "It cannot be voided", "See `detail`; refund what is captured instead."),
    "not_tippable": Kind(409, "It takes no tip", "See `detail`."),
    "not_refundable": Kind(409, "It cannot be refunded", "See `detail`; void what is not captured."),
    "not_reversible": Kind(409, "It cannot be reversed", "See `detail`; void or refund it."),
    "already_voided": Kind(409, "It is voided already", "Nothing is left to do; a new sale needs a new authorization."),
    "amount_exceeds_capturable": Kind(409, "The amount is more than may be captured", "See `amounts.left_to_capture`."),
    "amount_exceeds_refundable": Kind(409, "The amount is more than may be refunded", "See `amounts.left_to_refund`."),
    "amount_exceeds_disputable": Kind(409, "The amount is more than was captured and not given back", "See `amounts`; a refund may have come first."),
    "ticket_move": Kind(409, "A ticket may not take that step", "See `detail` for the steps that follow; read the ticket again."),
    "ticket_rated": Kind(409, "The ticket was rated already", "A ticket is rated once."),
    "dispute_closed": Kind(409, "The dispute is closed", "Read it again; nothing more can be done about it."),
    "dispute_overdue": Kind(409, "The time to answer is over", "The dispute is lost; ask the operator."),
    "dispute_waits": Kind(409, "The dispute waits for the other side", "Wait for the outcome; a webhook tells it."),
    "dispute_move": Kind(409, "That cannot follow in this state", "Read the dispute again and decide anew."),
    "rollout_move": Kind(409, "That cannot follow in this state", "Read the roll-out again; `detail` says what can follow."),
    "device_move": Kind(409, "That cannot follow in this state", "Read the device again; `detail` says what can follow."),
    "device_tampered": Kind(409, "The device was opened", "Swap it, and have it returned and repaired; or retire it."),
    "device_mismatch": Kind(409, "This key belongs to another device", "Activate this device with a code of its own."),
    "device_not_ready": Kind(409, "Something must be done before the device goes live", "See `errors`: each names a step, a check or a training."),
    "acceptance_move": Kind(409, "That cannot follow in this state", "Read the test again; `detail` says what can follow."),
    "acceptance_incomplete": Kind(409, "The test has not passed", "See `errors`: each names a step that is not shown, or a payment to undo."),
    "activation_refused": Kind(401, "This code does not activate this device", "Check the serial number and the code, or ask for a new code."),
    "too_many_attempts": Kind(429, "Too many wrong codes", "Wait for Retry-After. A code ends after five wrong tries: ask for a new one."),
    "application_move": Kind(409, "That cannot follow in this state", "Read the application again; `detail` says what can follow."),
    "application_changed": Kind(409, "The application changed meanwhile", "Read it again and decide about what it is now."),
    "application_incomplete": Kind(409, "Something is missing or wrong", "See `errors`: each names a document and what to do about it."),
    "no_application": Kind(409, "The merchant never applied here, so it has no documents that a licence could renew",
                           "Its operator records a licence that was seen, with its end (`POST /v1/merchants/{merchant}/licences`), which is watched "
                           "from then on; or it applies (`POST /v1/applications`), which opens a merchant whose documents are kept here."),
    "document_refused": Kind(422, "The file is no document that can be taken", "Send a whole PDF, PNG or JPEG of at most 4 MB."),
    "contract_move": Kind(409, "That cannot follow in this state", "Read the contract again; `detail` says what can follow."),
    "contract_changed": Kind(409, "The contract changed meanwhile", "Read it again and decide about what it is now."),
    "contract_terms": Kind(409, "These terms cannot come into force", "See `detail`; revise the contract, and let both sides sign it anew."),
    "contract_account": Kind(409, "Its payout account is not agreed", "Let two people agree the account (`.../bank-account/agreement`), then sign."),
    "contract_other_document": Kind(409, "Another document was signed than the newest", "Read the newest document, and sign its hash."),
    "leaving_step": Kind(409, "That cannot follow in this state", "Read the leaving again; `detail` says what can follow."),
    "leaving_waits": Kind(409, "Something must come first", "See `detail`: it names what is open, not returned or not paid."),
    "move_step": Kind(409, "That cannot follow in this state", "Read the change again; `detail` says what can follow."),
    "move_waits": Kind(409, "Something must come first", "See `detail`: it names what is open or missing."),
    "follow_up_open": Kind(409, "Another step of it has no outcome yet", "Wait for Retry-After, then send the same request again."),
    "follow_up_exists": Kind(409, "Something was built on it", "Void or refund it instead."),
    "risk_declined": Kind(403, "The switch refuses it by its own rules", "Nothing was sent. Use another card, or ask the operator about `hit`."),
    "signature_refused": Kind(422, "The file is no signature that can be taken", "Send a whole PNG with something drawn on it: 64 kB and "
                              "1024 x 512 pixels at most, 100 kB for a contract."),
    "no_image": Kind(501, "No image can be made here", "Ask for format=text, or let the operator install the extra `reports`."),
    "no_pdf": Kind(501, "No PDF can be made here", "Ask for format=html or text, or let the operator install the extra `reports`."),
    "no_route": Kind(503, "No acquirer serves this terminal", "Ask the operator: the terminal needs a route and an acquirer's terminal number."),
    "acquirer_unavailable": Kind(503, "The acquirer cannot be reached", "Nothing was sent. Try again after Retry-After under the same key."),
    "reversal_pending": Kind(503, "This terminal's last reversal is not done", "Nothing was sent. Try again after Retry-After under the same key."),
    "overloaded": Kind(503, "The switch is busy", "Nothing was sent. Try again after Retry-After under the same key."),
    "journal_unavailable": Kind(503, "The switch cannot write its journal", "Nothing was sent. Try again after Retry-After under the same key."),
    "draining": Kind(503, "The switch is shutting down", "Nothing was sent. Try again after Retry-After under the same key."),
    "not_ready": Kind(503, "The switch is not ready", "Try again after Retry-After."),
    "internal": Kind(500, "The switch has a fault", "Ask for the state by the key; tell the operator the request_id."),
})


class Problem(Exception):
    """A refusal that a caller sees. `detail` and `errors` never hold what the caller sent.

    `errors`: `[{"field": "card.expiry", "rule": "..."}]`. `retry_after`: seconds. `extra`: further members of the body.
    """

    def __init__(self, code: str, detail: str = "", *, errors: list[dict[str, str]] | None = None, retry_after: int | None = None,
                 extra: dict[str, object] | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.errors, self.retry_after, self.extra = code, detail, errors or [], retry_after, extra or {}

    @property
    def status(self) -> int:
        return PROBLEMS[self.code].status

    @property
    def said(self) -> dict[str, Any]:
        kind = PROBLEMS[self.code]
        return {"type": f"/problems/{self.code}", "title": kind.title, "status": kind.status, "detail": self.detail or kind.remedy,
                "code": self.code, "errors": self.errors}

    def body(self, request_id: str) -> bytes:
        return json.dumps({**self.said, "request_id": request_id, **self.extra}).encode()


def in_words(said: Mapping[str, Any]) -> str:
    """A problem's members as one line for a person: what is wrong, what to do about it, and the places and amounts that this has not named yet."""
    kind, title, detail = PROBLEMS.get(str(said.get("code"))), said.get("title") or "", said.get("detail") or ""
    text = f"{title}. {detail}" if kind is not None and detail == kind.remedy else detail or title
    faults = [fault for fault in said.get("errors") or () if fault["rule"].removesuffix(".") not in detail]
    places = list(dict.fromkeys(f"{fault['field']}: {fault['rule']}".removeprefix(": ") for fault in faults))
    places += [f"{name}: {value}" for name, value in (said.get("amounts") or {}).items()]
    text = text.removesuffix("; see errors.")  # they stand right behind it
    return text + (f" ({'; '.join(places)})" if places else "")


def file_refused(line: int, reason: str) -> Problem:
    """Of a file that is taken whole or not at all; the reason repeats nothing of it. Line 0 is the file as a whole."""
    place = f"line {line}" if line else "the file"
    return Problem("file_refused", f"Nothing of it was taken. {place.capitalize()}: {reason.removesuffix('.')}.",
                   errors=[{"field": place, "rule": reason, "type": "rule"}])


def taken(holder: str, since: datetime) -> Problem:
    return Problem("taken", f"{holder} has had it since {since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}.")


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names the variable and what it must be."""


class StartError(RuntimeError):
    """The switch cannot start; the message says what is wrong, where, and what to do."""
