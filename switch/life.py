"""What the life of a thing is: one table of steps, which says what may follow and why something may not. Pure.

Each kind of thing has its table in a room of its own (`life`, `lifecycle`); the database holds the same steps by triggers.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple


class Refusal(NamedTuple):
    """Why a thing may not move so: a code of errors.PROBLEMS."""

    code: str
    detail: str


class Life(Mapping[tuple[str, str], str]):
    """(state, event) -> the state that follows. The table begins with the state that things begin in."""

    def __init__(self, thing: str, code: str, steps: Mapping[tuple[str, str], str]) -> None:
        """`thing`: with its article, as refusals name it. `code`: of errors.PROBLEMS, for a step that is not in the table."""
        self._thing, self._code, self._steps = thing, code, dict(steps)
        first, _ = next(iter(self._steps))
        self.states = tuple(dict.fromkeys([first, *self._steps.values()]))
        self.events = dict.fromkeys(event for _, event in self._steps).keys()  # a set, in the order of the table

    def __getitem__(self, step: tuple[str, str]) -> str:
        return self._steps[step]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def following(self, state: str) -> list[str]:
        """The events that may come in `state`, in the order of the table."""
        return [event for at, event in self._steps if at == state]

    def refusal(self, state: str, event: str, may: Collection[str] | None = None) -> Refusal | None:
        """Why `event` may not come in `state`, or None. `may`: the events of whoever asks, when not all are."""
        if (state, event) in self._steps:
            return None
        allowed = sorted(each for each in self.following(state) if may is None or each in may)
        can = f"it can: {', '.join(allowed)}" if allowed else "nothing follows" if may is None else "nothing from you"
        return Refusal(self._code, f"{self._thing} that is {state} cannot {event}; {can}.")


def same_person(one: str, other: str) -> bool:
    """People are compared, not keys: one may have several."""
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
