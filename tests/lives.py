"""A life drawn by Hypothesis: its pure table is the model, what its module writes on a real database must agree, one step at a time or two at once."""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants.onboarding import Onboarding
from switch.payments.resolution import Person

T = TypeVar("T")
PEOPLE = (Person("Chen Jie", "ok_x"), Person("Wang Fang", "ok_y"))
CHOICE, PERSON = st.integers(0, 9999), st.sampled_from(PEOPLE)


def way(life: Mapping[tuple[str, str], str], first: str, wanted: str) -> list[str]:
    """The shortest row of events from one state to another."""
    ways: dict[str, list[str]] = {first: []}
    for state in (waiting := [first]):
        for (at, event), after in life.items():
            if at == state and after not in ways:
                ways[after] = [*ways[state], event]
                waiting.append(after)
    return ways[wanted]


class Watched(RuleBasedStateMachine):
    """A machine that asks the database of a loop that runs elsewhere. `seen`: what has happened to the model, by name."""

    pool: ClassVar[Pool]
    onboarding: ClassVar[Onboarding]
    organisation: ClassVar[UUID]
    loop: ClassVar[asyncio.AbstractEventLoop]
    seen: ClassVar[Counter[str]]

    @classmethod
    @abstractmethod
    def wanted(cls) -> set[str]:
        """What must have happened at least once, else the test says little."""

    def wait(self, given: Awaitable[T]) -> T:
        async def run() -> T:
            return await given

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(15)

    async def merchant(self) -> UUID:
        return (await self.onboarding.merchant(self.organisation, "Made", "5999")).merchant_id


class Drawn(Watched):
    """The model: a state, and the history so far. A life says where it begins, how a step is taken, and what was kept of it."""

    LIFE: ClassVar[Mapping[tuple[str, str], str]]
    CODE: ClassVar[str]  # of the refusal of a step that is not in the table
    BEGUN: ClassVar[tuple[str, str, str, str]]  # the first row: event, state, person, reason
    AROUND: ClassVar[frozenset[str]] = frozenset()  # refusals by what another one's step has made of what stands around it
    REASONS: ClassVar[tuple[str, ...]] = ("seen", "cut off")
    ROW: ClassVar[str]  # state, version by $1
    TOLD: ClassVar[str]  # number, event, state, person, reason by $1, in their order
    id: UUID

    @abstractmethod
    async def made(self) -> UUID:
        """A new one, where the life begins."""

    async def ready(self) -> None:
        """What stands around it, so that nothing but the table decides."""

    @abstractmethod
    async def move(self, event: str, by: Person, reason: str) -> None:
        """One step as its module takes it. Raises Problem."""

    def theirs(self, event: str, person: Person) -> bool:
        """Whether the table allows a step, but somebody else has what it would take: refused as `taken`."""
        return False

    @classmethod
    def wanted(cls) -> set[str]:
        return {f"{state} {event}" for state, event in cls.LIFE}

    @initialize(choice=CHOICE, person=PERSON)
    def begin(self, choice: int, person: Person) -> None:
        """As far as a step that was not seen yet, or a drawn one, can come, and that step."""
        self.id = self.wait(self.made())
        self.state, self.history = self.BEGUN[1], [self.BEGUN]
        unseen = [(at, event) for at, event in sorted(self.LIFE) if f"{at} {event}" not in self.seen]
        at, event = unseen[0] if unseen else sorted(self.LIFE)[choice % len(self.LIFE)]
        for each in (*way(self.LIFE, self.state, at), event):
            self.take(each, person, self.REASONS[0])

    def take(self, event: str, person: Person, reason: str) -> None:
        try:
            self.wait(self.taken(event, person, reason))
        except Problem as problem:
            expected = "taken" if self.theirs(event, person) else self.CODE if (self.state, event) not in self.LIFE else "none"
            assert problem.code == expected, (self.state, event, problem.code, problem.detail)
            return
        assert not self.theirs(event, person), (self.state, event)
        self.follow((event, person, reason))

    async def taken(self, event: str, person: Person, reason: str) -> None:
        await self.ready()
        await self.move(event, person, reason)

    def follow(self, *steps: tuple[str, Person, str]) -> None:
        for event, person, reason in steps:
            self.seen[f"{self.state} {event}"] += 1
            self.state = self.LIFE[self.state, event]
            self.history.append((event, self.state, person.name, reason))

    @rule(choice=CHOICE, person=PERSON, reason=CHOICE)
    def any_step(self, choice: int, person: Person, reason: int) -> None:
        """Out of order too, and again."""
        events = sorted({event for _, event in self.LIFE})
        self.take(events[choice % len(events)], person, self.REASONS[reason % len(self.REASONS)])

    def able(self) -> list[str]:
        return sorted(event for state, event in self.LIFE if state == self.state)

    @rule(choice=CHOICE, person=PERSON)
    def next_step(self, choice: int, person: Person) -> None:
        if able := self.able():
            self.take(able[choice % len(able)], person, self.REASONS[0])

    @rule(one=CHOICE, other=CHOICE)
    def two_people_at_once(self, one: int, other: int) -> None:
        """Whoever comes second decides about what the first has made of it: both, one or none succeed, as in one of the two orders."""
        if not (able := self.able()):
            return
        steps = [(able[choice % len(able)], person, self.REASONS[0]) for choice, person in zip((one, other), PEOPLE, strict=True)]

        async def both() -> list[BaseException | None]:
            await self.ready()
            return await asyncio.gather(*(self.move(*step) for step in steps), return_exceptions=True)

        found = self.wait(both())
        refusals = {self.CODE, "taken"} | (self.AROUND if None in found else set())
        assert all(each is None or (isinstance(each, Problem) and each.code in refusals) for each in found), found
        done = [step for step, refused in zip(steps, found, strict=True) if refused is None]
        told = [(row["event"], row["person"]) for row in self.wait(self.kept())[1][len(self.history):]]
        assert sorted(told) == sorted((event, person.name) for event, person, _ in done), "what succeeded is what is written"
        self.follow(*sorted(done, key=lambda step: told.index((step[0], step[1].name))))
        if len(done) < 2:
            (((event, person, _), refused),) = [each for each in zip(steps, found, strict=True) if each[1] is not None]
            around = isinstance(refused, Problem) and refused.code in self.AROUND
            assert done and (around or self.theirs(event, person) or (self.state, event) not in self.LIFE), "refused by the table, or by who has it"

    async def kept(self) -> tuple[Any, list[Any]]:
        async with work(self.pool) as connection:
            return await connection.fetchrow(self.ROW, self.id), await connection.fetch(self.TOLD, self.id)

    @invariant()
    def the_history_is_whole(self) -> None:
        row, events = self.wait(self.kept())
        assert (row["state"], row["version"]) == (self.state, len(self.history))
        assert [tuple(event) for event in events] == [(number, *told) for number, told in enumerate(self.history, 1)]


async def draw(machine: type[Watched], pool: Pool, examples: int) -> None:
    """Raises AssertionError also when a step of the life was never drawn."""
    machine.pool, machine.onboarding, machine.loop, machine.seen = pool, Onboarding(pool), asyncio.get_running_loop(), Counter()
    machine.organisation = (await machine.onboarding.organisation("Made")).organisation_id
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=settings(
        max_examples=examples, stateful_step_count=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck)))
    assert machine.wanted() - set(machine.seen) == set(), f"never drawn: {machine.wanted() - set(machine.seen)}"
