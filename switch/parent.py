"""`switch serve`: one process that serves, or a parent that keeps several, with one address, one database and one admin port."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from switch import database, logs, metrics
from switch.api.changes import ASGI
from switch.app import Switch
from switch.custody import open_vault
from switch.errors import Problem, StartError
from switch.payments.recovery import end_all, end_dead
from switch.serve import SAY, base_url, first, http, listen, listen_on, make_home, run_lock, serving, stop_event
from switch.serve import database as database_of
from switch.settings import Settings
from switch.worker import COMMAND, LEASE_LOST, LINE_MAX, report

ADMIN_CONNECTIONS = 64
ANSWER_S = 2.0  # a worker that does not answer within is shown as not ready
START_S = 120.0  # of a worker, migrations done; longer than its waits for the lines
STOP_S = 150.0  # longer than the slowest acquirer's timer with the drain's margins
END_S = 2.0  # for the lease of a dead worker
STEADY_S = 10.0
PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)  # before a start, by deaths in a row, each less than STEADY_S after its start
TOLD = {"pid": None, "epoch": None, "ready": False}

State = Callable[[], Awaitable[tuple[bool, dict[str, Any], bytes]]]


def admin(state: State) -> ASGI:
    """Health, readiness and metrics over all workers. `state`: whether all admit, the body that says so, and the metrics."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        status, kind, body = await answer(scope["path"] if scope["method"] in ("GET", "HEAD") else "")
        await send({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def answer(path: str) -> tuple[int, bytes, bytes]:
        if path == "/healthz":
            return 200, b"application/json", b'{"status":"alive"}'
        if path not in ("/readyz", "/metrics"):
            return 404, b"application/problem+json", Problem("not_found").body("admin")
        ready, body, exposition = await state()
        if path == "/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", exposition
        return 200 if ready else 503, b"application/json", json.dumps({"ready": ready, **body}).encode()

    return application


async def serve(settings: Settings, say: SAY, workers: int) -> int:
    """Until SIGINT or SIGTERM. Prints one JSON line when all workers admit. Returns the exit code."""
    stop, listening = stop_event(), listen(settings)
    make_home(settings)
    admin_listening = listen_on(settings.host, settings.admin_port, "SWITCH_ADMIN_PORT")

    def ready() -> None:
        say(json.dumps({"base_url": base_url(listening), "pid": os.getpid(), "admin_url": base_url(admin_listening), "workers": workers}))

    async with run_lock(settings) as lock, database_of(settings, lambda line: logs.info("postgres", detail=line), workers) as (url, alone):
        if workers == 1:
            return await _alone(Switch(settings, url, alone=alone), listening, admin_listening, stop, ready)
        await database.migrate(url, lambda line: logs.info("migrating", detail=line))
        open_vault(settings)  # the key file is there, or the fault is told once
        if alone:
            connection = await database.connect(url, "switch_writer")
            await end_all(connection)
            await connection.close()
        return await Parent(url, listening, lock, workers, stop).serve(admin_listening, ready)


async def _alone(switch: Switch, listening: socket.socket, admin_listening: socket.socket, stop: asyncio.Event, ready: Callable[[], None]) -> int:
    """One worker needs no parent: a second process would cost 60 MB and save nothing, since a supervisor watches either."""

    async def state() -> tuple[bool, dict[str, Any], bytes]:
        told = await report(switch)
        return told["ready"], {"workers": [{"worker": 0, **told}]}, metrics.exposition()

    await switch.start()
    async with http(admin(state), admin_listening, ADMIN_CONNECTIONS), serving(switch, listening, switch.settings):
        ready()
        await first(stop.wait(), switch.lease.lost.wait())
    return 0 if stop.is_set() else LEASE_LOST


class Worker:
    """One place of a worker and the process that holds it just now. `told` and `exposition` are the last it said."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.admits = asyncio.Event()
        self.told: dict[str, Any] = {**TOLD}
        self.exposition = ""
        self.epoch: int | None = None  # of its lease, once it admits
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def live(self, order: dict[str, Any], inherited: tuple[int, ...]) -> int:
        """One life: starts the process, reads what it says, returns its exit code. To be called in the main thread (worker.die_with_parent)."""
        process = self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "switch", COMMAND, stdin=PIPE, stdout=PIPE, pass_fds=inherited, limit=LINE_MAX,
            start_new_session=True)  # Ctrl-C reaches the parent alone
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({**order, "worker": self.number}).encode() + b"\n")
        logs.info("worker_started", worker=self.number, pid=process.pid)
        try:
            while line := await process.stdout.readline():
                said = json.loads(line)
                if "epoch" in said:
                    self.epoch = said["epoch"]
                    self.admits.set()
                elif (waiter := self._waiting.pop(said["number"], None)) is not None and not waiter.done():
                    waiter.set_result(said)
            return await process.wait()
        finally:
            self.admits.clear()
            self.process, self.told = None, {**TOLD}

    async def ask(self) -> None:
        """Brings `told` and `exposition` up to date; a worker that does not answer in time is not ready, and its last figures stand."""
        process = self.process
        if process is None or process.stdin is None or not self.admits.is_set():
            return
        if process.stdin.is_closing():  # it has just died, and `live` has not come to it: uvloop raises when such a pipe is written to
            self.told = {**self.told, "ready": False}
            return
        self._asked += 1
        number = self._asked
        waiter = self._waiting[number] = asyncio.get_running_loop().create_future()
        process.stdin.write(b"%d\n" % number)
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await waiter
        except TimeoutError:
            self.told = {**self.told, "pid": process.pid, "ready": False}
        else:
            self.told, self.exposition = said["report"], said["metrics"]
        finally:
            self._waiting.pop(number, None)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self.process is not None:
                self.process.send_signal(number)


class Parent:
    """Keeps the workers of one address alive until `stop`, and sums what they count."""

    def __init__(self, url: str, listening: socket.socket, lock: int, workers: int, stop: asyncio.Event) -> None:
        self.url, self.listening, self.lock, self.stop = url, listening, lock, stop
        self.workers = [Worker(number) for number in range(workers)]
        self.sums = metrics.Sums()
        self.failed = asyncio.Event()  # a worker has ended
        self.asking = asyncio.Lock()

    async def serve(self, admin_listening: socket.socket, ready: Callable[[], None]) -> int:
        """Raises StartError when a worker ends before all have admitted for the first time."""
        lives = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        try:
            if await first(self._all_admit(), self.failed.wait(), self.stop.wait(), timeout=START_S) == 0:
                async with http(admin(self.state), admin_listening, ADMIN_CONNECTIONS):
                    ready()
                    await self.stop.wait()
            elif not self.stop.is_set():
                raise StartError("a worker did not start; what it said stands above")
        finally:
            await self._drain(lives)
        return 0

    async def _all_admit(self) -> None:
        for worker in self.workers:
            await worker.admits.wait()

    async def _keep(self, worker: Worker) -> None:
        """One worker after another in one place, until the stop. Never given up: a database that is away comes back."""
        quick, order = 0, {"database_url": self.url, "listening": self.listening.fileno()}
        while not self.stop.is_set():
            begun, code = time.monotonic(), None
            try:
                code = await worker.live(order, (self.listening.fileno(), self.lock))
            except (OSError, ValueError) as error:
                logs.error("worker_not_started", worker=worker.number, error=type(error).__name__)
            self.sums.keep(worker.exposition)
            worker.exposition = ""
            await self._end_lease(worker)
            if self.stop.is_set():
                return
            self.failed.set()
            quick = 0 if time.monotonic() - begun > STEADY_S else quick + 1
            pause = PAUSES_S[min(quick, len(PAUSES_S) - 1)]
            logs.error("worker_ended", worker=worker.number, code=code, seconds=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.stop.wait()

    async def _end_lease(self, worker: Worker) -> None:
        """Its process is dead, so nobody need wait until its lease runs out: recovery and its lines' slots are free at once."""
        epoch, worker.epoch = worker.epoch, None
        if epoch is None:
            return
        try:
            async with asyncio.timeout(END_S):
                connection = await database.connect(self.url, "switch_writer")
                try:
                    await end_dead(connection, epoch)
                finally:
                    connection.terminate()
        except (*database.UNKNOWN, asyncpg.PostgresError) as error:
            logs.warning("lease_not_ended", worker=worker.number, error=type(error).__name__)

    async def state(self) -> tuple[bool, dict[str, Any], bytes]:
        """What the admin port says."""
        async with self.asking:
            await asyncio.gather(*(worker.ask() for worker in self.workers))
            shown = [{"worker": worker.number, **worker.told} for worker in self.workers]
            exposition = self.sums.exposition([worker.exposition for worker in self.workers])
        return all(worker.told["ready"] for worker in self.workers), {"workers": shown}, exposition

    async def _drain(self, lives: list[asyncio.Task[None]]) -> None:
        """Every worker drains; one that stands still is woken for it, and killed when it does not end."""
        self.stop.set()
        self.listening.close()  # what connects from now on is refused, not left to wait for nobody
        logs.info("draining")
        for number in (signal.SIGTERM, signal.SIGCONT):
            for worker in self.workers:
                worker.signal(number)
        _, late = await asyncio.wait(lives, timeout=STOP_S)
        for worker in self.workers if late else ():
            worker.signal(signal.SIGKILL)
        await asyncio.gather(*lives, return_exceptions=True)
