"""Several lines of one acquirer as one link: the first that is well carries, the others stand by, signed on. What they have in flight they share."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from switch.links import Bounced, Counters, Health, LinkSettings
from switch.links.acquirer import AcquirerLink
from switch.links.breaker import Terms
from switch.links.connection import Outcome

ELSEWHERE = frozenset({"line_down", "window_full", "draining"})  # why one line does not take what another still may: no byte has left
STATES = ("up", "draining", "signing_on", "connecting", "disconnected", "certificate_refused", "certificate_unusable", "down")  # the best names all


class LineGroup:
    """Lines in their order of preference: the lowest priority first, among equals the one with less in flight; one whose breaker is open
    only when no other is usable, for what is owed. `state` is that of the best line."""

    def __init__(self, lines: Sequence[AcquirerLink]) -> None:
        self.lines = tuple(sorted(lines, key=lambda line: (line.settings.priority, line.settings.line, line.settings.number)))
        first = self.lines[0]
        self.acquirer_id, self.name, self.dialect, self.exchanges = first.acquirer_id, first.name, first.dialect, first.exchanges

    @property
    def settings(self) -> LinkSettings:
        return self._best().settings

    @property
    def state(self) -> str:
        return min((line.state for line in self.lines), key=STATES.index)

    def start(self) -> None:
        for line in self.lines:
            line.start()

    def usable(self) -> bool:
        return any(line.usable() for line in self.lines)

    def sells(self) -> bool:
        return any(line.sells() for line in self.lines)

    def tripped(self) -> bool:
        return not self.sells() and any(line.tripped() for line in self.lines)

    def guard(self, terms: Terms | None) -> None:
        for line in self.lines:
            line.guard(terms)

    def health(self) -> Iterable[Health]:
        for line in self.lines:
            yield line.health_now

    def request(self, message: Mapping[str, str], *, send_not_after: float, deadline: float) -> asyncio.Future[Outcome]:
        """As AcquirerLink.request, over the line that is preferred now; over the next one when that provably wrote nothing."""
        answer: asyncio.Future[Outcome] | None = None
        for line in self._order():
            answer = line.request(message, send_not_after=send_not_after, deadline=deadline)
            if not answer.done() or not (isinstance(bounced := answer.result(), Bounced) and bounced.reason in ELSEWHERE):
                break
        assert answer is not None
        return answer

    async def drain(self, timeout: float) -> None:
        await asyncio.gather(*(line.drain(timeout) for line in self.lines))

    async def down(self) -> None:
        await self.drain(0.0)

    async def up(self) -> None:
        for line in self.lines:
            await line.up()

    async def sign_on(self) -> None:
        for line in self.lines:
            await line.sign_on()

    async def close(self) -> None:
        await asyncio.gather(*(line.close() for line in self.lines))

    def snapshot(self) -> dict[str, Any]:
        """As AcquirerLink.snapshot: the line that carries, what all of them counted, and each."""
        found = [line.snapshot() for line in self.lines]
        counted = ("pending", "window", *(field.name for field in fields(Counters)), "reconnects")
        summed = {name: sum(each[name] for each in found) for name in counted}
        answered = max((each["last_answer_at"] for each in found if each["last_answer_at"] is not None), default=None)
        return {**self._best().snapshot(), **summed, "state": self.state, "last_answer_at": answered, "lines": [line.shown() for line in self.lines]}

    def _best(self) -> AcquirerLink:
        return self._order()[0]

    def _order(self) -> list[AcquirerLink]:
        return sorted(self.lines, key=lambda line: (not line.usable(), line.tripped(), line.settings.priority, line.in_flight))
