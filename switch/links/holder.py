"""The holder's end of a shared line: a local socket where a worker takes the requests of the others of its machine."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from switch import logs
from switch.links import Bounced
from switch.links.acquirer import AcquirerLink
from switch.links.connection import Outcome
from switch.links.group import LineGroup
from switch.links.handover import Ask, HandoverError, Hello, Reader, Status, Told, encode, same_clock

CONNECTIONS_MAX = 256  # askers of one holder
LOOK_S = 0.025  # how often a holder looks whether its lines became usable or ceased to be
WRITE_BUFFER_MAX = 1_048_576  # bytes that an asker may leave unread


def address_of(folder: Path, epoch: int) -> str:
    """Where a worker takes requests: the machine's name and the path of its socket."""
    return f"{socket.gethostname()}:{folder / f'{epoch}.sock'}"


def here(address: str) -> Path | None:
    """The path, if the socket is on this machine."""
    host, _, path = address.partition(":")
    return Path(path) if host == socket.gethostname() else None


class Visit(asyncio.Protocol):
    """The holder's end of one asker's connection. When the asker is gone, the answers to what it asked are evidence."""

    def __init__(self, holder: "Holder") -> None:
        self.holder, self.reader = holder, Reader()
        self.acquirer_id = ""
        self.shown: Status | None = None
        self.asked: dict[int, asyncio.Future[Outcome]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.holder.visits.add(self)
        if len(self.holder.visits) > CONNECTIONS_MAX:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.holder.visits.discard(self)
        for answer in self.asked.values():
            answer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.reader.feed(data):
                if isinstance(frame, Hello) and not self.acquirer_id and same_clock(frame.now, time.monotonic()):
                    self.acquirer_id = frame.acquirer_id
                    self.show()
                elif isinstance(frame, Ask) and self.acquirer_id:
                    self.ask(frame)
                else:
                    raise HandoverError("a frame is out of place, or the clocks differ")
        except HandoverError as fault:
            logs.warning("handover_refused", detail=str(fault))
            self.transport.abort()

    def ask(self, frame: Ask) -> None:
        link = self.holder.line(self.acquirer_id)
        if link is None or self.transport.get_write_buffer_size() > WRITE_BUFFER_MAX or frame.number in self.asked:
            self.transport.write(encode(Told(frame.number, Bounced("line_down"))))
            return
        answer = self.asked[frame.number] = link.request(frame.message, send_not_after=frame.send_not_after, deadline=frame.deadline)
        answer.add_done_callback(lambda done: self.tell(frame.number, done))

    def tell(self, number: int, answer: asyncio.Future[Outcome]) -> None:
        if not answer.cancelled():
            self.asked.pop(number, None)
            self.transport.write(encode(Told(number, answer.result())))

    def show(self) -> None:
        if not self.acquirer_id:  # it has not said yet which line it means
            return
        link = self.holder.line(self.acquirer_id)
        now = Status(False, "down", False) if link is None else Status(link.usable(), link.state, link.sells())
        if now != self.shown:
            self.shown = now
            self.transport.write(encode(now))


class Holder:
    """Where a worker takes the requests of others, for the lines it holds. `line`: our own line of an acquirer, None without a slot."""

    def __init__(self, folder: Path, epoch: int, line: Callable[[str], AcquirerLink | LineGroup | None]) -> None:
        self.path, self.line = folder / f"{epoch}.sock", line
        self.visits: set[Visit] = set()
        self.server: asyncio.Server | None = None
        self.looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Once; mode 0600 in a folder of mode 0700. The path may be longer than a socket's name."""
        if self.server is not None:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{folder}/{self.path.name}")
            self.path.chmod(0o600)
        finally:
            os.close(folder)
        listening.setblocking(False)
        self.server = await asyncio.get_running_loop().create_unix_server(lambda: Visit(self), sock=listening)
        self.looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            for visit in self.visits:
                visit.show()
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        if self.server is not None and self.looking is not None:
            self.server.close()
            self.looking.cancel()
            for visit in list(self.visits):
                visit.transport.close()
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
