"""The only place where parts are joined. Start order is the order of need; stop is the reverse, after the drain."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from switch import database, logs, metrics
from switch.alerts import Alerts
from switch.api.application import application
from switch.api.resolving import RESOLVE
from switch.api.terminal import AuthorizationEndpoint
from switch.database import Connection
from switch.directory import Acquirer, Directory
from switch.errors import Problem, StartError
from switch.failpoints import failpoint
from switch.ids import read, show
from switch.links import Link, LinkSettings
from switch.links.acquirer import AcquirerLink
from switch.links.holder import Holder, address_of
from switch.links.numbering import Numbers
from switch.links.shared import SharedLink
from switch.links.slots import Slots
from switch.merchants.approvals import Approvals
from switch.merchants.onboarding import Onboarding
from switch.payments import timers
from switch.payments.admission import Admission
from switch.payments.authorization import Authorizations
from switch.payments.cancellation import Cancellations
from switch.payments.desk import Desk
from switch.payments.evidence import Evidence
from switch.payments.expiry import Expiry
from switch.payments.follow_ups import FollowUps
from switch.payments.history import History
from switch.payments.journal import Journal
from switch.payments.offline import OfflineSales
from switch.payments.recovery import LEASE_S, LEASE_TRUSTED_S, RENEW_S, Recovery, claim, end, end_all
from switch.payments.reservations import Reservations
from switch.payments.resolution import Resolution
from switch.payments.reversals import Reversals
from switch.payments.undelivered import Undelivered
from switch.payments.watch import Watch
from switch.security.vault import Keyring, Vault, VaultError
from switch.settings import Settings

# Connections: of writes that may wait (operators, cancellations, evidence), of reads, and of what is owed, which waits for neither.
WRITERS, READERS, OWED = 4, 6, 4
DRAIN_MARGIN_S = 5.0
READY_PROBE_S = 1.0
PULSE_S = 0.05
GC_THRESHOLD = 50_000  # new objects per young collection: an authorization makes hundreds, nearly all die with it
FIRST_BLOCKS = 5  # of numbers per acquirer at the start
HOT_PATH = "/v1/authorizations"

ASGI = Callable[[Any, Any, Any], Awaitable[None]]


def open_vault(settings: Settings) -> Vault:
    """The keys, made when there are none. Raises StartError."""
    try:
        return Vault(Keyring.create(settings.keys_file))
    except (VaultError, OSError) as error:
        raise StartError(f"the key file {settings.keys_file} cannot be used ({error}); it must be ours, mode 0600, and not empty") from None


class Switch:
    """One worker: its records, numbers, journal, links and HTTP application."""

    def __init__(self, settings: Settings, database_url: str, *, alone: bool) -> None:
        """`alone`: this process holds the home folder's lock, so every earlier worker of this database is dead."""
        self.settings, self.url, self.alone = settings, database_url, alone
        self.directory = Directory()
        self.links: dict[UUID, Link] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.admission = Admission(random.random)
        self.limits = timers.Limits(settings.commit_budget_s, settings.http_deadline_s)
        self.refused: dict[UUID, list[str]] = {}  # active acquirers whose records are not used, and why
        self.draining = False
        self.background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Ready to admit when it returns. Raises StartError with one line."""
        if faults := timers.worker_faults(self.limits, timers.Lease(LEASE_S, LEASE_TRUSTED_S, RENEW_S)):
            raise StartError("\n".join(faults))
        try:
            await self._start()
        except (*database.UNKNOWN, asyncpg.PostgresError) as error:
            raise StartError(f"the database went away during the start ({type(error).__name__}); start again when it answers") from None

    async def _start(self) -> None:
        """The parts, in the order of need."""
        await database.migrate(self.url, lambda line: logs.info("migrating", detail=line))
        self.vault = open_vault(self.settings)
        self.writers = await database.pool(self.url, "switch_writer", WRITERS)
        self.readers = await database.pool(self.url, "switch_reader", READERS)
        self.owed = await database.pool(self.url, "switch_writer", OWED)
        self.alarm, self.books = Alerts(self.owed), History(self.owed)
        self.history = History(self.readers)
        self.desk = Desk(self.history)
        self.numbers = Numbers(self._writer)
        self.journal = Journal(self._journal_connection, lambda outcome: self.authorizations.settle_unsure(outcome),
                               lambda intent: self.authorizations.settle_late(intent))
        async with self.writers.acquire() as connection:
            if self.alone:
                await end_all(connection)
            self.lease = await claim(connection)
        epoch, folder = self.lease.epoch, self.settings.home / "run"
        self.slots = Slots(self._writer, epoch, address_of(folder, epoch))
        self.holder = Holder(folder, epoch, self._held)
        self.authorizations = Authorizations(self.directory, self.vault, self.journal, self.numbers, self.links, self.desk, self.books,
                                             self.alarm, self.admission, worker_epoch=epoch, commit_budget_s=self.settings.commit_budget_s,
                                             cleared=lambda *wanted: self.reversals.clear(*wanted))
        self.evidence = Evidence(self.writers, self.directory, self.history, self.authorizations, self.alarm)
        self.cancellations = Cancellations(self.writers, self.history, self.authorizations, self.directory)
        self.reversals = Reversals(self._journal_connection, self.directory, self.books, self.vault, self.links, self.alarm, self.may_send)
        self.reservations = Reservations(self._journal_connection, lambda follow_up: self.follow_ups.settle_late(follow_up))
        self.follow_ups = FollowUps(self.authorizations, self.reservations, self.reversals)
        self.offline = OfflineSales(self.authorizations, self.reservations)
        self.expiry = Expiry(self.owed)
        self.recovery = Recovery(self.owed, self.books, self.authorizations, self.lease)
        self.watch = Watch(self.owed, self.alarm, self.directory, self.links, self.admission, epoch)
        self.undelivered = Undelivered(self.writers, self.alarm, self.cancellations.undone, self.settings.undelivered_after_s)
        self.onboarding = Onboarding(self.writers, self.limits)
        self.resolution = Resolution(self.writers)
        self.approvals = Approvals(self.writers, {RESOLVE: self._resolve})
        self.directory.on_acquirer = self._acquirer_changed
        async with self.readers.acquire() as connection:
            await self.directory.load(connection)
        if self.refused:
            await asyncio.gather(*(link.close() for link in self.links.values()))
            await self._close_pools()
            raise StartError("\n".join(line for lines in self.refused.values() for line in lines))
        await self.journal.start()
        await self.reservations.start()
        self._run(self.directory.follow(self._reader), self.numbers.work(), self._keep_lease(), self.slots.work(), self.recovery.work(),
                  self.evidence.work(), self.reversals.work(), self.expiry.work(), self._gauge(), self._pulse(), self.undelivered.work(),
                  self.watch.work())
        await self.lines_up(self.settings.sign_on_wait_s)
        gc.collect()
        gc.freeze()  # the records and code of the start are not walked again
        gc.set_threshold(GC_THRESHOLD, 20, 50)

    def application(self) -> ASGI:
        """The HTTP application: the hot route in front, everything else behind it."""
        hot = AuthorizationEndpoint(self.directory, self.authorizations, self.vault, self.undelivered, self.admit)
        rest = application(self)

        async def front(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == HOT_PATH and scope["method"] == "POST":
                await hot(scope, receive, send)
            else:
                await rest(scope, receive, send)

        return front

    async def lines_up(self, seconds: float) -> bool:
        """Waits until every line that should be up is; a start goes on without one after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            if all(link.usable() for link in self.links.values() if link.state != "down"):
                return True
            await asyncio.sleep(0.02)
        return False

    def admit(self) -> None:
        """Raises Problem before any write: draining, or records that may be stale."""
        if self.draining:
            raise Problem("draining", retry_after=5, extra={"processed": False})
        now = asyncio.get_running_loop().time()
        if not self.directory.fresh(now):
            raise Problem("not_ready", "The switch cannot read its records.", retry_after=2, extra={"processed": False})
        if not self.may_send():
            raise Problem("not_ready", "The switch cannot renew its lease.", retry_after=2, extra={"processed": False})

    async def _resolve(self, connection: Connection, object_: str, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        identity = read("transaction", object_)
        assert identity is not None
        await self.resolution.resolve(connection, identity, payload, people)

    def may_send(self) -> bool:
        """Whether this worker's lease is good: without it another may have taken over, and nothing of ours may leave."""
        return self.lease.trusted()

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether this worker admits, and why not. Lines are shown; one that is down does not make the worker unready."""
        now = asyncio.get_running_loop().time()
        checks = {"directory": self.directory.fresh(now), "lease": self.may_send(), "admitting": not self.draining}
        # In a task of its own: asyncpg's cancel of a statement waits for a server that may stand still.
        probe = asyncio.ensure_future(self.owed.fetchval("SELECT true"))
        done, _ = await asyncio.wait([probe], timeout=READY_PROBE_S)
        checks["database"] = bool(done) and probe.exception() is None
        if not done:
            probe.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            probe.cancel()
        lines = {link.name: link.state for link in self.links.values()}
        return all(checks.values()), {"checks": checks, "lines": lines, "directory_version": self.directory.version}

    async def stop(self) -> None:
        """Drain: no new work, running walks end, lines sign off, the lease is given back. Bounded."""
        self.draining = True
        longest = max((acquirer.answer_timeout_s for acquirer in self.directory.acquirers.values()), default=0.0)
        left = await self.desk.drain(longest + self.settings.commit_budget_s + DRAIN_MARGIN_S)
        if left:
            logs.warning("drained_with_walks_left", count=left)
        failpoint("drain.mid")
        for link in self.links.values():
            await link.drain(longest if isinstance(link, SharedLink) else 1.0)  # others may wait for what they handed over
            await link.close()
        await self.holder.close()
        await self.reversals.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.commit_budget_s):
                await self.reservations.stop()
                await self.journal.stop()
        with suppress(*database.UNKNOWN, asyncpg.PostgresError):
            await asyncio.wait_for(self.undelivered.write(), 2)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        with suppress(*database.UNKNOWN, asyncpg.PostgresError):
            async with self.writers.acquire() as connection:
                await end(connection, self.lease.epoch)
        await self._close_pools()
        logs.info("stopped")

    async def _close_pools(self) -> None:
        for pool in (self.writers, self.readers, self.owed):
            with suppress(*database.UNKNOWN):
                await asyncio.wait_for(pool.close(), 2)

    async def _keep_lease(self) -> None:
        """Without its lease a worker is none: it admits nothing, hangs up, and its process ends (serve)."""
        await self.lease.keep(self._writer)
        self.draining = True
        for link in self.links.values():
            await link.close()

    async def _writer(self) -> Connection:
        return await database.connect(self.url, "switch_writer")

    async def _reader(self) -> Connection:
        return await database.connect(self.url, "switch_reader")

    async def _journal_connection(self, plans: dict[str, str]) -> Connection:
        return await database.connect(self.url, "switch_writer", **plans)

    def _run(self, *jobs: Awaitable[None]) -> None:
        for job in jobs:
            self.tasks.append(asyncio.ensure_future(_supervised(job)))

    async def _gauge(self) -> None:
        while True:
            for link in self.links.values():
                metrics.link_up.labels(link.name).set(link.state == "up")
                metrics.link_pending.labels(link.name).set(link.snapshot()["pending"])
                gate = self.admission.gates.get(UUID(link.acquirer_id))
                if gate is not None:
                    metrics.admission_limit.labels(link.name).set(int(gate.limit))
                    metrics.admission_in_flight.labels(link.name).set(gate.in_flight)
            metrics.loop_lag.set(self.admission.lag)
            await asyncio.sleep(1)

    async def _pulse(self) -> None:
        """Measures by how much the loop is late: what waits in it waits so long before it is even looked at."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PULSE_S
            await asyncio.sleep(PULSE_S)
            self.admission.late(max(0.0, loop.time() - due))

    async def _acquirer_changed(self, acquirer: Acquirer) -> bool:
        """Keeps one link per acquirer in step with its record, and its numbers ready. False: its timers do not nest, and it is not used."""
        faults = timers.acquirer_faults(acquirer.answer_timeout_s, acquirer.reversal_grace_s, self.limits)
        if faults:
            for _, fault in faults:
                logs.error("acquirer_not_used", acquirer=acquirer.name, detail=fault)
            if acquirer.status == "active":
                self.refused[acquirer.acquirer_id] = [f"acquirer {acquirer.name}: {fault}" for _, fault in faults]
                await self.alarm.raise_("acquirer_not_used", show("acquirer", acquirer.acquirer_id))
            return False
        self.refused.pop(acquirer.acquirer_id, None)
        await self._lease_numbers(acquirer)
        self.admission.adjust(acquirer.acquirer_id, acquirer.min_in_flight, acquirer.max_in_flight, asyncio.get_running_loop().time())
        old, line = self.links.get(acquirer.acquirer_id), next(iter(acquirer.lines), None)
        if line is None:
            return True
        wanted, limit = LinkSettings(host=line[0], port=line[1], window=acquirer.max_in_flight), acquirer.max_links
        if old is None or old.settings != wanted or isinstance(old, SharedLink) != (limit > 0):
            former, old = old, await self._link(acquirer, wanted)
            self.links[acquirer.acquirer_id] = old
            if isinstance(former, SharedLink) or (former is not None and limit):  # the host takes only so many: one after the other
                self._later(self._retire(former, acquirer.answer_timeout_s, old))
            else:
                old.start()
                if former is not None:
                    self._later(self._retire(former, acquirer.answer_timeout_s))
        elif isinstance(old, SharedLink):
            old.limit_to(limit)
        known = self.directory.acquirers.get(acquirer.acquirer_id)
        if known is not None and known.sign_on_at != acquirer.sign_on_at:
            await old.sign_on()
        if acquirer.status == "active":
            await old.up()
        elif old.state not in ("down", "draining"):
            self._later(old.drain(acquirer.answer_timeout_s) if acquirer.status == "draining" else old.down())
        return True

    async def _link(self, acquirer: Acquirer, settings: LinkSettings) -> Link:
        """A line of this worker's own, or one that workers share when the acquirer takes only so many."""
        acquirer_id = acquirer.acquirer_id

        def own(may_write: Callable[[], bool] = self.may_send) -> AcquirerLink:
            return AcquirerLink(str(acquirer_id), acquirer.name, acquirer.dialect, settings,
                                next_stan=lambda: self.numbers.stan(acquirer_id), on_unmatched=self.evidence.take,
                                on_cut_over=lambda month_day: self._later(self._cut_over(acquirer_id, month_day)),
                                on_state=lambda _, state: logs.info("line", acquirer=acquirer.name, state=state), may_write=may_write)

        if not acquirer.max_links:
            return own()
        await self.holder.open()
        return SharedLink(str(acquirer_id), acquirer.name, acquirer.dialect, settings, slots=self.slots, limit=acquirer.max_links, make=own,
                          may_send=self.may_send, on_unmatched=self.evidence.take)

    def _held(self, acquirer_id: str) -> AcquirerLink | None:
        """Our own line of an acquirer that shares, if we hold one: what the holder's end hands requests to."""
        link = self.links.get(UUID(acquirer_id))
        return link.own if isinstance(link, SharedLink) else None

    async def _lease_numbers(self, acquirer: Acquirer) -> None:
        """The first blocks, so that the first sale need not be shed."""
        for business_date in (None, acquirer.business_date):
            if (acquirer.acquirer_id, business_date) not in self.numbers.left:
                async with self.writers.acquire() as connection:
                    for _ in range(FIRST_BLOCKS):
                        await self.numbers.lease(connection, acquirer.acquirer_id, business_date)

    async def _retire(self, link: Link, seconds: float, successor: Link | None = None) -> None:
        await link.drain(seconds)
        await link.close()
        if successor is not None:
            successor.start()

    async def _cut_over(self, acquirer_id: UUID, month_day: str) -> None:
        """The host opened a new business day (0800/201, DE15). The year is the one that puts the day nearest to the open one."""
        today = self.directory.acquirers[acquirer_id].business_date
        with suppress(ValueError):
            candidates = [date(today.year + shift, int(month_day[:2]), int(month_day[2:])) for shift in (-1, 0, 1)]
            opened = min(candidates, key=lambda candidate: abs((candidate - today).days))
            if 0 < (opened - today).days <= 7:
                await self.onboarding.open_business_day(acquirer_id, opened)
                logs.info("cut_over", acquirer_id=acquirer_id, detail=opened)
                return
        logs.warning("cut_over_refused", acquirer_id=acquirer_id, detail="not a day within a week after the open one")

    def _later(self, job: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(_supervised(job))
        self.background.add(task)
        task.add_done_callback(self.background.discard)


async def _supervised(job: Awaitable[None]) -> None:
    """A background job may not die silently: what it did not expect is logged with its place, and the process goes on."""
    try:
        await job
    except Exception as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        where = f"{traceback.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}" if traceback else None
        logs.error("job_failed", error=type(error).__name__, where=where)
