"""Files that a command is given or writes, and what it says when there is nothing to tell."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from switch.errors import Problem, StartError

CHUNK_BYTES = 1 << 16


def nothing() -> None:
    """Of a list with no rows: nothing on stdout, for whatever reads it."""
    print("nothing is there by what was asked", file=sys.stderr)


def why(error: Exception) -> str:
    """Of a file that cannot be read, for a person."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be opened"
    return "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else "it is no JSON"


def unread(path: Path, error: Exception) -> StartError:
    return StartError(f"{path} cannot be read: {why(error)}")


async def chunks_of(path: Path) -> AsyncIterator[bytes]:
    """Raises StartError."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise unread(path, error) from None


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, for its owner alone. Raises Problem not_found."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:
        raise Problem("not_found", f"{path} cannot be written: {error.strerror}") from None
