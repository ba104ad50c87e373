"""What stands wrong for too long raises an alert: once when it begins, again when it begins anew."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts, logs
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.ids import show
from switch.links import Health, Link
from switch.payments.admission import Admission

LOOK_S = 5.0

# Asked per acquirer, so that each answer ends at the first row.
OLD_REVERSALS = """SELECT a.acquirer_id FROM unnest($1::uuid[]) a (acquirer_id) WHERE EXISTS (SELECT FROM duty d
WHERE d.acquirer_id = a.acquirer_id AND d.state = 'open' AND d.kind = 'reversal' AND d.created_at < now() - $2::interval)"""
OLD_DOUBTS = """SELECT a.acquirer_id FROM unnest($1::uuid[]) a (acquirer_id) WHERE EXISTS (SELECT FROM sent_transaction t
WHERE t.acquirer_id = a.acquirer_id AND t.exchange = 'request' AND t.respond_by < now() - $2::interval)"""
OLD_CORRECTIONS = """SELECT a.acquirer_id FROM unnest($1::uuid[]) a (acquirer_id) WHERE EXISTS (SELECT FROM tier_correction c
WHERE c.acquirer_id = a.acquirer_id AND c.settled_on IS NULL AND c.noticed_at < now() - $2::interval)"""
# Whoever gave its lease back ended it at that moment: no other end is of the same instant.
LOST_WORKERS = """SELECT epoch FROM worker WHERE (ended_at IS NULL AND lease_until < now() - $1::interval OR ended_at <> lease_until)
AND lease_until > now() - interval '1 day'"""
# What waits too long in the books: the kind of its alert, and of After.
OLD: Mapping[str, str] = MappingProxyType({"reversal_old": OLD_REVERSALS, "in_doubt_old": OLD_DOUBTS, "tier_correction_old": OLD_CORRECTIONS})

Standing = tuple[str, str]  # kind, object


class After(NamedTuple):
    """How long something may be wrong before somebody is called; `certificate_ends`: how long before. Seconds."""

    line_down: float = 60.0
    certificate_ends: float = 14 * 86_400.0
    acquirer_overloaded: float = 60.0
    reversal_old: float = 900.0
    in_doubt_old: float = 60.0
    worker_lost: float = 5.0
    tier_correction_old: float = 4 * 86_400.0  # longer than a weekend with a day off


class Watch:
    """One worker's look at its lines and gates, and at the books."""

    def __init__(self, pool: Pool, alarm: alerts.Alerts, directory: Directory, links: Mapping[UUID, Link], admission: Admission,
                 epoch: int, after: After = After()) -> None:
        self.pool, self.alarm, self.directory, self.links, self.admission = pool, alarm, directory, links, admission
        self.epoch, self.after = epoch, after
        self.standing: frozenset[Standing] = frozenset()
        self.not_up_since: dict[UUID | str, float] = {}  # acquirers and lines
        self.trips: dict[UUID, int] = {}
        self.shed_since: dict[UUID, float] = {}
        self.shed_so_far: dict[UUID, int] = {}
        self.lost_lines = logs.log.lost_lines

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look(asyncio.get_running_loop().time())

    async def look(self, now: float) -> frozenset[Standing]:
        """Raises what is new and returns what stands. `now`: the loop's clock."""
        found = {*self._lines(now), *self._each_line(now), *self._breakers(), *self._gates(now), *self._logs()}
        try:
            found |= await self._books()
            if not self.directory.fresh(now):
                found.add(("database_unreachable", f"worker {self.epoch}"))
            await self.alarm.write_what_is_left()
        except (*UNKNOWN, asyncpg.PostgresError) as error:
            logs.warning("watch_interrupted", error=type(error).__name__)
            known = {each for each in self.standing if each[0] in OLD}  # nobody knows that they are over
            found |= {("database_unreachable", f"worker {self.epoch}"), *known}
        for kind, object_ in sorted(found - self.standing):
            await self.alarm.raise_(kind, object_)
        self.standing = frozenset(found)
        with contextlib.suppress(*UNKNOWN, asyncpg.PostgresError):  # the next look says it again
            await self.alarm.seen(found)
        return self.standing

    def _lines(self, now: float) -> Iterator[Standing]:
        """Lines that should be up and were not at any look for long: a line that only flaps comes up in between."""
        for acquirer_id, link in self.links.items():
            acquirer = self.directory.acquirers.get(acquirer_id)
            if acquirer is None or acquirer.status != "active" or link.state in ("up", "down", "draining", "handed_over"):
                self.not_up_since.pop(acquirer_id, None)
            elif now - self.not_up_since.setdefault(acquirer_id, now) >= self.after.line_down:
                yield "line_down", show("acquirer", acquirer_id)

    def _each_line(self, now: float) -> Iterator[Standing]:
        """What one line of several hides, and certificates. Several connections of a line are one line."""
        for link in self.links.values():
            lines: dict[str, list[Health]] = {}
            for health in link.health():
                lines.setdefault(health.line, []).append(health)
            for line, connections in lines.items():
                object_ = show("line", UUID(line))
                if any(each.state.startswith("certificate_") for each in connections):
                    yield "certificate_refused", object_
                ends = min((each.certificate_ends for each in connections if each.certificate_ends is not None), default=None)
                if ends is not None and (ends - clock.now()).total_seconds() < self.after.certificate_ends:
                    yield "certificate_ends", object_
                if any(each.state in ("up", "down", "draining") for each in connections) or link.state != "up":
                    self.not_up_since.pop(line, None)
                elif now - self.not_up_since.setdefault(line, now) >= self.after.line_down:
                    yield "line_away", object_

    def _breakers(self) -> Iterator[Standing]:
        """Open now, or opened since the last look."""
        for acquirer_id, link in self.links.items():
            trips = sum(each.trips for each in link.health())
            before = self.trips.get(acquirer_id, 0)
            self.trips[acquirer_id] = trips
            if trips > before or any(each.breaker in ("open", "half_open") for each in link.health()):
                yield "breaker_open", show("acquirer", acquirer_id)

    def _gates(self, now: float) -> Iterator[Standing]:
        """Acquirers for which something was shed between any two looks for long."""
        for acquirer_id, gate in self.admission.gates.items():
            before = self.shed_so_far.get(acquirer_id, gate.shed)
            self.shed_so_far[acquirer_id] = gate.shed
            if gate.shed == before:
                self.shed_since.pop(acquirer_id, None)
            elif now - self.shed_since.setdefault(acquirer_id, now) >= self.after.acquirer_overloaded:
                yield "acquirer_overloaded", show("acquirer", acquirer_id)

    def _logs(self) -> Iterator[Standing]:
        before, self.lost_lines = self.lost_lines, logs.log.lost_lines
        if self.lost_lines > before:
            yield "log_lines_lost", f"worker {self.epoch}"

    async def _books(self) -> set[Standing]:
        acquirers, after, found = list(self.directory.acquirers), self.after, set()
        for kind, statement in OLD.items():
            late = await self.pool.fetch(statement, acquirers, timedelta(seconds=getattr(after, kind)))
            found |= {(kind, show("acquirer", row[0])) for row in late}
        for row in await self.pool.fetch(LOST_WORKERS, timedelta(seconds=after.worker_lost)):
            await self.alarm.raise_once("worker_lost", f"worker {row[0]}")
        return found
