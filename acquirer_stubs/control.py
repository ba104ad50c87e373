"""Control over HTTP on loopback, without a framework: faults, the book, host-initiated messages, counts.

    POST   /faults {match, action, value?, count?}      201 {faults_left}       see faults.py
    DELETE /faults                                      200 {deleted}           half-open lines are read again
    GET    /book?after=N[&limit=N]                      200 {items, next}       oldest first; next is null at the end
    POST   /host {sign_off: true, sign_on: true, echo: true, key_change: true | "kcv" | layout, cutover: "MMDD",
                  capacity: answers per second | null, delay: seconds, forget_keys: true}    200 {lines}
    GET    /stats                                       200 counts, totals in minor units per currency, lines, faults
"""
import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acquirer_stubs.book import PAGE_LINES_MAX
from acquirer_stubs.faults import FAULTS_MAX, BadFault, parse
from acquirer_stubs.host import CODE_CUTOVER, CODE_ECHO, CODE_KEY_CHANGE, CODE_SIGN_OFF, CODE_SIGN_ON, Host
from acquirer_stubs.keys import LAYOUTS

HEAD_BYTES_MAX = 16_384
BODY_BYTES_MAX = 65_536
REQUEST_SECONDS_MAX = 10.0
SAID = {"echo": CODE_ECHO, "key_change": CODE_KEY_CHANGE, "sign_on": CODE_SIGN_ON, "sign_off": CODE_SIGN_OFF}  # in this order
REASONS = {200: "OK", 201: "Created", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large"}


class Refused(Exception):
    """A request that is answered with an error; arguments: HTTP status, text."""


class Control:
    """The HTTP side of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._server: asyncio.Server | None = None
        self.routes = {("POST", "/faults"): self.order, ("DELETE", "/faults"): self.forget, ("GET", "/book"): self.book,
                       ("POST", "/host"): self.act, ("GET", "/stats"): self.stats}

    async def start(self, port: int) -> int:
        """Listens on 127.0.0.1; returns the port taken. Raises OSError."""
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", port, limit=HEAD_BYTES_MAX)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, then the connection is closed."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                try:
                    status, text = self.dispatch(*await self.read(reader))
                except Refused as refusal:
                    status, text = refusal.args[0], json.dumps({"error": refusal.args[1]})
                body = text.encode()
                writer.write(f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
                             f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass  # the caller went away or never finished asking: there is nobody to tell
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.LimitOverrunError:
            raise Refused(413, "the head is too long") from None
        words = head[0].split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        length = headers.get("content-length", "0")
        if len(words) != 3 or not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
            raise Refused(400, "not a request with a plain Content-Length")
        if len(length) > 9 or int(length) > BODY_BYTES_MAX:
            raise Refused(413, "the body is too long")
        return words[0], words[1], await reader.readexactly(int(length))

    def dispatch(self, method: str, target: str, body: bytes) -> tuple[int, str]:
        """(status, JSON text). Raises Refused."""
        try:
            url = urlsplit(target)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        except ValueError:
            raise Refused(400, "not a target") from None
        route = self.routes.get((method, url.path))
        if route is None:
            known = any(path == url.path for _, path in self.routes)
            raise Refused(405 if known else 404, "no such method here" if known else "no such resource")
        try:
            order = json.loads(body) if method == "POST" else None
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None
        return route(query, order)

    def order(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        faults = self.host.faults.ordered
        if len(faults) >= FAULTS_MAX:
            raise Refused(400, f"at most {FAULTS_MAX} faults")
        try:
            faults.append(parse(order))
        except BadFault as error:
            raise Refused(400, str(error)) from None
        return 201, json.dumps({"faults_left": len(faults)})

    def forget(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        deleted = len(self.host.faults.ordered)
        self.host.faults.ordered.clear()
        self.host.heal()
        return 200, json.dumps({"deleted": deleted})

    def book(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        numbers = query.get("after", "0"), query.get("limit", str(PAGE_LINES_MAX))
        if not all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers):
            raise Refused(400, "after and limit are whole numbers")
        after, limit = int(numbers[0]), min(max(int(numbers[1]), 1), PAGE_LINES_MAX)
        items, following = self.host.book.page(after, limit)
        return 200, f'{{"items":[{",".join(items)}],"next":{json.dumps(following)}}}'

    def act(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        if not isinstance(order, dict) or not order or not order.keys() <= {*SAID, "cutover", "capacity", "delay", "forget_keys"}:
            raise Refused(400, f"an object with {', '.join(SAID)}, cutover, capacity, delay or forget_keys is expected")
        self._check(order)
        host = self.host
        if not host.speech.unasked and order.keys() & {*SAID, "cutover"}:
            raise Refused(400, "this host says nothing unasked")
        if "capacity" in order:
            host.capacity = order["capacity"]
        if "delay" in order:
            host.delay = float(order["delay"])
        if "forget_keys" in order and host.keys is not None:
            host.keys.forget()
        if "cutover" in order:
            host.announce(CODE_CUTOVER, order["cutover"])
        for name in [name for name in SAID if name in order]:
            host.announce(SAID[name], how=order[name] if isinstance(order[name], str) else "")
        return 200, json.dumps({"lines": len(host.lines)})

    def _check(self, order: dict[str, Any]) -> None:
        """Everything is checked before anything is done."""
        capacity, delay, day = order.get("capacity"), order.get("delay", 0), order.get("cutover", "0101")
        if "key_change" in order and order["key_change"] is not True and order["key_change"] not in ("kcv", *LAYOUTS):
            raise Refused(400, f"key_change: true, kcv, or a layout of its keys: {', '.join(LAYOUTS)}")
        if any(order.get(name, True) is not True for name in (*SAID, "forget_keys") if name != "key_change"):
            raise Refused(400, f"{', '.join(SAID)} and forget_keys: true")
        if capacity is not None and (type(capacity) not in (int, float) or not 0 < capacity <= 1_000_000):
            raise Refused(400, "capacity: answers per second above 0, or null")
        if type(delay) not in (int, float) or not 0 <= delay <= 3600:
            raise Refused(400, "delay: seconds from 0 to 3600")
        if not (isinstance(day, str) and len(day) == 4 and day.isascii() and day.isdigit()
                and 1 <= int(day[:2]) <= 12 and 1 <= int(day[2:]) <= 31):
            raise Refused(400, "cutover: the new settlement date as MMDD")

    def stats(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        host, known = self.host, self.host.known
        faults = [{"match": "any" if fault.match is None else sorted(fault.match), "action": fault.action, "left": fault.left}
                  for fault in host.faults.ordered]
        return 200, json.dumps({
            "received": known.received, "decisions": known.decisions, "net": known.net, "held": known.held,
            "duplicates": known.duplicates, "answers": host.counts["answers"], "undecodable": known.received["undecodable"],
            "bad_frames": host.counts["bad_frames"], "lines": len(host.lines),
            "signed_on_lines": sum(line.signed_on for line in host.lines), "faults_left": len(faults), "faults": faults,
            "book_lines": host.book.seq})
