"""Sales approved in an acquirer's stead: it cannot be reached, nothing was sent, and its terms allow it. Told when durable; the advice follows.

A row of these is a purchase by advice (ISO 8583, 0220): it waits as SENT until the acquirer has answered, like an offline approval. The limit of the
day is counted by the database in the commit of the intent (migrations r0024).
"""

from typing import NamedTuple

from messages.dialect import Dialect, match_key
from messages.tlv import TlvError, parse
from switch import metrics
from switch.errors import Problem
from switch.payments import translation
from switch.payments.asked import Asked
from switch.payments.authorization import Authorizations
from switch.payments.desk import Told
from switch.payments.follow_ups import advice_duty, unavailable
from switch.payments.journal import Claim
from switch.payments.reservations import FollowUp, Reservations
from switch.payments.timers import HTTP_MARGIN_S
from switch.payments.transaction import STOOD_IN_FOR
from switch.payments.translation import Order
from switch.payments.verbs import Refusal
from switch.records import Acquirer, StandInTerms
from switch.security.pan import Pan

CRYPTOGRAM = "9F27"  # cryptogram information data (EMV book 3, table 14): the two highest bits 00 are AAC, the card declined
CID_KINDS = 0xC0


class Cover(NamedTuple):
    """The acquirer in whose stead a sale is approved."""

    acquirer: Acquirer


def against(order: Order, terms: StandInTerms | None, dialect: Dialect) -> str:
    """Why nobody may stand in for this sale, "" when its terms allow it. The limit of the day is the database's."""
    said = dialect.messages.get(STOOD_IN_FOR)
    found = (
        (terms is None, "no_terms"),
        (said is None or said.mti != "0220" or dialect.asks, "no_advice"),
        (order.type != "purchase" or order.capture_method != "automatic" or order.cashback_amount > 0, "no_plain_purchase"),
        (not isinstance(order.pan, Pan), "no_card"),
        (order.pin_block is not None, "pin_online"),
        (terms is not None and order.entry_mode not in terms.entry_modes, "entry_mode"),
        (_declined_by_card(order), "declined_by_card"),
        (terms is not None and order.currency != terms.currency, "currency"),
        (terms is not None and order.amount > terms.sale_amount, "sale_amount"),
        (order.amount < 1, "no_plain_purchase"),
    )
    return next((reason for speaks, reason in found if speaks), "")


def _declined_by_card(order: Order) -> bool:
    if order.emv is None:
        return False
    try:
        kinds = [value for tag, value in parse(order.emv.sent) if tag == CRYPTOGRAM]
    except TlvError:
        return True
    return any(int(value or "0", 16) & CID_KINDS == 0 for value in kinds)


class StandIns:
    """Of this worker. Joined in app.py."""

    def __init__(self, authorizations: Authorizations, reservations: Reservations) -> None:
        self.authorizations, self.reservations = authorizations, reservations

    async def sell(self, asked: Asked, alternatives: list[Acquirer], refusal: Problem) -> Told:
        """One sale that nobody could take. Raises Problem: `refusal` when nobody stands in for it; risk_declined; journal_unavailable."""
        cover = self._cover(asked, alternatives)
        if cover is None:
            raise refusal
        walk = self.authorizations

        async def approve(asked: Asked, cover: Cover, alternatives: list[Acquirer]) -> Told:
            return await self._approve(asked, cover.acquirer, refusal)

        return await (walk.guarded(asked, cover, alternatives, approve) if walk.directory.guarded and walk.guarded is not None
                      else approve(asked, cover, alternatives))

    def _cover(self, asked: Asked, alternatives: list[Acquirer]) -> Cover | None:
        """The first by routing that the sale could have gone to, and whose terms allow it."""
        reasons = []
        for acquirer in alternatives:
            terms = acquirer.stands_in(asked.seller.merchant.merchant_id, asked.brand)
            if terms is None or acquirer.status != "active":
                continue
            if translation.fault(asked.order, acquirer.dialect, acquirer.message_mode) is None:
                reasons.append(against(asked.order, terms, acquirer.dialect))
                if not reasons[-1]:
                    return Cover(acquirer)
        for reason in reasons[:1]:
            metrics.stand_ins.labels(reason).inc()
        return None

    async def _approve(self, asked: Asked, acquirer: Acquirer, refusal: Problem) -> Told:
        order, seller, door, walk = asked.order, asked.seller, asked.door, self.authorizations
        row = walk.drafts.transaction(order, seller, asked.key[2], acquirer, asked.brand, door, asked.identity)
        rule = acquirer.dialect.messages[STOOD_IN_FOR]
        row.exchange, row.mti, row.processing_code, row.pos_condition = "advice", rule.mti, rule.fixed["3"], rule.fixed.get("25", "00")
        row.approval_code = f"S{asked.identity.hex[-5:].upper()}"
        row.respond_by = row.send_not_after = door.received_at  # nobody waits for its answer
        assert isinstance(order.pan, Pan)
        message = translation.follow_up(row, None, acquirer.dialect, order.pan, order.expiry, acquirer.institution_code)
        row.match_key, row.request_message = match_key(acquirer.dialect, message), translation.masked(acquirer.dialect, message)
        duty, deadline = advice_duty(row, door.received_at, acquirer, False), door.at + walk.commit_budget_s
        claim = await self.reservations.intent(FollowUp(row, asked.route, asked.fingerprint, acquirer.business_date, approval_code=row.approval_code,
                                                        duty=duty, stood_in_for=True), deadline)
        if claim is Claim.DUPLICATE:
            return await walk.told_again(asked.key, asked.route, asked.fingerprint, deadline + HTTP_MARGIN_S)
        if isinstance(claim, Refusal):
            metrics.stand_ins.labels(claim.detail).inc()
            raise refusal
        if claim is not Claim.OURS:
            raise unavailable("advice")
        metrics.stand_ins.labels("approved").inc()
        return Told(row, False)
