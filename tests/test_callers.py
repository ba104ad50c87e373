"""Who is calling: a terminal that was recognised is known until its key or its record changes, and not a moment longer."""

from uuid import UUID

import pytest

from switch.alike import ApiKey
from switch.callers import RECOGNISED_MAX, Caller, Recognised
from switch.directory import Directory
from switch.errors import Problem
from switch.records import Terminal
from switch.security import credentials

MERCHANT, TERMINAL, STORE = UUID(int=1), UUID(int=2), UUID(int=3)


def standing(number: int = 2, status: str = "active") -> Terminal:
    return Terminal(UUID(int=number), MERCHANT, STORE, status, ())


def api_key(issued: credentials.Credential, terminal: UUID = TERMINAL, ends_at: float | None = None) -> ApiKey:
    return ApiKey(issued.key_id, "terminal", MERCHANT, terminal, None, issued.digest, ends_at)


def house(ends_at: float | None = None) -> tuple[Directory, Recognised, credentials.Credential, bytes]:
    directory, issued = Directory(), credentials.issue("terminal")
    directory.terminals[TERMINAL] = standing()
    directory.keys[issued.key_id] = api_key(issued, ends_at=ends_at)
    return directory, Recognised(directory), issued, f"Bearer {issued.text}".encode()


def refused(door: Recognised, header: bytes | None) -> bool:
    with pytest.raises(Problem) as problem:
        door.identify(header)
    return problem.value.code == "unauthenticated"


def test_a_terminal_is_the_same_caller_each_time() -> None:
    _, door, issued, header = house()
    first = door.identify(header)
    assert first == Caller("terminal", issued.key_id, MERCHANT, STORE, TERMINAL, None)
    assert door.identify(header) is first  # recognised, not read again


def test_a_key_that_is_gone_or_another_one_is_not_recognised() -> None:
    directory, door, issued, header = house()
    door.identify(header)
    held = directory.keys.pop(issued.key_id)
    assert refused(door, header)
    directory.keys[issued.key_id] = api_key(credentials.issue("terminal"))  # the same id with another secret
    assert refused(door, header)
    dict.__setitem__(directory.keys, issued.key_id, held)
    assert door.identify(header).terminal_id == TERMINAL


def test_a_terminal_that_changed_is_read_again() -> None:
    directory, door, _, header = house()
    before = door.identify(header)
    directory.terminals[TERMINAL] = Terminal(TERMINAL, MERCHANT, UUID(int=9), "active", ())
    assert door.identify(header).store_id == UUID(int=9) != before.store_id
    del directory.terminals[TERMINAL]
    assert refused(door, header)


def test_a_key_that_ends_is_asked_each_time() -> None:
    directory, door, issued, header = house(ends_at=2.0**40)
    door.identify(header)
    assert not door.known
    directory.keys[issued.key_id] = api_key(issued, ends_at=1.0)
    assert refused(door, header)


@pytest.mark.parametrize("wrong", [None, b"", b"Bearer", b"Basic abc", b"Bearer tk_t"])
def test_what_is_no_key_is_never_remembered(wrong: bytes | None) -> None:
    _, door, issued, header = house()
    assert refused(door, wrong) and refused(door, header[:-1] + bytes([header[-1] ^ 1])) and refused(door, header + b"x")
    assert not door.known and issued.text.encode() not in repr(door.known).encode()


def test_the_recognised_are_bounded_and_hold_no_secret() -> None:
    directory, door, issued, header = house()
    door.identify(header)
    assert issued.text not in repr(door.known) and header not in door.known
    for number in range(10, 10 + RECOGNISED_MAX):
        other = credentials.issue("terminal")
        directory.terminals[UUID(int=number)] = standing(number)
        directory.keys[other.key_id] = api_key(other, UUID(int=number))
        door.identify(f"Bearer {other.text}".encode())
    assert len(door.known) <= RECOGNISED_MAX
    assert door.identify(header).terminal_id == TERMINAL
