"""A worker as a child of `serve`: what its parent hands down, and what it tells when asked, over its stdin and stdout."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

from switch import logs, metrics
from switch.app import Switch
from switch.serve import first, serving, stop_event
from switch.settings import Settings

COMMAND = "worker"
LEASE_LOST = 75  # exit code: somebody else ended our lease, start a worker with a new one
LINE_MAX = 4 * 1024 * 1024  # bytes of one line between parent and worker
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Linux prctl(2): the kernel kills us when our parent ends. It may have ended just before we asked; then its pipe is closed, too."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(LEASE_LOST)


async def report(switch: Switch) -> dict[str, Any]:
    """What a worker says of itself."""
    ready, body = await switch.readiness()
    return {"pid": os.getpid(), "epoch": switch.lease.epoch, "ready": ready, **body}


async def work(settings: Settings) -> int:
    """Serves on the parent's socket until SIGTERM, the end of the parent, or the loss of the lease. Returns the exit code."""
    die_with_parent()
    stop, loop = stop_event(), asyncio.get_running_loop()
    asked = asyncio.StreamReader(LINE_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    told, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    line = await asked.readline()
    if not line:
        return LEASE_LOST
    order = json.loads(line)
    logs.log.worker = order["worker"]
    switch = Switch(settings, order["database_url"], alone=False)
    listening = socket.socket(fileno=order["listening"])
    await switch.start()
    async with serving(switch, listening, settings, shared=True):
        _say(told, {"epoch": switch.lease.epoch})
        telling = asyncio.create_task(_tell(switch, asked, told, stop))
        await first(stop.wait(), switch.lease.lost.wait())
        telling.cancel()
    return LEASE_LOST if switch.lease.lost.is_set() and not stop.is_set() else 0


async def _tell(switch: Switch, asked: asyncio.StreamReader, told: asyncio.WriteTransport, stop: asyncio.Event) -> None:
    """Answers each line of the parent, a number, with one line. The end of the pipe is the end of the parent."""
    while line := await asked.readline():
        _say(told, {"number": int(line), "report": await report(switch), "metrics": metrics.exposition().decode()})
    stop.set()


def _say(told: asyncio.WriteTransport, line: dict[str, Any]) -> None:
    """To the parent, which closes its end just before its death kills us too."""
    if not told.is_closing():
        told.write(json.dumps(line).encode() + b"\n")
