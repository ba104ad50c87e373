"""Offline approvals: the terminal sold without asking, and says so afterwards. Accepted when durable, repeated until answered."""

from messages.dialect import match_key
from switch import metrics
from switch.errors import Problem
from switch.payments import translation
from switch.payments.asked import Asked, Door, Seller
from switch.payments.authorization import Authorizations
from switch.payments.desk import Key, Told
from switch.payments.drafts import new_id
from switch.payments.follow_ups import advice_duty, unavailable
from switch.payments.journal import Claim
from switch.payments.reservations import FollowUp, Reservations
from switch.payments.timers import HTTP_MARGIN_S
from switch.payments.translation import Order
from switch.records import Acquirer
from switch.security.pan import Pan

ROUTE = "advices"


class OfflineSales:
    """Takes the advices of offline approvals. Joined in app.py."""

    def __init__(self, authorizations: Authorizations, reservations: Reservations) -> None:
        self.authorizations, self.reservations = authorizations, reservations

    async def accept(self, order: Order, seller: Seller, approval_code: str, key: str, fingerprint: bytes, door: Door) -> Told:
        """One offline sale under its key; it needs no line. Raises Problem: no_route, not_supported, overloaded, journal_unavailable."""
        identity = (seller.merchant.merchant_id, seller.terminal.terminal_id, key)
        return await self.authorizations.desk.submit(identity, ROUTE, fingerprint,
                                                     lambda: self._walk(order, seller, approval_code, identity, fingerprint, door))

    async def _walk(self, order: Order, seller: Seller, approval_code: str, key: Key, fingerprint: bytes, door: Door) -> Told:
        asked = Asked(order, seller, key, fingerprint, door, ROUTE, self.authorizations.ways.brand(order), new_id())
        acquirer = self._acquirer(asked)
        row = self.authorizations.drafts.transaction(order, seller, key[2], acquirer, asked.brand, door, asked.identity)
        row.exchange, row.approval_code, row.emv = "advice", approval_code, None
        row.respond_by = row.send_not_after = door.received_at  # nobody waits for its answer
        assert isinstance(order.pan, Pan)  # of a card: its route takes no payment codes
        message = translation.follow_up(row, None, acquirer.dialect, order.pan, order.expiry, acquirer.institution_code)
        row.match_key = match_key(acquirer.dialect, message)
        row.request_message = translation.masked(acquirer.dialect, message)
        duty = advice_duty(row, door.received_at, acquirer, False)
        claim = await self.reservations.intent(FollowUp(row, ROUTE, fingerprint, acquirer.business_date, approval_code=approval_code, duty=duty),
                                               door.at + self.authorizations.commit_budget_s)
        if claim is Claim.DUPLICATE:
            return await self.authorizations.desk.stored(key, ROUTE, fingerprint, door.at + self.authorizations.commit_budget_s + HTTP_MARGIN_S)
        if claim is not Claim.OURS:
            raise unavailable("advice")
        metrics.follow_ups.labels(row.type, "accepted").inc()
        return Told(row, False)

    def _acquirer(self, asked: Asked) -> Acquirer:
        """The first that routing allows and that takes offline sales, whether its line is up or not."""
        alternatives = self.authorizations.ways.alternatives_of(asked)
        faults = [translation.fault(asked.order, acquirer.dialect, acquirer.message_mode) for acquirer in alternatives]
        if None not in faults:
            raise Problem("not_supported", faults[0] or "")
        return alternatives[faults.index(None)]
