"""The only place where parts are joined. Start order is the order of need; stop is the reverse, after the drain."""

import asyncio
import gc
import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg

from switch import acquirers, background, database, logs, metrics, schedule
from switch.alerts import Alerts
from switch.api.application import application
from switch.api.bank_accounts import AGREE
from switch.api.changes import ASGI, taken_up
from switch.api.crypto_keys import LOAD
from switch.api.crypto_keys import RETIRE as RETIRE_KEY
from switch.api.download import Places
from switch.api.reconciliation import RESOLVE as RESOLVE_EXCEPTION
from switch.api.resolving import RESOLVE
from switch.api.straight import StraightWay
from switch.api.terminal import AuthorizationEndpoint
from switch.background import pulse, supervised
from switch.custody import Custody
from switch.database import Connection
from switch.directory import Directory
from switch.errors import Problem, StartError
from switch.failpoints import failpoint
from switch.lines import Lines
from switch.links import Link
from switch.links.numbering import Numbers
from switch.links.roster import Roster
from switch.merchants import counter, terminal_keys
from switch.merchants.accounts import Accounts
from switch.merchants.approvals import Approvals, of_object
from switch.merchants.bulk.imports import Imports
from switch.merchants.crypto_keys import activate, retire
from switch.merchants.host_days import HostDays
from switch.merchants.journey import Journey
from switch.merchants.onboarding import Onboarding
from switch.merchants.support.desk import SupportDesk
from switch.merchants.support.overdue import Overdue
from switch.merchants.support.tickets import Tickets
from switch.notices import tell
from switch.notices.delivery import Sender
from switch.notices.endpoints import Endpoints
from switch.notices.inbox import Inbox
from switch.notices.post import Post, Resolver
from switch.notices.subscribed import Subscribed
from switch.notices.sweep import Sweep
from switch.payments import timers
from switch.payments.admission import Admission
from switch.payments.authorization import Authorizations
from switch.payments.cancellation import Cancellations
from switch.payments.desk import Desk
from switch.payments.doubts import Doubts
from switch.payments.evidence import Evidence
from switch.payments.expiry import Expiry
from switch.payments.follow_ups import FollowUps
from switch.payments.history import History
from switch.payments.journal import Journal
from switch.payments.offline import OfflineSales
from switch.payments.pending import Pending
from switch.payments.pins import Pins
from switch.payments.recovery import LEASE_S, LEASE_TRUSTED_S, RENEW_S, Recovery, claim, end, end_all, knows
from switch.payments.reservations import Reservations
from switch.payments.resolution import Resolution
from switch.payments.reversals import Reversals
from switch.payments.signatures import Signatures
from switch.payments.stand_in import StandIns
from switch.payments.undelivered import Undelivered
from switch.payments.watch import Watch
from switch.protection import Protection
from switch.security.vault import Keyring, Vault, VaultError
from switch.settings import Settings
from switch.settlement.batches.counts import Batches
from switch.settlement.batches.forwarding import Forwarding
from switch.settlement.cutover.closing import Closing
from switch.settlement.cutover.settlements import Settlements
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.docket import Docket
from switch.settlement.disputes.exhibits import Exhibits
from switch.settlement.exports.files import Connect, Exports
from switch.settlement.exports.paper import Press
from switch.settlement.funding.arrangements import Arrangements
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import kinds_of
from switch.settlement.payouts.answers import BankAnswers
from switch.settlement.payouts.bank_accounts import BankAccounts, agree
from switch.settlement.payouts.files import PayoutFiles
from switch.settlement.payouts.runs import Payouts
from switch.settlement.reconciliation.exceptions import Exceptions
from switch.settlement.reconciliation.intake import Intake
from switch.terminals.acceptance import Acceptance
from switch.terminals.activation import Activation
from switch.terminals.devices import Devices, Keys
from switch.terminals.health import Health
from switch.terminals.parameter_sets import ParameterSets
from switch.terminals.releases import Releases
from switch.terminals.silence import Silence
from switch.terminals.training import Training

