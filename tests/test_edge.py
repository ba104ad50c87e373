"""The HTTP edge against a real uvicorn on uvloop, by raw sockets. After every case the server still serves the next client."""

import asyncio
import gc
import json
import os
import re
import resource
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
import uvloop

from switch.api.edge import EdgeLimits, edge_protocol
from switch.api.straight import StraightWay, WholeAnswer

LIMITS = EdgeLimits(request_seconds=0.3, write_seconds=0.3, linger_seconds=0.2, linger_bytes=1 << 20)
HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MARKER = b"mArKeR"
KB = 1024


class App:
    """Answers with what it received. Keeps what it saw."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.straight = 0
        self.paths: list[str] = []
        self.disconnected = 0
        self.finished = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if scope["path"] in ("/early", "/v1/licences/early/file"):
            await self.answer(send, b"early")
        elif scope["path"] == "/slow":
            await asyncio.sleep(0.25)
            await self.answer(send, b"slow")
        elif scope["path"].startswith("/stream"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(int(scope["path"][7:])):
                await send({"type": "http.response.body", "body": bytes(64 * KB), "more_body": True})
            await send({"type": "http.response.body"})
        elif scope["path"] == "/hasty":
            await receive()
            await asyncio.sleep(0.05)
            await self.answer(send, b"hasty")
        elif scope["path"] == "/modest":
            await self.answer(send, bytes(60 * KB))
        elif scope["path"] == "/huge":
            await self.answer(send, bytes(16 * KB * KB))
        else:
            await self.echo(scope, receive, send)
        self.finished += 1

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        count = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            count += len(message["body"])
            if not message["more_body"]:
                break
        names = sorted(name.decode() for name, _ in scope["headers"])
        await self.answer(send, json.dumps({"query": scope["query_string"].decode(), "bytes": count, "headers": names}).encode())

    def start(self, headers: list[tuple[bytes, bytes]], body: bytes, whole: WholeAnswer) -> None:
        """The echo, straight."""
        task = asyncio.get_running_loop().create_task(self._straight(headers, body, whole))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _straight(self, headers: list[tuple[bytes, bytes]], body: bytes, whole: WholeAnswer) -> None:
        self.straight += 1
        self.paths.append("/echo")
        names = sorted(name.decode() for name, _ in headers)
        query = whole.cycle.scope["query_string"].decode()
        answer = json.dumps({"query": query, "bytes": len(body), "headers": names}).encode()
        if not whole.write(200, [], answer):
            await self.answer(whole.cycle.send, answer)
        self.finished += 1

    @staticmethod
    async def answer(send: Any, body: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Served:
    def __init__(self, limits: EdgeLimits, send_buffer: int = 0, straight: bool = False) -> None:
        self.app = App()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        if send_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.address = self.listener.getsockname()
        config = uvicorn.Config(self.app, http=edge_protocol(limits, StraightWay("/echo", self.app.start) if straight else None), ws="none",
                                lifespan="off", interface="asgi3", log_config=None, timeout_keep_alive=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: uvloop.run(self.server.serve([self.listener])), daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(3)
        client.connect(self.address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def ask(self, *parts: bytes, pause: float = 0.0) -> list["Answer"]:
        """Sends the parts and gives every answer until the server closes."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            return answers(rest(client))


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def until(true: Any, seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def rest(client: socket.socket) -> bytes:
    """What the server sends until it closes. Fails after three silent seconds."""
    received = b""
    while data := client.recv(64 * KB):
        received += data
    return received


def answer_from(client: socket.socket) -> Answer:
    """One answer from a connection that stays open."""
    received = b""
    while True:
        head, blank, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if blank and length and len(body) >= int(length[1]):
            return answers(received)[0]
        data = client.recv(64 * KB)
        assert data, received
        received += data


def answers(received: bytes) -> list[Answer]:
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        found.append(Answer(int(first.split(" ")[1]), headers, received[:length]))
        received = received[length:]
    return found


@contextmanager
def serving(limits: EdgeLimits, send_buffer: int = 0, straight: bool = False) -> Iterator[Served]:
    served = Served(limits, send_buffer, straight)
    try:
        yield served
        with served.connect() as client:
            client.sendall(GET)
            assert answer_from(client).status == 200
    finally:
        served.server.should_exit = served.server.force_exit = True
        served.thread.join(5)
        served.listener.close()


@pytest.fixture(scope="module", params=[False, True], ids=["asgi", "straight"])
def shared(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(LIMITS, straight=request.param) as served:
        yield served


@pytest.fixture
def edge(shared: Served) -> Iterator[Served]:
    """The server, proven to serve and to hold nothing after each case."""
    before = shared.app.disconnected
    shared.app.disconnected = 0
    yield shared
    with shared.connect() as client:
        client.sendall(GET)
        assert answer_from(client).status == 200
    until(lambda: shared.connections == 0 and not shared.server.server_state.tasks)
    shared.app.disconnected += before


def refused(found: list[Answer], status: int, code: str) -> None:
    assert [answer.status for answer in found] == [status]
    answer = found[0]
    assert answer.headers["content-type"] == "application/problem+json" and answer.headers["connection"] == "close"
    assert answer.json["code"] == code and answer.json["type"] == f"/problems/{code}" and answer.json["status"] == status
    assert set(answer.json) == {"type", "title", "status", "detail", "code", "errors", "request_id"} and answer.json["errors"] == []
    assert re.fullmatch(r"[0-9a-f]{16}", answer.json["request_id"]) and MARKER.lower() not in answer.body.lower()


# Time


@pytest.mark.parametrize("start", [HEAD, HEAD + b"Content-Length: 900\r\n\r\n"], ids=["header", "body"])
def test_a_request_that_drips_past_the_deadline_gets_408(edge: Served, start: bytes) -> None:
    with edge.connect() as client:
        client.sendall(start)
        began, client_sees = time.monotonic(), b""
        client.settimeout(0.05)
        while time.monotonic() - began < 2 and not client_sees:
            client.sendall(b"x")
            with suppress(TimeoutError):
                client_sees = client.recv(64 * KB)
        assert 0.2 < time.monotonic() - began < 0.8
        client.settimeout(3)
        refused(answers(client_sees + rest(client)), 408, "request_timeout")


def test_the_application_that_waits_for_the_rest_of_a_late_body_is_told_of_a_disconnect(edge: Served) -> None:
    refused(edge.ask(HEAD + b"Content-Length: 9\r\n\r\n1234"), 408, "request_timeout")
    until(lambda: edge.app.disconnected == 1)


def test_what_the_application_answers_to_half_a_body_after_the_refusal_goes_nowhere(edge: Served) -> None:
    finished = edge.app.finished
    with edge.connect() as client:
        client.sendall(b"POST /hasty HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        time.sleep(0.02)
        client.sendall(b"zz\r\n")
        refused(answers(rest(client)), 400, "request_malformed")
        until(lambda: not edge.server.server_state.tasks)  # while the connection is still there
        assert edge.connections == 1 and edge.app.finished == finished + 1


def test_a_silent_connection_is_closed_at_the_deadline(edge: Served) -> None:
    began = time.monotonic()
    refused(edge.ask(), 408, "request_timeout")
    assert 0.2 < time.monotonic() - began < 1.2


def test_a_request_that_trickles_in_before_the_deadline_is_served(edge: Served) -> None:
    with edge.connect() as client:
        for byte in HEAD + b"Content-Length: 4\r\n\r\nbody":
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer_from(client).json["bytes"] == 4


def test_a_kept_connection_is_used_again_after_longer_than_the_deadline(edge: Served) -> None:
    with edge.connect() as client:
        for _ in range(2):
            client.sendall(GET)
            assert answer_from(client).status == 200
            time.sleep(0.4)
        for byte in GET:
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer_from(client).status == 200


def test_the_second_request_of_a_connection_has_the_same_deadline(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(GET)
        assert answer_from(client).status == 200
        began = time.monotonic()
        client.sendall(HEAD)
        refused(answers(rest(client)), 408, "request_timeout")
        assert 0.2 < time.monotonic() - began < 1.2


def test_empty_lines_between_requests_do_not_hold_a_connection(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(GET)
        assert answer_from(client).status == 200
        began = time.monotonic()
        client.settimeout(0.05)
        seen = None
        while seen is None and time.monotonic() - began < 2:
            try:
                client.sendall(b"\r\n")
                seen = client.recv(10)
            except TimeoutError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                seen = b""
        assert seen == b"" and time.monotonic() - began < 1


def test_an_answer_before_the_end_of_the_body_does_not_lift_the_deadline(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1")
        assert answer_from(client).body == b"early"
        began = time.monotonic()
        client.sendall(b"2")
        assert rest(client) == b"" and time.monotonic() - began < 1


def test_an_upload_that_is_the_last_and_refused_early_still_gets_its_answer(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /v1/licences/early/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n" + bytes(100 * KB))
        time.sleep(0.1)
        for _ in range(5):
            client.sendall(bytes(100 * KB))
        assert answers(rest(client))[0].body == b"early"


def test_an_upload_that_is_the_last_closes_when_it_is_answered(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /v1/licences/doc/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n123")
        assert answers(rest(client))[0].json["bytes"] == 3


def test_an_answer_before_the_end_of_the_body_leaves_the_connection_usable(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n1")
        assert answer_from(client).body == b"early"
        client.sendall(b"23")
        time.sleep(0.15)
        client.sendall(GET[:9])
        time.sleep(0.2)
        client.sendall(GET[9:])
        assert answer_from(client).status == 200


def test_a_pipelined_request_is_not_late_while_the_one_before_it_is_at_work(edge: Served) -> None:
    second = HEAD + b"Content-Length: 4\r\n\r\n"
    with edge.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + second)
        assert answer_from(client).body == b"slow"
        time.sleep(0.2)
        client.sendall(b"body")
        assert answer_from(client).json["bytes"] == 4


def test_a_pipelined_request_is_late_when_it_does_not_come_on_in_its_turn(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + HEAD + b"Content-Length: 4\r\n\r\n")
        first, *second = answers(rest(client))
        assert first.body == b"slow"
        refused(second, 408, "request_timeout")


def test_a_reader_that_does_not_read_is_cut_off(edge: Served) -> None:
    finished = edge.app.finished
    with edge.connect(receive_buffer=4 * KB) as client:
        client.sendall(b"GET /stream1000 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: edge.connections == 1)
        began = time.monotonic()
        until(lambda: edge.connections == 0)
        assert 0.2 < time.monotonic() - began < 1.5
        until(lambda: edge.app.finished > finished)


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"], ids=["kept", "closing"])
def test_an_answer_that_nobody_takes_does_not_stay_in_memory(edge: Served, connection: bytes) -> None:
    with edge.connect(receive_buffer=4 * KB) as client:
        client.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\n" + connection + b"\r\n")
        until(lambda: edge.connections == 1)
        until(lambda: edge.connections == 0, 2)


def test_a_slow_reader_that_keeps_reading_gets_everything(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"GET /stream120 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        count, began = 0, time.monotonic()
        while data := client.recv(128 * KB):
            count += len(data)
            time.sleep(0.008)
        assert count > 120 * 64 * KB and time.monotonic() - began > LIMITS.write_seconds


def test_a_reader_that_was_slow_once_keeps_its_connection(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(b"GET /stream120 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.1)
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            end = end[-16:] + client.recv(KB * KB)
        time.sleep(LIMITS.write_seconds + 0.1)
        client.sendall(GET)
        assert answer_from(client).status == 200


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"], ids=["kept", "closing"])
def test_an_answer_too_small_to_press_on_the_application_does_not_stay_in_memory_either(connection: bytes) -> None:
    with serving(LIMITS, send_buffer=4 * KB) as served, served.connect(receive_buffer=4 * KB) as client:
        client.sendall(b"GET /modest HTTP/1.1\r\nHost: a\r\n" + connection + b"\r\n")
        until(lambda: served.app.finished == 1)
        until(lambda: served.connections == 0, 2)


def test_a_slow_reader_does_not_hold_up_the_shutdown() -> None:
    served = Served(LIMITS, send_buffer=4 * KB)
    with served.connect(receive_buffer=4 * KB) as client:
        client.sendall(b"GET /modest HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: served.app.finished == 1)
        served.server.should_exit = True
        served.thread.join(1.2)
        assert not served.thread.is_alive()
    served.listener.close()


# Bytes


def test_a_huge_declared_body_is_refused_before_a_byte_of_it_is_read(edge: Served) -> None:
    seen, began = len(edge.app.paths), time.monotonic()
    refused(edge.ask(HEAD + b"Content-Length: 60000000\r\n\r\n"), 413, "body_too_large")
    assert len(edge.app.paths) == seen and time.monotonic() - began < 0.25


def test_a_client_that_sends_its_huge_body_at_once_can_still_read_why(edge: Served) -> None:
    refused(edge.ask(HEAD + b"Content-Length: 900000\r\n\r\n" + bytes(900_000)), 413, "body_too_large")


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_body_of_64_kb_passes_and_one_byte_more_does_not(edge: Served, framing: str) -> None:
    for size in (64 * KB, 64 * KB + 1):
        body = bytes(size)
        if framing == "declared":
            request = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + body
        else:
            request = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % size + body + b"\r\n0\r\n\r\n"
        found = edge.ask(request)
        if size > 64 * KB:
            refused(found, 413, "body_too_large")
        else:
            assert found[0].json["bytes"] == size


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_only_an_estimate_may_have_four_megabytes(edge: Served, framing: str) -> None:
    for path, size, taken in ((b"/v1/fees/estimates", 4 << 20, True), (b"/v1/fees/estimates?x=1", 1 << 20, True), (b"/v1/fees/estimates", (4 << 20) + 1, False),
                              (b"/v1/fees/estimates/", 64 * KB + 1, False), (b"/v1/fees/estimatesx", 64 * KB + 1, False)):
        head, body = HEAD.replace(b"/echo", path, 1) + b"Connection: close\r\n", bytes(size)
        assert path in head
        if framing == "declared":
            # Of one that is refused by its length the server reads only so much; the rest could not be written.
            request = head + b"Content-Length: %d\r\n\r\n" % size + (body if taken else body[:64 * KB])
        else:
            request = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % size + body + b"\r\n0\r\n\r\n"
        found = edge.ask(request)
        if taken:
            assert found[0].json["bytes"] == size
        else:
            refused(found, 413, "body_too_large")


def flood(edge: Served, start: bytes, piece: bytes, seconds: float = 2.0) -> tuple[int, bytes]:
    """Sends without end. Gives the bytes sent and what the server said."""
    sent, end = 0, time.monotonic() + seconds
    with edge.connect() as client:
        client.sendall(start)
        try:
            while time.monotonic() < end:
                client.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        try:
            return sent, rest(client)
        except OSError:
            return sent, b""


@pytest.mark.parametrize("chunk", [1, 8 * KB], ids=["1 byte", "8 kB"])
def test_an_endless_chunked_body_is_cut_and_memory_stays_flat(edge: Served, chunk: int) -> None:
    piece = (b"%x\r\n" % chunk + bytes(chunk) + b"\r\n") * (32 * KB // chunk)
    begun = len(edge.app.paths)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent, _ = flood(edge, CHUNKED, piece)
    assert sent < 24 * KB * KB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * KB
    until(lambda: edge.app.disconnected == len(edge.app.paths) - begun)  # straight, nobody has heard of it yet


def test_endless_trailers_do_not_grow_memory_and_end_at_the_deadline(edge: Served) -> None:
    before, began = rss(), time.monotonic()
    flood(edge, CHUNKED + b"0\r\n", b"a-trailer: " + b"x" * 60 + b"\r\n")
    assert time.monotonic() - began < 1.5 and rss() - before < 16 * KB * KB


def rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_trailer_does_not_pass_for_a_header(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: Bearer other\r\n\r\n")
        assert answer_from(client).json == {"query": "", "bytes": 1, "headers": ["host", "transfer-encoding"]}


@pytest.mark.parametrize("count", [1, 4], ids=["at once", "in parts"])
def test_a_header_of_100_kb_is_refused(edge: Served, count: int) -> None:
    seen = len(edge.app.paths)
    parts = [HEAD + b"X: " + MARKER, *[b"x" * (100 * KB // count)] * count, b"\r\n\r\n"]
    refused(edge.ask(*([b"".join(parts)] if count == 1 else parts), pause=0.01), 431, "headers_too_large")
    assert len(edge.app.paths) == seen


def test_a_header_that_never_ends_is_refused_at_32_kb(edge: Served) -> None:
    sent, said = flood(edge, HEAD, b"x: " + b"y" * 200 + b"\r\n")
    assert sent < 24 * KB * KB and (not said or answers(said)[0].status == 431)


def test_a_hundred_headers_pass_and_one_more_does_not(edge: Served) -> None:
    start = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    assert edge.ask(start + b"x: y\r\n" * 98 + b"\r\n")[0].status == 200
    refused(edge.ask(start + b"x: y\r\n" * 99 + b"\r\n"), 431, "headers_too_large")


def test_a_head_under_32_kb_passes_beside_a_body_in_the_same_segment(edge: Served) -> None:
    head = HEAD + b"Connection: close\r\nX: " + b"x" * 31_000 + b"\r\nContent-Length: 60000\r\n\r\n"
    assert edge.ask(head + bytes(60_000))[0].json["bytes"] == 60_000


def test_a_large_head_behind_another_request_is_refused_and_the_first_answered(edge: Served) -> None:
    assert [answer.status for answer in edge.ask(GET + b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")] == [200]


def test_a_small_head_behind_a_large_body_is_not_mistaken_for_a_large_one(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(HEAD + b"Content-Length: 60000\r\n\r\n" + bytes(60_000) + GET[:12])
        assert answer_from(client).json["bytes"] == 60_000
        client.sendall(GET[12:])
        assert answer_from(client).status == 200


# Framing


def test_pipelined_requests_are_answered_in_order(edge: Served) -> None:
    requests = [b"GET /echo?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(8)]
    requests.append(b"GET /echo?8 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert [answer.json["query"] for answer in edge.ask(b"".join(requests))] == [str(number) for number in range(9)]


def test_more_pipelined_requests_than_allowed_are_not_taken_and_the_others_answered(edge: Served) -> None:
    found = edge.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 5000)
    assert [answer.status for answer in found] == [200] * (1 + LIMITS.pipelined)


def test_an_accepted_request_keeps_its_answer_when_garbage_follows(edge: Served) -> None:
    found = edge.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + MARKER + b"\0\r\n\r\n")
    assert [(answer.status, answer.body) for answer in found] == [(200, b"slow")]


def test_a_refused_body_behind_an_accepted_request_is_answered_in_turn(edge: Served) -> None:
    first, *second = edge.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + CHUNKED + b"zz\r\n")
    assert first.body == b"slow"
    refused(second, 400, "request_malformed")


def test_a_content_length_shorter_than_the_body_ends_the_connection(edge: Served) -> None:
    assert [answer.status for answer in edge.ask(HEAD + b"Content-Length: 2\r\n\r\n{}" + MARKER + b"\0\r\n\r\n")] == [200]
    with edge.connect() as client:
        client.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        assert answer_from(client).json["bytes"] == 2
        client.sendall(MARKER + b"\0\r\n\r\n")
        refused(answers(rest(client)), 400, "request_malformed")


def test_a_content_length_longer_than_the_body_is_a_late_body_or_a_disconnect(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(HEAD + b"Content-Length: 99\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
    until(lambda: edge.app.disconnected == 1)


MALFORMED = {
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": bytes(range(256)),
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": MARKER + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown version": b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    "path not ASCII": b"GET /" + MARKER + b"\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a header": HEAD + b"X: " + MARKER + b"\0\r\n\r\n",
    "bare CR in a header": HEAD + b"X: a\r" + MARKER + b"\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "space before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "folded header": HEAD + b"X: a\r\n " + MARKER + b"\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"Host: b\r\nContent-Length: 0\r\n\r\n",
    "two keys": HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\nContent-Length: 0\r\n\r\n",
    "two idempotency keys": HEAD + b"Idempotency-Key: a\r\nidempotency-key: b\r\nContent-Length: 0\r\n\r\n",
    "TE and CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "CL and TE": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two equal CL": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two different CL": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "CL list": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "CL signed": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "CL negative": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "CL hex": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "CL overflow": HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
    "CL empty": HEAD + b"Content-Length:\r\n\r\n",
    "TE unknown": HEAD + b"Transfer-Encoding: x" + MARKER + b"\r\n\r\n",
    "TE gzip": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "TE hidden by a tab": HEAD + b"Transfer-Encoding:\tchunked\x0b\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size not hex": CHUNKED + MARKER + b"\r\n",
    "chunk size overflow": CHUNKED + b"fffffffffffffffff\r\nx\r\n",
    "chunk size negative": CHUNKED + b"-1\r\nx\r\n",
    "chunk longer than said": CHUNKED + b"1\r\nxy\r\n0\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "h2c": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_one_clear_request_gets_400_without_an_echo(edge: Served, raw: bytes) -> None:
    finished = edge.app.finished
    refused(edge.ask(raw), 400, "request_malformed")
    until(lambda: edge.app.finished - finished == edge.app.disconnected)


def test_http_1_0_is_served_without_a_host(edge: Served) -> None:
    assert edge.ask(b"GET /echo HTTP/1.0\r\n\r\n")[0].status == 200


def test_a_client_that_asks_to_continue_is_told_so(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(KB) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert answer_from(client).json["bytes"] == 2


# Connections


def test_one_connection_too_many_gets_503_and_the_held_ones_go_on() -> None:
    with serving(replace(LIMITS, connections=5, request_seconds=5.0)) as served:
        held = [served.connect() for _ in range(5)]
        until(lambda: served.connections == 5)
        for _ in range(20):
            found = served.ask()
            refused(found, 503, "too_many_connections")
            assert found[0].headers["retry-after"] == "2"
        for client in held:
            client.sendall(GET)
            assert answer_from(client).status == 200
        held.pop().close()
        until(lambda: served.connections == 4)
        with served.connect() as client:
            client.sendall(GET)
            assert answer_from(client).status == 200
        gone = [weakref.ref(connection) for connection in list(served.server.server_state.connections)]
        for client in held:
            client.close()
        until(lambda: gc.collect() >= 0 and not any(connection() for connection in gone), 1)  # no timer holds one until the deadline
        assert served.connections == 0


def test_three_hundred_idle_connections_are_closed_at_the_deadline(edge: Served) -> None:
    held = [edge.connect() for _ in range(300)]
    until(lambda: edge.connections > 250)
    until(lambda: edge.connections == 0)
    for client in held:
        assert b" 408 " in rest(client)
        client.close()


def test_a_client_that_goes_away_in_every_part_leaves_nothing_behind(edge: Served) -> None:
    whole = HEAD + b"Content-Length: 4\r\n\r\nbody"
    for cut in range(0, len(whole) + 1, 3):
        with edge.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(whole[:cut])
    until(lambda: edge.connections == 0)


def test_a_connection_that_rests_after_an_answer_is_closed_in_its_time_and_one_that_goes_on_is_not(edge: Served) -> None:
    assert any(goes_on(edge) for _ in range(5)), "this machine was late five times"


def goes_on(edge: Served) -> bool:
    """False: the machine let the second go by before the next request, so nothing is said."""
    with edge.connect() as resting, edge.connect() as busy:
        for client in (resting, busy):
            client.sendall(GET)
            assert b" 200 " in client.recv(4096)
        asked = time.monotonic()
        # each time before the second is over in which it would be closed; the last one ends while this one is at work
        for pause, request in (*[(0.4, GET)] * 3, (0.85, GET.replace(b"/echo", b"/slow"))):
            time.sleep(max(0.0, pause - (time.monotonic() - asked)))
            if time.monotonic() - asked > 0.92:
                return False
            asked = time.monotonic()
            busy.sendall(request)
            assert b" 200 " in busy.recv(4096)
        assert rest(resting) == rest(busy) == b""
        return True


# The straight way


@pytest.fixture
def straight() -> Iterator[Served]:
    with serving(LIMITS, straight=True) as served:
        yield served


WHOLE = HEAD + b"Content-Length: 5\r\n\r\nhello"


def test_a_whole_request_goes_straight_and_a_split_one_the_usual_way(straight: Served) -> None:
    with straight.connect() as client:
        client.sendall(WHOLE)
        whole = answer_from(client)
        assert straight.app.straight == 1
        client.sendall(WHOLE[:-2])
        time.sleep(0.05)
        client.sendall(WHOLE[-2:])
        split = answer_from(client)
    assert straight.app.straight == 1
    assert (whole.status, whole.body) == (split.status, split.body) == (200, whole.body)


def test_pipelined_requests_are_answered_in_turn_whichever_way_they_go(straight: Served) -> None:
    other = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    last = HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nbye"
    found = straight.ask(WHOLE + other + WHOLE + last)
    assert [answer.body if answer.body == b"slow" else answer.json["bytes"] for answer in found] == [5, b"slow", 5, 3]
    assert straight.app.straight == 3


def test_a_body_that_is_too_large_never_starts_anything(straight: Served) -> None:
    found = straight.ask(HEAD + b"Content-Length: 70000\r\n\r\n" + bytes(70_000))
    assert [answer.status for answer in found] == [413]
    assert straight.app.paths == []


def test_a_client_that_hangs_up_at_once_does_not_stop_its_request(straight: Served) -> None:
    with straight.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(WHOLE)
    until(lambda: straight.app.finished == straight.app.straight == 1)
    until(lambda: straight.connections == 0 and not straight.app.tasks)


# A body that is read as it comes.

UPLOAD = b"POST /v1/clearing-files?document=clearing HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("framed", [False, True])
def test_a_large_body_is_taken_where_it_is_read_as_it_comes(edge: Served, framed: bool) -> None:
    body = bytes(1024 * KB)
    head = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(body) if framed else b"Content-Length: %d\r\n\r\n" % len(body)
    with edge.connect() as client:
        client.sendall(UPLOAD + head + body + (b"\r\n0\r\n\r\n" if framed else b""))
        assert (answer := answer_from(client)).status == 200 and str(len(body)).encode() in answer.body, answer.body


def test_an_upload_may_take_longer_than_a_request_while_it_flows(edge: Served) -> None:
    with edge.connect() as client:
        client.sendall(UPLOAD + b"Content-Length: %d\r\n\r\n" % (512 * KB))
        for _ in range(8):
            time.sleep(0.1)
            client.sendall(bytes(64 * KB))
        assert answer_from(client).status == 200


def test_an_upload_that_drips_gets_408(edge: Served) -> None:
    refused(edge.ask(UPLOAD + b"Content-Length: %d\r\n\r\n" % (512 * KB), *[b"x"] * 2, pause=0.1), 408, "request_timeout")


@pytest.mark.parametrize("head", [b"PUT /v1/clearing-files HTTP/1.1\r\n", b"POST /v1/clearing-filesx HTTP/1.1\r\n", b"POST /v1/clearing-files/x HTTP/1.1\r\n"])
def test_no_other_address_takes_a_large_body(edge: Served, head: bytes) -> None:
    refused(edge.ask(head + b"Host: a\r\nContent-Length: 70000\r\n\r\n"), 413, "body_too_large")


def test_an_upload_has_its_bound_too() -> None:
    with serving(replace(LIMITS, upload_bytes=100 * KB)) as served:
        refused(served.ask(UPLOAD + b"Content-Length: 200000\r\n\r\n"), 413, "body_too_large")
        refused(served.ask(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % 200_000 + bytes(200_000)), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/disputes/dsp_0192f0c4-7c1e-7aaa-8bbb-1234567890ab/evidence?name=x", "/v1/dispute-notices?acquirer=x"])
def test_evidence_and_notices_may_be_large(edge: Served, path: str) -> None:
    with edge.connect() as client:
        client.sendall(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" % path.encode() + bytes(1024 * KB))
        assert answer_from(client).status == 200


@pytest.mark.parametrize("head", ["GET /v1/disputes/dsp_1/evidence", "POST /v1/disputes/dsp_1/x/evidence", "POST /v1/disputes/dsp_1/evidence/1", "POST /v1/disputes"])
def test_nothing_else_of_disputes_is_large(edge: Served, head: str) -> None:
    refused(edge.ask(b"%b HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" % head.encode()), 413, "body_too_large")
