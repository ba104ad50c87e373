"""What a scenario is, why one does not apply to a dialect, and how it gets into the table of its module."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from messages.dialect import Dialect
from tests.certify.bench import Bench
from tests.processes import BROKEN

Run = Callable[[Bench], Awaitable[None]]
Needs = Callable[[Dialect], str]


class Scenario(NamedTuple):
    number: int
    name: str
    run: Run | None  # None: nothing of it is offered by any dialect
    needs: Needs
    beside: bool = False  # takes long: runs beside the rest, from when it has set bench.begun


def always(dialect: Dialect) -> str:
    return ""


class Table(list[Scenario]):
    """`needs(dialect)` gives the reason why a scenario does not apply, or nothing."""

    def scenario(self, number: int, name: str, needs: Needs = always, beside: bool = False) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            self.append(Scenario(number, name, run, needs, beside))
            return run
        return add

    def absent(self, number: int, name: str, reason: str) -> None:
        self.append(Scenario(number, name, None, lambda dialect: reason))


def verbs(*names: str) -> Needs:
    """`purchase` is there in one mode or the other."""
    def missing(dialect: Dialect) -> str:
        absent = [name for name in names if not {name, f"{name}.single", f"{name}.dual"} & set(dialect.messages)]
        return f"the dialect does not offer {absent[0]}" if absent else ""
    return missing


def codes(*names: str) -> Needs:
    def missing(dialect: Dialect) -> str:
        absent = [name for name in names if name not in dialect.codes]
        return f"the host has no response code {absent[0]}" if absent else ""
    return missing


def verdicts(name: str) -> Needs:
    return lambda dialect: "" if any(code.verdict == name for code in dialect.codes.values()) else f"the host has no response code that means {name}"


def purpose(name: str) -> Needs:
    return lambda dialect: "" if name in dialect.network else f"the host has no {name.replace('_', '-')}"


def field(number: str) -> Needs:
    return lambda dialect: "" if number in dialect.fields else f"the dialect has no field {number}"


def macs(dialect: Dialect) -> str:
    return "" if dialect.mac is not None else "the dialect's messages carry no MAC"


def exchanged_keys(dialect: Dialect) -> str:
    return "" if dialect.key_exchange is not None else "the host gives no keys with a sign-on"


def broken(error: BaseException) -> str:
    """What a failed scenario says, in one line."""
    text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}" if isinstance(error, BROKEN) else repr(error)
    return " ".join(text.split())[:400]