# Connections: of writes that may wait (operators, cancellations, evidence), of reads, of what is owed, which waits for neither, of webhooks, and
# of devices, whose heartbeats and activations wait for each other alone.
WRITERS, READERS, OWED, NOTICES, DEVICES = 4, 6, 4, 3, 2
JOBS = 4  # of background jobs, beside the one of their queue
RECOVERY_WAIT_S = 5.0  # of a start: then it serves while the rest is looked for
DRAIN_MARGIN_S, READY_PROBE_S, CONFIRM_S = 5.0, 1.0, 0.2
GC_THRESHOLD = 50_000  # new objects per young collection: an authorization makes hundreds, nearly all die with it
HOT_PATH = "/v1/authorizations"



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
        self.draining = False

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
        acquirers.plug_ins()  # one that cannot be used stops the start
        await self._open_books()
        self._join_payments()
        await self._join_webhooks()
        await self._join_terminals()
        self._join_settlement()
        self.approvals = Approvals(self.writers, {
            RESOLVE: of_object("transaction", self.resolution.resolve), RESOLVE_EXCEPTION: of_object("exception", self.exceptions.approved),
            **counter.agreements(self.review, self.contracts), AGREE: agree, LOAD: activate, RETIRE_KEY: retire})
        self._join_lines()
        self._run(self._keep_lease(), pulse(self.admission.late))  # a large directory takes longer to read than a lease lasts
        async with self.readers.acquire() as connection:
            await self.directory.load(connection)
        if refusals := list(self.lines.refusals()):
            await self.lines.hang_up()
            for task in self.tasks:
                task.cancel()
            await self._close_pools()
            raise StartError("\n".join(refusals))
        await self.protection.start()
        await self.journal.start()
        await self.reservations.start()
        self._run(self.directory.follow(self._follower), self.numbers.work(), self.lines.slots.work(), self.recovery.work(), self.evidence.work(),
                  self.reversals.work(), self.pending.work(), self.expiry.work(), self._gauge(), self.undelivered.work(), self.watch.work(),
                  self.foreman.work(), self._confirm(), self.subscribed.work(), self.sweep.work(), self.sender.work(), self.forwarding.work(),
                  self.silence.work(), self.custody.work(self._reader), self.roster.work(), self.protection.counting.work(),
                  self.protection.hits.work(), self.overdue.work())
        await self.lines.up(self.settings.sign_on_wait_s)
        await self.recovery.looked_within(RECOVERY_WAIT_S)
        gc.collect()
        gc.freeze()  # the records and code of the start are not walked again
        gc.set_threshold(GC_THRESHOLD, 20, 50)

    async def _open_books(self) -> None:
        """The database, what is read of it at the start, and this worker's lease."""
        await database.migrate(self.url, lambda line: logs.info("migrating", detail=line))
        self.vault = open_vault(self.settings)
        self.writers = await database.pool(self.url, "switch_writer", WRITERS)
        self.readers = await database.pool(self.url, "switch_reader", READERS)
        self.owed = await database.pool(self.url, "switch_writer", OWED)
        self.alarm, self.books, self.history = Alerts(self.owed), History(self.owed), History(self.readers)
        self.custody = Custody(self.settings, self.vault.keyring, self.writers, self.alarm)
        async with self.readers.acquire() as connection:
            await self.custody.load(connection)
        self.desk = Desk(self.history)
        self.numbers = Numbers(self._writer)
        self.journal = Journal(self._journal_connection, lambda outcome: self.doubts.unsure(outcome),
                               lambda intent: self.doubts.never_sent(intent.transaction.transaction_id))
        async with self.writers.acquire() as connection:
            if self.alone:
                await end_all(connection)
            self.lease = await claim(connection)

    def _join_payments(self) -> None:
        epoch = self.lease.epoch
        self.authorizations = Authorizations(self.directory, self.vault, self.journal, self.numbers, self.links, self.desk, self.books,
                                             self.alarm, self.admission, worker_epoch=epoch, commit_budget_s=self.settings.commit_budget_s,
                                             cleared=lambda *wanted: self.reversals.clear(*wanted), pins=Pins(self.custody.store, self.custody.hsm),
                                             guarded=lambda *sale: self.protection.sell(*sale),
                                             unreached=lambda *sale: self.stand_ins.sell(*sale))
        self.protection = Protection(self.directory, self.vault, self.readers, self.writers, self.owed, self.alarm, self.authorizations, epoch,
                                     place=lambda *hold: self.arrangements.place(*hold), release=lambda *hold: self.arrangements.release(*hold))
        self.doubts, self.roster = Doubts(self.authorizations), Roster(self.owed, epoch, self.links)
        self.evidence = Evidence(self.writers, self.directory, self.history, self.authorizations, self.alarm)
        self.cancellations = Cancellations(self.writers, self.history, self.authorizations, self.directory)
        self.reversals = Reversals(self._journal_connection, self.directory, self.books, self.vault, self.links, self.alarm, self.may_send,
                                   self.roster.share, self.authorizations.undo_captures)
        self.reservations = Reservations(self._journal_connection, lambda follow_up: self.follow_ups.settle_late(follow_up))
        self.follow_ups = FollowUps(self.authorizations, self.doubts, self.reservations, self.reversals, lambda row: self.undelivered.lost(row))
        self.offline, self.stand_ins = OfflineSales(self.authorizations, self.reservations), StandIns(self.authorizations, self.reservations)
        self.expiry = Expiry(self.owed)
        self.recovery = Recovery(self.owed, self.books, self.authorizations, self.lease)
        self.pending = Pending(self.owed, self.books, self.authorizations, self.alarm, self.directory, epoch)
        self.watch = Watch(self.owed, self.alarm, self.directory, self.links, self.admission, epoch)
        self.undelivered = Undelivered(self.writers, self.alarm, lambda identity, version: self.cancellations.undone(identity, version=version),
                                       self.settings.undelivered_after_s)
        self.onboarding, self.accounts = Onboarding(self.writers, self.limits), Accounts(self.writers, self.vault)
        (self.desk_of_applications, self.papers, self.review, self.registrations, self.contracts,
         self.contract_reads) = counter.counter(self.writers, self.readers, self.vault)
        self.journey, self.imports = Journey(self.writers, self.readers, self.vault), Imports(self.writers)
        self.host_days = HostDays(self.writers, self.onboarding.open_business_day)
        self.signatures = Signatures(self.writers, self.readers, self.vault)
        self.resolution, self.crypto_keys, self.device_keys = Resolution(self.writers), self.custody.crypto_keys, self.custody.device_keys

    def _join_lines(self) -> None:
        self.lines = Lines(self.links, self.directory, self.admission, self.numbers, self.limits, self.writers, self.alarm, self.vault,
                           connect=self._writer, folder=self.settings.home / "run", epoch=self.lease.epoch, may_send=self.may_send,
                           on_unmatched=self.evidence.take, on_state=self.roster.wake.set, on_cut_over=self.host_days.said,
                           keys_of=self.custody.keys_of, installer_of=self.custody.installer_of)
        self.directory.on_acquirer = self.lines.acquirer_changed

    def _join_settlement(self) -> None:
        self.places, self.press = Places(), Press(self.settings.home / "fonts")
        self.exports = Exports(self._long_reader, self.settings.home / "exports")
        self.cases, self.docket, self.exhibits = Cases(tell), Docket(self.readers, self.writers), Exhibits(self.vault, self.readers)
        jobs = schedule.kinds(self.url, self._reader, self._writer, self.writers, self.owed, self.exports, self.cases, self.journey, self.imports)
        self.foreman = Foreman(kinds_of(*jobs), lambda role: database.connect(self.url, role),
                               lambda: database.pool(self.url, "switch_writer", JOBS), schedules=self.settings.schedules)
        self.intake, self.exceptions, self.batches = Intake(self._writer), Exceptions(self.writers), Batches(self.readers, self.writers)
        self.settlements, self.closing, self.arrangements = Settlements(self.readers), Closing(self._writer), Arrangements(self.writers)
        self.forwarding = Forwarding(self.owed, self.directory, self.links, self.numbers, self.vault)
        self.bank_accounts, self.payouts = BankAccounts(self.writers, self.vault), Payouts(self.readers)
        self.payout_files, self.bank_answers = PayoutFiles(self.writers, self.vault), BankAnswers(self.writers, self.vault)

    async def _join_webhooks(self) -> None:
        self.notices = await database.pool(self.url, "switch_writer", NOTICES)
        self.resolver = Resolver()
        post = Post(self.resolver, self.settings.webhooks_anywhere)
        self.subscribed, self.inbox = Subscribed(self.notices), Inbox(self.writers, self.readers)
        self.webhooks, self.sweep = Endpoints(self.writers, self.vault, post, self.subscribed), Sweep(self.notices, self.subscribed)
        self.sender = Sender(self.notices, self.vault, post, self.subscribed)

    async def _join_terminals(self) -> None:
        keys = Keys(terminal_keys.issue, terminal_keys.revoke, terminal_keys.erase, self.custody.device_keys.provide)
        self.of_devices = await database.pool(self.url, "switch_writer", DEVICES)
        self.devices, self.health = Devices(self.writers, self.readers, keys), Health(self.of_devices, self.readers, keys)
        self.activation, self.silence = Activation(self.of_devices, self.vault, keys), Silence(self.owed)
        self.tickets, self.support_desk, self.overdue = Tickets(self.writers, keys), SupportDesk(self.readers), Overdue(self.owed)
        self.parameter_sets, self.releases = ParameterSets(self.writers, self.readers), Releases(self.writers, self.readers)
        self.acceptance, self.training = Acceptance(self.writers, self.readers, keys), Training(self.writers, self.readers)

    def application(self) -> tuple[ASGI, StraightWay]:
        """The HTTP application: the hot route in front, everything else behind it; and the straight way to the hot route."""
        hot = AuthorizationEndpoint(self.directory, self.authorizations, self.vault, self.undelivered, self.admit)
        rest = taken_up(application(self), self.directory.caught_up)

        async def front(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == HOT_PATH and scope["method"] == "POST":
                await hot(scope, receive, send)
            else:  # HEAD is a GET whose body the server leaves away (RFC 9110, section 9.3.2)
                await rest({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)

        return front, StraightWay(HOT_PATH, hot.start)

    def admit(self) -> None:
        """Raises Problem before any write: draining, or records that may be stale."""
        if self.draining:
            raise Problem("draining", retry_after=5, extra={"processed": False})
        now = asyncio.get_running_loop().time()
        if not self.directory.fresh(now):
            raise Problem("not_ready", "The switch cannot read its records.", retry_after=2, extra={"processed": False})
        if not self.may_send():
            raise Problem("not_ready", "The switch cannot renew its lease.", retry_after=2, extra={"processed": False})

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
        await self.foreman.stop()
        await self.lines.stop(longest)
        await self.reversals.stop()
        await self.sender.stop()
        self.resolver.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.commit_budget_s):
                await self.reservations.stop()
                await self.journal.stop()
        await self.evidence.stop()
        with suppress(*database.UNKNOWN, asyncpg.PostgresError):
            async with asyncio.timeout(2):
                await self.undelivered.write()
        await self.protection.stop()
        await self.closing.stop()
        await self.forwarding.stop()
        await background.end(self.tasks)
        with suppress(*database.UNKNOWN, asyncpg.PostgresError):
            async with self.writers.acquire() as connection:
                await end(connection, self.lease.epoch)
        await self._close_pools()
        logs.info("stopped")

    async def _close_pools(self) -> None:
        for pool in (self.writers, self.readers, self.owed, self.notices, self.of_devices):
            with suppress(*database.UNKNOWN):
                async with asyncio.timeout(2):
                    await pool.close()

    async def _keep_lease(self) -> None:
        """Without its lease a worker is none: it admits nothing, hangs up, and its process ends (serve)."""
        await self.lease.keep(self._writer)
        self.draining = True
        await self.lines.hang_up()

    async def _writer(self) -> Connection:
        return await database.connect(self.url, "switch_writer")

    async def _reader(self) -> Connection:
        return await database.connect(self.url, "switch_reader")

    async def _follower(self) -> Connection:
        return await database.connect(self.url, "switch_reader", **database.FOLLOW_PLANS)

    async def _long_reader(self) -> Connection:
        """Rows come in the order of an index, so that the first is there at once."""
        return await database.connect(self.url, "switch_reader", enable_seqscan="off", enable_bitmapscan="off", enable_sort="off")

    async def _journal_connection(self, plans: dict[str, str]) -> Connection:
        return await database.connect(self.url, "switch_writer", **plans)

    def reader(self) -> Connect:
        """For what reads long: each connection is its user's own."""
        return self._long_reader

    def _run(self, *jobs: Awaitable[None]) -> None:
        for job in jobs:
            self.tasks.append(asyncio.create_task(supervised(job), name=getattr(job, "__qualname__", None)))

    async def _gauge(self) -> None:
        while True:
            self.lines.gauge()
            metrics.loop_lag.set(self.admission.lag)
            await asyncio.sleep(1)

    async def _confirm(self) -> None:
        """Says which directory version this worker uses, for those who wait until all use it."""
        said = 0
        while True:
            version = self.directory.version
            if version > said:
                try:
                    await knows(self.owed, self.lease.epoch, version)
                    said = version
                except (*database.UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("directory_not_confirmed", error=type(error).__name__)
            await asyncio.sleep(CONFIRM_S)
