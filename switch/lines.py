"""The lines of this worker, kept in step with the acquirers of the directory: one link each, of one line or several, its numbers, its limits."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from uuid import UUID

from switch import acquirers, logs, metrics
from switch.alerts import Alerts
from switch.background import Background
from switch.database import Connection, Pool
from switch.directory import Directory
from switch.ids import show
from switch.links import Link, LinkSettings, Unmatched
from switch.links.acquirer import AcquirerLink
from switch.links.exchange import Exchanges
from switch.links.group import LineGroup
from switch.links.holder import Holder, address_of
from switch.links.numbering import Numbers
from switch.links.sealing import LineKeys
from switch.links.shared import SharedLink
from switch.links.slots import Slots
from switch.merchants.accounts import secret_of
from switch.payments import timers
from switch.payments.admission import Admission
from switch.plug_ins import Account, PlugIn
from switch.plug_ins.link import PlugInLink
from switch.records import Acquirer
from switch.security.vault import Vault, VaultError

FIRST_BLOCKS = 5  # of numbers per acquirer at the start
SIGN_OFF_S = 1.0
Installer = Callable[[Mapping[str, str]], Awaitable[str]]  # of a host's message, which holds keys; the DE39 of the answer


class Lines:
    """`links` is filled and changed here, and read by everybody. `may_send`: whether this worker's lease is good; `on_unmatched` takes what
    answers nothing; `on_state` hears that a line's state has changed; `on_cut_over` what a host says of its business day (MMDD); `keys_of`: the
    acquirer's keys, for MACs; `installer_of`: who takes its host's new ones, None refuses them."""

    def __init__(self, links: dict[UUID, Link], directory: Directory, admission: Admission, numbers: Numbers, limits: timers.Limits, pool: Pool,
                 alarm: Alerts, vault: Vault, *, connect: Callable[[], Awaitable[Connection]], folder: Path, epoch: int, may_send: Callable[[], bool],
                 on_unmatched: Callable[[Unmatched], None], on_state: Callable[[], None], on_cut_over: Callable[[UUID, str], Awaitable[None]],
                 keys_of: Callable[[Acquirer], LineKeys | None] = lambda _: None,
                 installer_of: Callable[[Acquirer], Installer | None] = lambda _: None) -> None:
        self.links, self.directory, self.admission, self.numbers, self.limits = links, directory, admission, numbers, limits
        self.pool, self.alarm, self.vault, self.may_send, self.keys_of, self.installer_of = pool, alarm, vault, may_send, keys_of, installer_of
        self.on_unmatched, self.on_state, self.on_cut_over = on_unmatched, on_state, on_cut_over
        self.slots = Slots(connect, epoch, address_of(folder, epoch))
        self.holder = Holder(folder, epoch, self._held)
        self.plans: dict[UUID, tuple[tuple[LinkSettings, ...], bool]] = {}  # what each link was made for
        self.refused: dict[UUID, list[str]] = {}  # active acquirers whose records are not used, and why
        self.background = Background()

    async def up(self, seconds: float) -> bool:
        """Waits until every line that should be up is; False after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            if all(link.usable() for link in self.links.values() if link.state != "down"):
                return True
            await asyncio.sleep(0.02)
        return False

    async def hang_up(self) -> None:
        """All lines at once: what is in flight is unknown."""
        for link in list(self.links.values()):
            await link.close()

    async def stop(self, longest_s: float) -> None:
        """Signs off and closes. `longest_s`: how long others may wait for what they have handed over."""
        for link in list(self.links.values()):  # an acquirer may come while one waits here
            await link.drain(longest_s if isinstance(link, SharedLink) else SIGN_OFF_S)
            await link.close()
        await self.holder.close()

    def gauge(self) -> None:
        for link in self.links.values():
            metrics.link_up.labels(link.name).set(link.state == "up")
            metrics.link_pending.labels(link.name).set(link.snapshot()["pending"])
            states = list(link.health())
            metrics.lines_up.labels(link.name).set(sum(line.state == "up" for line in states))
            metrics.breakers_open.labels(link.name).set(sum(line.breaker in ("open", "half_open") for line in states))
            gate = self.admission.gates.get(UUID(link.acquirer_id))
            if gate is not None:
                metrics.admission_limit.labels(link.name).set(int(gate.limit))
                metrics.admission_in_flight.labels(link.name).set(gate.in_flight)

    async def acquirer_changed(self, acquirer: Acquirer) -> bool:
        """Keeps one link per acquirer in step with its record, and its numbers ready. False: its timers do not nest, and it is not used."""
        if not await self._nests(acquirer):
            return False
        await self._lease_numbers(acquirer)
        self.admission.adjust(acquirer.acquirer_id, acquirer.min_in_flight, acquirer.max_in_flight, asyncio.get_running_loop().time())
        wanted = planned(acquirer)
        if not wanted:
            return True
        plug_in = acquirers.plug_ins().get(acquirer.dialect.name)
        link = await (self._in_step(acquirer, wanted) if plug_in is None else self._plugged(acquirer, wanted[0], plug_in))
        if link is None:
            return True
        link.guard(acquirer.breaker)
        known = self.directory.acquirers.get(acquirer.acquirer_id)
        if known is not None and known.sign_on_at != acquirer.sign_on_at:
            await link.sign_on()
        if acquirer.status == "active":
            await link.up()
        elif link.state not in ("down", "draining"):
            self.background.later(link.drain(acquirer.answer_timeout_s) if acquirer.status == "draining" else link.down())
        return True

    async def _nests(self, acquirer: Acquirer) -> bool:
        faults = timers.acquirer_faults(acquirer.answer_timeout_s, acquirer.reversal_grace_s, self.limits)
        if not faults:
            self.refused.pop(acquirer.acquirer_id, None)
            return True
        for _, fault in faults:
            logs.error("acquirer_not_used", acquirer=acquirer.name, detail=fault)
        if acquirer.status == "active":
            self.refused[acquirer.acquirer_id] = [f"acquirer {acquirer.name}: {fault}" for _, fault in faults]
            await self.alarm.raise_("acquirer_not_used", show("acquirer", acquirer.acquirer_id))
        return False

    def refusals(self) -> Iterator[str]:
        """One line per fault of an active acquirer that is not used."""
        for faults in self.refused.values():
            yield from faults

    async def _in_step(self, acquirer: Acquirer, wanted: tuple[LinkSettings, ...]) -> Link:
        """The acquirer's link; another one when its lines or its way of sharing have changed."""
        acquirer_id, limit = acquirer.acquirer_id, acquirer.max_links
        old = self.links.get(acquirer_id)
        if old is not None and self.plans.get(acquirer_id) == (wanted, limit > 0):
            if isinstance(old, SharedLink):
                old.limit_to(limit)
            return old
        self.plans[acquirer_id] = wanted, limit > 0
        if limit or isinstance(old, SharedLink):
            return await self._shared(acquirer, wanted, old)
        known = {line.settings: line for line in lines_of(old)}  # what is as it was stays connected
        exchanges = next((line.exchanges for line in known.values()), Exchanges(acquirer.dialect))
        lines = [known.pop(each) if each in known else self._line(acquirer, each, exchanges) for each in wanted]
        link = self.links[acquirer_id] = lines[0] if len(lines) == 1 else LineGroup(lines)
        for line in lines:
            if not line.started:
                line.start()
        for line in known.values():
            self.background.later(self._retire(line, acquirer.answer_timeout_s))
        return link

    async def _plugged(self, acquirer: Acquirer, wanted: LinkSettings, plug_in: PlugIn) -> Link | None:
        """The link to a host of a plug-in; a new one when its address or account has changed. None: it is not set up (or wrongly), and not used."""
        old, account = self.links.get(acquirer.acquirer_id), await self._account(acquirer, wanted, plug_in)
        limit_s = int(acquirer.query.limit_s)
        if account is not None and isinstance(old, PlugInLink) and (old.settings, old.account, old.limit_s) == (wanted, account, limit_s):
            return old
        if old is not None:
            del self.links[acquirer.acquirer_id]
            self.background.later(self._retire(old, acquirer.answer_timeout_s))
        if account is None:
            return None
        link = self.links[acquirer.acquirer_id] = PlugInLink(
            str(acquirer.acquirer_id), acquirer.name, acquirer.dialect, wanted, plug_in, account, limit_s, on_unmatched=self.on_unmatched,
            on_state=self._heard(acquirer, wanted), may_write=self.may_send)
        link.start()
        return link

    async def _account(self, acquirer: Acquirer, wanted: LinkSettings, plug_in: PlugIn) -> Account | None:
        try:
            secret = await secret_of(self.pool, self.vault, acquirer.acquirer_id)
        except VaultError as error:
            logs.error("acquirer_not_used", acquirer=acquirer.name, code=error.code, detail="its secret cannot be read: set it anew")
            await self.alarm.raise_("acquirer_not_used", show("acquirer", acquirer.acquirer_id))
            return None
        account = Account(acquirer.name, wanted.host, wanted.port, acquirer.options, secret, acquirer.max_in_flight)
        faults = acquirers.faults(plug_in.name, account)
        for field, rule in faults:
            logs.error("acquirer_not_used", acquirer=acquirer.name, field=field, detail=rule)
        if faults and acquirer.secret_at is not None:  # it was set up once: somebody relies on it
            await self.alarm.raise_("acquirer_not_used", show("acquirer", acquirer.acquirer_id))
        return None if faults else account

    async def _shared(self, acquirer: Acquirer, wanted: tuple[LinkSettings, ...], old: Link | None) -> Link:
        """Lines that workers share, or own ones after such: the host takes only so many, so one after the other."""
        def own(may_write: Callable[[], bool] = self.may_send) -> AcquirerLink | LineGroup:
            exchanges = Exchanges(acquirer.dialect)
            lines = [self._line(acquirer, each, exchanges, may_write) for each in wanted]
            return lines[0] if len(lines) == 1 else LineGroup(lines)

        link: Link
        if acquirer.max_links:
            await self.holder.open()
            link = SharedLink(str(acquirer.acquirer_id), acquirer.name, acquirer.dialect, wanted[0], slots=self.slots, limit=acquirer.max_links,
                              make=own, may_send=self.may_send, on_unmatched=self.on_unmatched)
        else:
            link = own()
        self.links[acquirer.acquirer_id] = link
        if old is None:
            link.start()
        else:
            self.background.later(self._retire(old, acquirer.answer_timeout_s, link))
        return link

    def _line(self, acquirer: Acquirer, settings: LinkSettings, exchanges: Exchanges, may_write: Callable[[], bool] | None = None) -> AcquirerLink:
        acquirer_id = acquirer.acquirer_id
        return AcquirerLink(str(acquirer_id), acquirer.name, acquirer.dialect, settings,
                            next_stan=lambda: self.numbers.stan(acquirer_id), on_unmatched=self.on_unmatched,
                            on_cut_over=lambda month_day: self.background.later(self.on_cut_over(acquirer_id, month_day)),
                            on_key_change=self.installer_of(acquirer),
                            on_state=self._heard(acquirer, settings), may_write=may_write or self.may_send, exchanges=exchanges,
                            keys=self.keys_of(acquirer))

    def _heard(self, acquirer: Acquirer, settings: LinkSettings) -> Callable[[str, str, str | None], None]:
        """What hears of a line's states."""
        def changed(_: str, state: str, why: str | None) -> None:
            logs.info("line", acquirer=acquirer.name, state=state, host=settings.host, port=settings.port, error=why)
            self.on_state()

        return changed

    def _held(self, acquirer_id: str) -> AcquirerLink | LineGroup | None:
        """Our own line, or lines, of an acquirer that shares, if we hold one: what the holder's end hands requests to."""
        link = self.links.get(UUID(acquirer_id))
        return link.own if isinstance(link, SharedLink) else None

    async def _lease_numbers(self, acquirer: Acquirer) -> None:
        """The first blocks, so that the first sale need not be shed."""
        for business_date in (None, acquirer.business_date):
            if (acquirer.acquirer_id, business_date) not in self.numbers.left:
                async with self.pool.acquire() as connection:
                    for _ in range(FIRST_BLOCKS):
                        await self.numbers.lease(connection, acquirer.acquirer_id, business_date)

    async def _retire(self, link: Link, seconds: float, successor: Link | None = None) -> None:
        await link.drain(seconds)
        await link.close()
        if successor is not None:
            successor.start()


def lines_of(link: Link | None) -> tuple[AcquirerLink, ...]:
    """The lines that this worker holds for itself."""
    return link.lines if isinstance(link, LineGroup) else (link,) if isinstance(link, AcquirerLink) else ()


def planned(acquirer: Acquirer) -> tuple[LinkSettings, ...]:
    """Each connection that this worker is to have."""
    return tuple(LinkSettings(host=line.host, port=line.port, window=acquirer.max_in_flight, line=str(line.line_id), number=number,
                              priority=line.priority, tls=line.tls)
                 for line in acquirer.lines for number in range(1, line.connections + 1))
