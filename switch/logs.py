"""One JSON line per event, fields by allowlist: what is not named here is not written."""

import json
import select
import sys
import time
from typing import Any, TextIO

# A field that is not here is left out and counted, so that nobody can log card data by accident.
FIELDS = frozenset({
    "acquirer", "acquirer_id", "alert", "attempt", "cause", "code", "count", "detail", "duty", "error", "field", "host", "line", "method",
    "ms", "path", "pid", "port", "reason", "request_id", "rows", "seconds", "signal", "state", "status", "terminal_id", "transaction_id",
    "type", "url", "version", "where", "worker",
})
TEXT_MAX = 300
LINE_MAX = 4096  # bytes that a pipe takes at once or not at all (PIPE_BUF)
LEVELS = ("debug", "info", "warning", "error")


class Log:
    """Writes lines to a stream, without one to what is standard error then. A full or broken stream never stops a payment: the line is lost
    and counted."""

    def __init__(self, stream: TextIO | None = None, level: str = "info") -> None:
        self.stream, self.level = stream, LEVELS.index(level)
        self.worker: int | None = None  # of several: named in each line
        self.refused_fields = 0
        self.lost_lines = 0

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS.index(level) < self.level:
            return
        now = time.time()
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z", "level": level, "event": event}
        if self.worker is not None:
            fields = {"worker": self.worker, **fields}
        for name, value in fields.items():
            if name not in FIELDS:
                self.refused_fields += 1
            elif value is None or isinstance(value, bool | int | float):
                line[name] = value  # type: ignore[assignment]
            else:
                line[name] = str(value)[:TEXT_MAX]
        try:  # json escapes control characters and, with ensure_ascii, U+2028: one event stays one line
            text, stream = json.dumps(line) + "\n", self.stream or sys.stderr
            if len(text) > LINE_MAX or not _takes(stream):
                self.lost_lines += 1
                return
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            self.lost_lines += 1


def _takes(stream: TextIO) -> bool:
    """Whether the stream takes a line without waiting: a pipe that nobody reads would stop the event loop."""
    try:
        number = stream.fileno()
    except OSError:  # not a file: nothing to wait for
        return True
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(0))


log = Log()


def configure(stream: TextIO | None, level: str) -> None:
    """`stream` None: standard error, whatever it is when a line is written."""
    log.stream, log.level = stream, LEVELS.index(level)


def debug(event: str, **fields: Any) -> None:
    log.write("debug", event, fields)


def info(event: str, **fields: Any) -> None:
    log.write("info", event, fields)


def warning(event: str, **fields: Any) -> None:
    log.write("warning", event, fields)


def error(event: str, **fields: Any) -> None:
    log.write("error", event, fields)


def place(error: BaseException) -> str:
    """Where an error happened, as file:line of its innermost frame: what a log may say of it, since its text may hold data."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}" if traceback is not None else "?"
