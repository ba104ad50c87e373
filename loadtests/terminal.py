"""A payment terminal's side of the contract as a small client library; docs/terminal-guide.md quotes it and the tests run it.

Standard library only. One Terminal object takes one payment at a time and owns its journal file. The rule it follows: the key is on disk
before the request leaves, the answer is on disk before the customer sees it, and whatever stays without a final answer is cancelled by key.
"""
import contextlib
import enum
import fcntl
import http.client
import json
import os
import random
import secrets
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CONNECT_TIMEOUT = 5.0  # seconds; no connection = nothing was sent
ANSWER_TIMEOUT = 45.0  # seconds; longer than the switch's own 35 s, so the switch decides first
PATIENCE = 90.0  # seconds a customer waits in all; then the payment is cancelled
TRIES = 5
PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds, doubled per try, with jitter


class Action(enum.StrEnum):
    SOLD = "sold"  # print, hand over the goods
    NOT_SOLD = "not_sold"  # final: show reason and advice; another payment takes a new key
    AGAIN = "again"  # same key, same body, after a pause; out of patience: cancel if unsure
    CANCEL = "cancel"  # POST /v1/cancellations with the key
    ASK = "ask"  # GET /v1/authorizations?idempotency_key=
    REFUSED = "refused"  # nothing was written for this call: put right what `code` names; cancel if an earlier try is unanswered
    OFFICE = "office"  # final for the terminal: a person settles it


class Step(NamedTuple):
    action: Action
    unsure: bool = False  # True: the switch may have acted on this call


REPEAT = {
    "no_connection": Step(Action.AGAIN),
    "broken": Step(Action.AGAIN, unsure=True),
    "timeout": Step(Action.AGAIN, unsure=True),
    "unreadable": Step(Action.AGAIN, unsure=True),
    "2xx": Step(Action.AGAIN, unsure=True),
    "3xx": Step(Action.REFUSED, unsure=True),
    "408": Step(Action.AGAIN, unsure=True),
    "429": Step(Action.AGAIN),
    "4xx": Step(Action.REFUSED),
    "503 processed:false": Step(Action.AGAIN),
    "5xx": Step(Action.AGAIN, unsure=True),
}
OUTCOMES = REPEAT | {
    "201 approved": Step(Action.SOLD),
    "201 declined": Step(Action.NOT_SOLD),
    "201 not_sent": Step(Action.NOT_SOLD),
    "202 pending ask": Step(Action.AGAIN, unsure=True),
    "202 pending": Step(Action.CANCEL, unsure=True),
    "202 reversing": Step(Action.NOT_SOLD),
    "202 reversed": Step(Action.NOT_SOLD),
    "202 parked": Step(Action.NOT_SOLD),
    "202 confirmed": Step(Action.OFFICE),
    "409 in_progress": Step(Action.AGAIN, unsure=True),
    "422 idempotency_key_reused": Step(Action.OFFICE),
}
TABLE: dict[str, dict[str, Step]] = {
    "pay": OUTCOMES | {
        "409 cancelled_by_terminal": Step(Action.NOT_SOLD),
        "409 possible_duplicate": Step(Action.REFUSED),
        "power_loss": Step(Action.ASK, unsure=True),
    },
    "ask": {
        "200 declined": Step(Action.NOT_SOLD),
        "200 not_sent": Step(Action.NOT_SOLD),
        "200 reversing": Step(Action.NOT_SOLD),
        "200 reversed": Step(Action.NOT_SOLD),
        "200 parked": Step(Action.NOT_SOLD),
        "200 confirmed": Step(Action.OFFICE),
        "409 cancelled_by_terminal": Step(Action.NOT_SOLD),
        "anything_else": Step(Action.CANCEL),
    },
    "cancel": REPEAT | {
        "200 cancelled": Step(Action.NOT_SOLD),
        "200 declined": Step(Action.NOT_SOLD),
        "200 not_sent": Step(Action.NOT_SOLD),
        "202 reversing": Step(Action.NOT_SOLD),
        "200 reversed": Step(Action.NOT_SOLD),
        "200 parked": Step(Action.NOT_SOLD),
        "200 confirmed": Step(Action.OFFICE),
        "409 in_progress": Step(Action.AGAIN),
        "409 follow_up_open": Step(Action.AGAIN),
        "409": Step(Action.OFFICE),
    },
    "follow": OUTCOMES | {
        "202 pending none": Step(Action.SOLD),
        "409 follow_up_open": Step(Action.AGAIN),
        "409": Step(Action.NOT_SOLD),
        "power_loss": Step(Action.AGAIN, unsure=True),
    },
}


