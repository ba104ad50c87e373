"""Files that a command is given or writes."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from switch.errors import Problem

CHUNK_BYTES = 1 << 16


async def chunks_of(path: Path) -> AsyncIterator[bytes]:
    """Raises Problem not_found."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise Problem("not_found", f"The file cannot be read: {error.strerror}.") from None


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
        raise Problem("not_found", f"The file cannot be written: {error.strerror}.") from None
