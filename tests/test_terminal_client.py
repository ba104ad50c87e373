"""The reference terminal against a scripted server on a real socket: every row of its table, and what a power loss leaves behind."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.terminal import TABLE, Action, Receipt, Terminal, rule

PAN = "4111111111111111"
BODY = {"type": "purchase", "amount": 12300, "currency": "CNY", "card": {"entry_mode": "manual", "pan": PAN, "expiry": "3012"}}
ROOT = Path(__file__).resolve().parent.parent
CUT, HANG = b"cut", b"hang"


def answer(status: int, body: dict[str, Any] | bytes, *headers: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def sale(status: str = "approved", **more: Any) -> dict[str, Any]:
    return {"id": "txn_1", "status": status, "amount": 12300, "approved_amount": 12300, "approval_code": "A1B2C3", "advice": "none"} | more


APPROVED = answer(201, sale())
NOT_KNOWN = answer(404, {"code": "not_found"})
CANCELLED = answer(202, sale("reversing"))


class Script:
    """An HTTP server that plays one prepared act per connection and keeps what it was sent."""

    def __init__(self, *acts: bytes) -> None:
        self.acts, self.requests = list(acts), list[tuple[str, str | None, dict[str, Any] | None]]()
        self.came, self.hanging = threading.Event(), list[socket.socket]()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while self.acts:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection.makefile("rb") as stream:
                line = stream.readline().decode().split(" ")
                headers = dict(raw.decode().strip().split(": ", 1) for raw in iter(stream.readline, b"\r\n"))
                body = stream.read(int(headers.get("Content-Length", 0)))
            self.requests.append((f"{line[0]} {line[1]}", headers.get("Idempotency-Key"), json.loads(body) if body else None))
            self.play(connection, self.acts.pop(0))
            self.came.set()
        self.socket.close()

    def play(self, connection: socket.socket, act: bytes) -> None:
        if act == HANG:
            self.hanging.append(connection)
            return
        connection.sendall(act[: len(act) - 40] if act.endswith(CUT) else act)
        connection.close()

    def close(self) -> None:
        self.socket.close()
        for connection in self.hanging:
            connection.close()


@pytest.fixture
def script() -> Iterator[Any]:
    made: list[Script] = []

    def start(*acts: bytes) -> Script:
        made.append(Script(*acts))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    made: list[Terminal] = []

    def start(url: str, **more: Any) -> tuple[Terminal, list[float]]:
        pauses: list[float] = []
        settings: dict[str, Any] = {"answer_timeout": 0.3, "sleep": pauses.append} | more
        made.append(Terminal(url, "key_of_terminal", tmp_path / "journal", **settings))
        return made[-1], pauses

    yield start
    for one in made:
        one.journal.file.close()


def test_what_the_chip_takes_is_sold_with_what_the_issuer_said(script: Any, terminal: Any) -> None:
    server, heard = script(answer(201, sale(emv="9100"))), list[str | None]()
    client, _ = terminal(server.url)
    assert client.pay(BODY, lambda emv: not heard.append(emv)).sold and heard == ["9100"]
    assert len(server.requests) == 1


def test_what_the_chip_refuses_is_cancelled_with_the_reason_and_never_sold(script: Any, terminal: Any) -> None:
    server = script(APPROVED, HANG, CANCELLED)
    client, _ = terminal(server.url)
    receipt = client.pay(BODY, lambda emv: False)
    assert (receipt.sold, receipt.status, client.unfinished) == (False, "reversing", [])
    (_, key, _), *cancellations = server.requests
    assert cancellations == [("POST /v1/cancellations", None, {"idempotency_key": key, "reason": "chip_declined"})] * 2


@pytest.mark.parametrize("approval", [answer(201, sale("declined")), answer(202, sale("reversing"))])
def test_a_chip_is_asked_about_approvals_alone(script: Any, terminal: Any, approval: bytes) -> None:
    def chip(emv: str | None) -> bool:
        raise AssertionError("nothing was approved")

    client, _ = terminal(script(approval).url)
    assert not client.pay(BODY, chip).sold


def test_after_a_power_loss_the_refusal_of_the_chip_is_still_the_reason(script: Any, terminal: Any, tmp_path: Path) -> None:
    server = script(APPROVED, answer(200, sale()), CANCELLED)
    client, _ = terminal(server.url)

    def loses_power(key: str) -> Receipt:
        raise KeyboardInterrupt

    client.undo = loses_power
    with pytest.raises(KeyboardInterrupt):
        client.pay(BODY, lambda emv: False)
    client.journal.file.close()
    again, _ = terminal(server.url)
    (receipt,) = again.resume()
    assert (receipt.sold, receipt.status) == (False, "reversing")
    assert server.requests[-1][2] == {"idempotency_key": server.requests[0][1], "reason": "chip_declined"}


def test_an_approved_payment_is_one_request_and_one_receipt(script: Any, terminal: Any) -> None:
    server = script(answer(201, sale(approved_amount=6150)))
    client, _ = terminal(server.url)
    receipt = client.pay(BODY)
    (path, key, body), = server.requests
    assert (path, body) == ("POST /v1/authorizations", BODY)
    assert receipt == Receipt(str(key), True, "approved", "txn_1", 6150, "CNY", "A1B2C3", "none")
    assert client.receipts == [receipt]
    assert client.unfinished == []


def test_the_key_is_on_disk_before_the_request_arrives_and_the_card_never_is(script: Any, terminal: Any, tmp_path: Path) -> None:
    server = script(HANG, NOT_KNOWN, CANCELLED)
    client, _ = terminal(server.url, patience=0.0, answer_timeout=5.0)
    thread = threading.Thread(target=client.pay, args=(BODY,))
    thread.start()
    assert server.came.wait(5)
    written = (tmp_path / "journal").read_text()
    assert json.loads(written)["key"] == server.requests[0][1]
    server.hanging.pop().close()
    thread.join(5)
    assert PAN not in (tmp_path / "journal").read_text()
    assert "3012" not in (tmp_path / "journal").read_text()


def test_key_and_answer_are_synced_to_disk_each_before_the_next_step(
    script: Any, terminal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = script(APPROVED)
    client, _ = terminal(server.url)
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, len(server.requests))))
    client.pay(BODY)
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    assert synced == [(len(lines[0]), 0), (len(lines[0]) + len(lines[1]), 1)]


RETRIED = {
    "the connection cut in the middle of the answer": APPROVED + CUT,
    "the connection closed without an answer": CUT,
    "no answer in time": HANG,
    "409 in_progress": answer(409, {"code": "in_progress", "status": 409}, "Retry-After: 3"),
    "408": answer(408, {}),
    "429": answer(429, {"code": "slow_down"}, "Retry-After: 3"),
    "500": answer(500, {"code": "internal"}),
    "502 of a proxy, no JSON": answer(502, b"<html>bad gateway</html>"),
    "503 processed:false": answer(503, {"code": "no_line", "processed": False}, "Retry-After: 3"),
    "504": answer(504, b""),
    "201 that is no JSON": answer(201, b"\x00"),
    "200, a status the contract does not know": answer(200, {}),
}


@pytest.mark.parametrize("act", RETRIED.values(), ids=RETRIED.keys())
def test_what_is_no_answer_is_sent_again_with_the_same_key_and_body(act: bytes, script: Any, terminal: Any) -> None:
    server = script(act, act, APPROVED)
    client, pauses = terminal(server.url)
    assert client.pay(BODY).sold
    assert len(server.requests) == 3
    assert len({json.dumps(request) for request in server.requests}) == 1
    least = 3.0 if b"Retry-After" in act else 0.5
    assert [pause >= least for pause in pauses] == [True, True]
    assert max(pauses) <= 12


FINAL = {
    "201 declined": (answer(201, sale("declined", approval_code=None, advice="other_card")), "declined"),
    "201 not_sent": (answer(201, sale("not_sent")), "not_sent"),
    "202 reversing": (answer(202, {"id": "txn_1", "status": "reversing", "advice": "new_payment_allowed"}), "reversing"),
    "202 parked": (answer(202, {"id": "txn_1", "status": "parked"}), "parked"),
    "409 possible_duplicate": (answer(409, {"code": "possible_duplicate"}), "409 possible_duplicate"),
    "409 cancelled_by_terminal": (answer(409, {"code": "cancelled_by_terminal"}), "409 cancelled_by_terminal"),
    "400": (answer(400, {"code": "malformed"}), "400 malformed"),
    "401": (answer(401, {"code": "unauthorized"}), "401 unauthorized"),
    "404": (NOT_KNOWN, "404 not_found"),
    "422": (answer(422, {"code": "invalid"}), "422 invalid"),
    "422 idempotency_key_reused": (answer(422, {"code": "idempotency_key_reused"}), "422 idempotency_key_reused"),
}


@pytest.mark.parametrize(("act", "status"), FINAL.values(), ids=FINAL.keys())
def test_a_final_answer_ends_the_payment_unsold_without_another_request(act: bytes, status: str, script: Any, terminal: Any) -> None:
    server = script(act)
    client, _ = terminal(server.url)
    receipt = client.pay(BODY)
    assert (receipt.sold, receipt.status, receipt.approval_code, receipt.amount) == (False, status, None, 12300)
    assert (len(server.requests), client.unfinished) == (1, [])


def test_a_refusal_after_a_lost_answer_is_not_believed_but_cancelled(script: Any, terminal: Any) -> None:
    server = script(APPROVED + CUT, answer(401, {"code": "unauthorized"}), answer(200, sale()), CANCELLED)
    client, _ = terminal(server.url)
    receipt = client.pay(BODY)
    key = server.requests[0][1]
    assert [request[0] for request in server.requests[2:]] == [f"GET /v1/authorizations?idempotency_key={key}", "POST /v1/cancellations"]
    assert server.requests[3][2] == {"idempotency_key": key}
    assert (receipt.sold, receipt.status) == (False, "reversing")


def test_a_payment_still_pending_at_the_deadline_is_not_sold_and_cancelled_to_be_sure(script: Any, terminal: Any) -> None:
    server = script(answer(202, {"id": "txn_1", "status": "pending", "advice": "ask_again"}), answer(200, sale("pending")), CANCELLED)
    client, _ = terminal(server.url)
    assert (client.pay(BODY).status, client.unfinished) == ("reversing", [])
    assert server.requests[2][2] == {"idempotency_key": server.requests[0][1]}


def test_a_key_that_belongs_to_another_payment_is_never_cancelled(script: Any, terminal: Any) -> None:
    server = script(CUT, answer(422, {"code": "idempotency_key_reused"}))
    client, _ = terminal(server.url)
    assert client.pay(BODY).status == "422 idempotency_key_reused"
    assert len(server.requests) == 2


def test_what_is_known_to_be_unprocessed_ends_without_a_cancellation(script: Any, terminal: Any) -> None:
    busy = answer(503, {"code": "busy", "processed": False})
    server = script(busy, busy, busy, busy, busy)
    client, _ = terminal(server.url)
    assert client.pay(BODY).status == "503 processed:false"
    assert (len(server.requests), client.unfinished) == (5, [])


def test_out_of_tries_after_a_lost_answer_it_asks_and_cancels_until_acknowledged(script: Any, terminal: Any) -> None:
    server = script(CUT, *[answer(503, {"processed": False})] * 4, NOT_KNOWN, answer(500, {}), CUT, CANCELLED)
    client, _ = terminal(server.url)
    assert (client.pay(BODY).status, client.unfinished) == ("reversing", [])
    assert [request[0] for request in server.requests[6:]] == ["POST /v1/cancellations"] * 3


def test_a_cancellation_nobody_acknowledged_stays_owed_until_the_network_is_back(script: Any, terminal: Any) -> None:
    server = script(CUT)
    client, _ = terminal(server.url)
    receipt = client.pay(BODY)
    assert (receipt.sold, receipt.status, client.unfinished) == (False, "cancelling", [receipt.key])
    back = script(NOT_KNOWN, CANCELLED)
    client.url = client.url._replace(netloc=back.url.removeprefix("http://"))
    assert [(one.key, one.sold, one.status) for one in client.resume()] == [(receipt.key, False, "reversing")]
    assert client.unfinished == []


def test_a_step_that_may_have_happened_stays_open_until_somebody_says_what_came_of_it(script: Any, terminal: Any) -> None:
    client, _ = terminal(script(CUT).url)
    receipt = client.follow("captures", "txn_1", {"amount": 900})
    assert (receipt.sold, receipt.status, client.unfinished) == (False, "open", [receipt.key])
    for unheard in ([], [answer(503, {"processed": False})] * 5, [answer(401, {"code": "unauthenticated"})]):
        client.url = client.url._replace(netloc=script(*unheard).url.removeprefix("http://") if unheard else "127.0.0.1:1")
        assert [one.status for one in client.resume()] == ["open"] and client.unfinished == [receipt.key]
    back = script(answer(201, sale(approved_amount=900)))
    client.url = client.url._replace(netloc=back.url.removeprefix("http://"))
    assert [(one.key, one.sold, one.amount) for one in client.resume()] == [(receipt.key, True, 900)]
    assert back.requests[0][1] == receipt.key and client.unfinished == []


def test_a_terminal_killed_while_it_waits_cancels_the_payment_at_its_next_start(script: Any, terminal: Any, tmp_path: Path) -> None:
    server = script(HANG, answer(200, sale()), CANCELLED)
    program = ("import json, sys; from pathlib import Path; from loadtests.terminal import Terminal; "
               "Terminal(sys.argv[1], 'k', Path(sys.argv[2])).pay(json.load(sys.stdin))")
    with subprocess.Popen([sys.executable, "-c", program, server.url, tmp_path / "journal"], stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(BODY).encode())
        process.stdin.close()
        assert server.came.wait(10)
        os.kill(process.pid, signal.SIGKILL)
    client, _ = terminal(server.url)
    assert client.unfinished == [server.requests[0][1]]
    receipt, = client.resume()
    assert (receipt.sold, receipt.status, receipt.amount) == (False, "reversing", 12300)
    assert server.requests[2][2] == {"idempotency_key": server.requests[0][1]}
    assert client.receipts == [receipt]


@pytest.mark.parametrize(("status", "cancels"), [
    ("declined", 0), ("not_sent", 0), ("reversing", 0), ("reversed", 0), ("confirmed", 0), ("approved", 1), ("pending", 1),
])
def test_after_a_power_loss_only_what_may_still_be_sold_is_cancelled(
    status: str, cancels: int, script: Any, terminal: Any, tmp_path: Path
) -> None:
    (tmp_path / "journal").write_text('{"key": "0123456789abcdef", "amount": 5, "currency": "CNY"}\n')
    server = script(answer(200, sale(status)), CANCELLED)
    client, _ = terminal(server.url)
    receipt, = client.resume()
    assert not receipt.sold
    assert len(server.requests) == 1 + cancels


def test_a_line_torn_by_a_power_loss_is_dropped_and_the_journal_goes_on(script: Any, terminal: Any, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"key": "0123456789abcdef", "amount": 5, "currency": "CNY"}\n{"key": "fedc')
    server = script(answer(200, sale("declined")), APPROVED)
    client, _ = terminal(server.url)
    client.resume()
    first = client.pay(BODY)
    client.journal.file.close()
    again, _ = terminal(server.url)
    assert again.receipts[-1] == first
    assert [receipt.key for receipt in again.receipts] == ["0123456789abcdef", first.key]


def test_a_journal_has_one_owner(script: Any, terminal: Any) -> None:
    first, _ = terminal("http://127.0.0.1:1")
    with pytest.raises(BlockingIOError):
        terminal("http://127.0.0.1:1")
    assert first.unfinished == []


def test_patience_bounds_the_time_a_customer_waits(script: Any, terminal: Any) -> None:
    server = script(HANG, NOT_KNOWN, CANCELLED)
    client, pauses = terminal(server.url, patience=0.4)
    started = time.monotonic()
    assert client.pay(BODY).status == "reversing"
    assert time.monotonic() - started < 2
    assert (len(server.requests), pauses) == (3, [])


@pytest.mark.parametrize(("call", "outcome", "action"), [
    ("pay", "201 approved", Action.SOLD), ("pay", "201 something_new", Action.AGAIN), ("pay", "302", Action.REFUSED),
    ("pay", "599", Action.AGAIN), ("pay", "100", Action.AGAIN), ("pay", "418 teapot", Action.REFUSED), ("pay", "409 other", Action.REFUSED),
    ("ask", "200 approved", Action.CANCEL), ("ask", "500", Action.CANCEL), ("ask", "404 not_found", Action.CANCEL),
    ("cancel", "200 approved", Action.AGAIN), ("cancel", "200 cancelled", Action.NOT_SOLD),
    ("cancel", "409 day_closed", Action.OFFICE), ("cancel", "401 unauthorized", Action.REFUSED),
])
def test_the_most_exact_row_decides_and_the_unknown_is_doubt(call: str, outcome: str, action: Action) -> None:
    assert rule(call, outcome).action is action


def test_nothing_but_an_approval_sells() -> None:
    selling = [(call, outcome) for call, rows in TABLE.items() for outcome, step in rows.items() if step.action is Action.SOLD]
    assert selling == [("pay", "201 approved"), ("follow", "201 approved"), ("follow", "202 pending none")]