def rule(call: str, outcome: str) -> Step:
    """The row of TABLE for an outcome such as "409 in_progress": the whole text, else the status, else its class."""
    rows, status = TABLE[call], outcome.split(" ")[0]
    for name in (outcome, status, f"{status[:1]}xx", "anything_else"):
        if name in rows:
            return rows[name]
    return Step(Action.AGAIN, unsure=True)  # a status nobody has heard of is doubt, never "failed"


class Receipt(NamedTuple):
    """What the terminal told the customer. amount in minor units: what was charged if sold, else what was asked."""

    key: str
    sold: bool
    status: str
    id: str | None
    amount: int
    currency: str
    approval_code: str | None
    advice: str | None


class Journal:
    """One JSON object a line, fsynced; never card data. A line cut off by a power loss was never acted on and is dropped."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab+")  # noqa: SIM115  stays open as long as the terminal lives
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two owners would cancel each other's payments
        except OSError:
            self.file.close()
            raise
        self.file.seek(0)
        lines = self.file.read()
        self.file.truncate(lines.rfind(b"\n") + 1)
        self.entries: dict[str, dict[str, Any]] = {}
        for line in lines[: lines.rfind(b"\n") + 1].splitlines():
            entry = json.loads(line)
            self.entries.setdefault(entry["key"], {}).update(entry)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)  # the file's name must survive too
        os.close(directory)

    def write(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.entries.setdefault(entry["key"], {}).update(entry)


class Terminal:
    """pay() takes a payment, resume() closes what a power loss left open, receipts is what the customers were told."""

    def __init__(self, base_url: str, key: str, journal: Path, *, answer_timeout: float = ANSWER_TIMEOUT, patience: float = PATIENCE,
                 sleep: Callable[[float], object] = time.sleep) -> None:
        self.url, self.key, self.journal = urllib.parse.urlsplit(base_url), key, Journal(journal)
        self.answer_timeout, self.patience, self.sleep = answer_timeout, patience, sleep

    @property
    def receipts(self) -> list[Receipt]:
        return [Receipt._make(entry[name] for name in Receipt._fields) for entry in self.journal.entries.values()
                if "status" in entry]

    @property
    def unfinished(self) -> list[str]:
        """Keys without a final answer: after a start there may be one; more only while the network is away."""
        return [key for key, entry in self.journal.entries.items() if "status" not in entry and "batch" not in entry]

    def pay(self, body: dict[str, Any], chip: Callable[[str | None], bool] | None = None) -> Receipt:
        """`chip` hands the answer's `emv` to the card (EXTERNAL AUTHENTICATE, scripts, second GENERATE AC): False when the card refuses."""
        key = secrets.token_hex(16)
        held = body.get("type") == "preauthorization" or body.get("capture_method") == "manual"
        self.journal.write({"key": key, "amount": body.get("amount", 0), "currency": body.get("currency", ""), "held": held})  # durable first
        step, outcome, answer, unsure = self.repeat("pay", "/v1/authorizations", body, key)
        if step.action is Action.SOLD and chip is not None and not chip(answer.get("emv")):
            self.journal.write({"key": key, "reason": "chip_declined"})  # durable: what undoes it after a power loss says the same
            return self.undo(key)
        if step.action in (Action.SOLD, Action.NOT_SOLD, Action.OFFICE):
            return self.close(key, step, outcome, answer)
        return self.settle(key) if unsure else self.close(key, step, outcome, answer)  # nothing was written: no duty

    def resume(self) -> list[Receipt]:
        """After a start, and whenever the network is back: ask, then cancel. The card data is gone, so no request can be sent again."""
        return [self.carry_on(key, True) if "path" in self.journal.entries[key] else self.settle(key) for key in self.unfinished]

    def follow(self, verb: str, authorization: str, body: dict[str, Any]) -> Receipt:
        """captures, increments, voids, tips or refunds of an authorization. It holds no card data, so all of it is kept and can be sent again."""
        path = "/v1/refunds" if verb == "refunds" else f"/v1/authorizations/{authorization}/{verb}"
        body = body | {"authorization": authorization} if verb == "refunds" else body
        key, amount = secrets.token_hex(16), body.get("amount", body.get("tip_amount", 0))
        self.journal.write({"key": key, "amount": amount, "currency": "", "path": path, "body": body})  # durable before sending
        return self.carry_on(key)

    def carry_on(self, key: str, unsure_before: bool = False) -> Receipt:
        entry = self.journal.entries[key]
        step, outcome, answer, unsure = self.repeat("follow", entry["path"], entry["body"], key)
        unsure = unsure or unsure_before
        if step.action is Action.CANCEL:
            return self.settle(key)
        if unsure and step.action in (Action.AGAIN, Action.REFUSED):  # it may have happened: the same key is sent again at the next resume
            return Receipt(key, False, "open", None, entry["amount"], entry["currency"], None, None)
        return self.close(key, step, outcome, answer)

    def close_batch(self, terminal: str) -> dict[str, Any]:
        """Closes the batch with what the journal counts; the answer says whether the switch agrees. Empty: no answer yet, call again. When it is
        closed, in balance or not, the next journal begins."""
        if self.unfinished:
            raise ValueError("close what is open first: resume()")
        marks = [number for number, (key, entry) in enumerate(self.journal.entries.items()) if entry.get("batch") == "closed"]
        entries = list(self.journal.entries.items())[marks[-1] + 1 if marks else 0:]
        open_one = next((key for key, entry in entries if entry.get("batch") == "open"), None)
        if open_one is None:
            open_one = secrets.token_hex(16)
            earlier = [entry for key, entry in self.journal.entries.items() if key not in dict(entries)]
            totals = counted([entry for _, entry in entries], {entry["id"]: entry for entry in earlier if entry.get("sold")})
            self.journal.write({"key": open_one, "batch": "open", "body": {"totals": totals}})  # durable before sending: its repeat is the same
        outcome, answer, _ = self.exchange("POST", f"/v1/terminals/{terminal}/batches", self.journal.entries[open_one]["body"], open_one)
        if not outcome.startswith("201"):
            return {}
        self.journal.write({"key": open_one, "batch": "closed", "in_balance": answer["in_balance"]})
        return answer

    def settle(self, key: str) -> Receipt:
        outcome, answer, _ = self.exchange("GET", f"/v1/authorizations?idempotency_key={key}", None, None)
        step = rule("ask", outcome)
        return self.undo(key) if step.action is Action.CANCEL else self.close(key, step, outcome, answer)

    def undo(self, key: str) -> Receipt:
        """Cancels by key until it is acknowledged; with the reason, if the journal has one."""
        entry = self.journal.entries[key]
        reason = {"reason": entry["reason"]} if "reason" in entry else {}
        step, outcome, answer, _ = self.repeat("cancel", "/v1/cancellations", {"idempotency_key": key} | reason, None)
        if step.action in (Action.AGAIN, Action.REFUSED):  # not acknowledged: the duty stays in the journal
            return Receipt(key, False, "cancelling", None, entry["amount"], entry["currency"], None, None)
        return self.close(key, step, outcome, answer)

    def close(self, key: str, step: Step, outcome: str, answer: dict[str, Any]) -> Receipt:
        entry, sold = self.journal.entries[key], step.action is Action.SOLD
        status = answer.get("status") if outcome[0] == "2" else outcome
        amount = answer.get("approved_amount", entry["amount"]) if sold else entry["amount"]
        receipt = Receipt(key, sold, status or outcome, answer.get("id"), amount, entry["currency"] or answer.get("currency", ""),
                          answer.get("approval_code") if sold else None, answer.get("advice"))
        self.journal.write(receipt._asdict())  # durable before the customer sees it
        return receipt

    def repeat(self, call: str, path: str, body: dict[str, Any], key: str | None) -> tuple[Step, str, dict[str, Any], bool]:
        """Sends until the table says something else than AGAIN, or patience ends -> (step, outcome, answer, was any try unsure)."""
        unsure, end = False, time.monotonic() + self.patience
        for count in range(TRIES):
            outcome, answer, retry_after = self.exchange("POST", path, body, key)
            step = rule(call, outcome)
            unsure = unsure or step.unsure
            pause = max(retry_after, min(LONGEST_PAUSE, PAUSE * 2**count)) * random.uniform(1.0, 1.5)
            if step.action is not Action.AGAIN or time.monotonic() + pause > end or count == TRIES - 1:
                break
            self.sleep(pause)
        return step, outcome, answer, unsure

    def exchange(self, method: str, path: str, body: dict[str, Any] | None, key: str | None) -> tuple[str, dict[str, Any], float]:
        """One call on a new connection -> (outcome, answer, seconds of Retry-After); network trouble is an outcome, not an exception."""
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.hostname or "", self.url.port, timeout=CONNECT_TIMEOUT)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError:
                return "no_connection", {}, 0.0
            try:
                connection.sock.settimeout(self.answer_timeout)
                connection.request(method, path, json.dumps(body) if body is not None else None, headers)
                response = connection.getresponse()
                raw = response.read()
            except TimeoutError:
                return "timeout", {}, 0.0
            except (OSError, http.client.HTTPException):
                return "broken", {}, 0.0
        retry_after = response.getheader("Retry-After", "")
        return *read(response.status, raw), min(float(retry_after), 30.0) if retry_after.isdigit() else 0.0


