"""What many records say alike is in memory once: ids of merchants, names of cities, numbers that a merchant has at an acquirer.

Half a million terminals and their keys then fit beside everything else in a worker (loadtests/directory.py measures it).
"""

import ctypes
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from sys import intern
from typing import Any, NamedTuple, cast
from uuid import UUID

DIGEST = 32  # bytes of a key's secret


class Numbers(Mapping[UUID, tuple[str, str]]):
    """How acquirers know a terminal, by acquirer: (DE41, DE42). A look at a flat tuple: a dict of one for each terminal would take five times
    the memory, and most have one."""

    __slots__ = ("held",)

    def __init__(self, held: tuple[Any, ...]) -> None:
        self.held = held  # acquirer, DE41, DE42, and so on

    def __getitem__(self, acquirer_id: UUID) -> tuple[str, str]:
        held = self.held
        for at in range(0, len(held), 3):
            if held[at] == acquirer_id:
                return held[at + 1], held[at + 2]
        raise KeyError(acquirer_id)

    def __contains__(self, acquirer_id: object) -> bool:
        return acquirer_id in self.held[::3]

    def __iter__(self) -> Iterator[UUID]:
        return iter(self.held[::3])

    def __len__(self) -> int:
        return len(self.held) // 3


class ApiKey(NamedTuple):
    key_id: str
    role: str
    merchant_id: UUID | None
    terminal_id: UUID | None
    person: str | None
    secret_digest: bytes
    ends_at: float | None  # unix time of expiry or revocation
    application_id: UUID | None = None
    store_id: UUID | None = None  # of staff


class Keys(dict[str, ApiKey | bytes]):
    """API keys by their id. That of a terminal which does not end is a digest and the terminal's id until it is looked for: there is one for each
    of half a million terminals."""

    def __init__(self, terminals: Mapping[UUID, Any]) -> None:
        super().__init__()
        self.terminals = terminals

    def __setitem__(self, key_id: str, key: ApiKey | bytes) -> None:
        plain = isinstance(key, ApiKey) and key.role == "terminal" and (key.person, key.ends_at, key.application_id) == (None,) * 3
        if plain and isinstance(key, ApiKey) and key.terminal_id is not None:
            key = key.secret_digest + key.terminal_id.bytes
        super().__setitem__(key_id, key)

    def find(self, key_id: str) -> ApiKey | None:
        held = self.get(key_id)
        if not isinstance(held, bytes):
            return held
        terminal = self.terminals.get(UUID(bytes=held[DIGEST:]))
        return None if terminal is None else ApiKey(key_id, "terminal", terminal.merchant_id, terminal.terminal_id, None, held[:DIGEST], None)


class Alike:
    """One object for equal ids: that of the record with this id if `known` has it, since a second table of all ids would be large itself."""

    def __init__(self, *known: Mapping[UUID, tuple[Any, ...]]) -> None:
        self.known = known
        self.ids: dict[UUID, UUID] = {}

    def of(self, place: int, found: UUID) -> UUID:
        """`place`: in which of the known records it is looked for."""
        record = self.known[place].get(found)
        return found if record is None else cast(UUID, record[0])

    def few(self, found: UUID) -> UUID:
        """For ids of which there are few: acquirers, organisations."""
        return self.ids.setdefault(found, found)


def text(found: str) -> str:
    """The one object for a text that many records have."""
    return intern(str(found))


@contextmanager
def unwalked() -> Iterator[None]:
    """What is made meanwhile is for good: the garbage collector neither walks it while it grows, which would stop the loop for a second at a
    time, nor later. It holds no cycles."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        _give_back()
        if enabled:
            gc.enable()


def _give_back() -> None:
    """The tables that dicts grew out of go back to the system, where the C library can be asked to (glibc malloc_trim(3))."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