def counted(entries: list[dict[str, Any]], earlier: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was sold and given back, by currency. What was voided since counts as nothing, or, sold before the last close, as given back."""
    sold = [entry for entry in entries if entry.get("sold")]
    voided = {entry["path"].split("/")[3] for entry in sold if entry.get("path", "").endswith("/voids")}
    totals: dict[str, dict[str, Any]] = {}
    for entry in [*sold, *[earlier[each] | {"path": "/v1/refunds", "id": None} for each in voided & earlier.keys()]]:
        path = entry.get("path", "")
        mine = entry.get("id") in voided or (path.split("/")[3:4] and path.split("/")[3] in voided)
        if mine or entry.get("held") or path.endswith(("/voids", "/increments")) or not entry["amount"]:
            continue
        total = totals.setdefault(entry["currency"], {"currency": entry["currency"], "sales_count": 0, "sales": 0, "refunds_count": 0, "refunds": 0})
        kind = "refunds" if path == "/v1/refunds" else "sales"
        total[f"{kind}_count"] += 1
        total[kind] += entry["amount"]
    return list(totals.values())


def read(status: int, raw: bytes) -> tuple[str, dict[str, Any]]:
    """Status and body -> (outcome, answer): "201 approved", "409 in_progress", "503 processed:false", "502", "unreadable"."""
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return (str(status), {}) if status >= 300 else ("unreadable", {})
    if status == 503 and answer.get("processed") is False:
        return "503 processed:false", answer
    word = answer.get("status") if status < 300 else answer.get("code")
    if status == 202 and word == "pending" and answer.get("advice") == "none":
        word = "pending none"  # an advice: it is repeated until the acquirer answers
    elif status == 202 and word == "pending" and answer.get("ask"):
        word = "pending ask"  # the payer decides on the phone, or the wallet takes its time: nothing of it failed
    return f"{status} {word}" if isinstance(word, str) else str(status), answer


if __name__ == "__main__":  # python -m loadtests.terminal FOLDER VERB ...: one simulated device
    from loadtests.verbs import main

    raise SystemExit(main())
