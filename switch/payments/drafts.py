"""The row of an order and its message, made in memory before anything is written: numbers, sealed card, times."""

import os
import time
from datetime import timedelta
from uuid import UUID

from messages.dialect import match_key
from switch.errors import Problem
from switch.ids import uuid7
from switch.links.numbering import Numbers
from switch.payments import cards, translation
from switch.payments.asked import Asked, Door, Seller
from switch.payments.pins import Pins
from switch.payments.timers import send_within
from switch.payments.transaction import Transaction
from switch.payments.translation import Order, de7, hash64, hhmmss, mmdd
from switch.payments.verbs import asking
from switch.records import Acquirer
from switch.security.vault import Vault


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class Drafts:
    """Of this worker: its numbers, its keys, its epoch."""

    def __init__(self, vault: Vault, numbers: Numbers, worker_epoch: int, pins: Pins | None = None) -> None:
        self.vault, self.numbers, self.worker_epoch, self.pins = vault, numbers, worker_epoch, pins

    def request(self, asked: Asked, acquirer: Acquirer, identity: UUID) -> tuple[Transaction, dict[str, str]]:
        """The row and its message. Raises Problem: overloaded, no number is left; invalid, its PIN block is none that this acquirer can get."""
        order, seller = asked.order, asked.seller
        if order.pin_block is not None and self.pins is not None:
            order = self.pins.translated(order, seller.merchant.merchant_id, seller.terminal.terminal_id, acquirer.acquirer_id, acquirer.dialect)
        transaction = self.transaction(order, seller, asked.key[2], acquirer, asked.brand, asked.door, identity)
        message = translation.request(order, transaction, acquirer, seller.merchant, seller.store)
        transaction.match_key = match_key(acquirer.dialect, message)
        transaction.request_message = translation.masked(acquirer.dialect, message, transaction.emv)
        return transaction, message

    def transaction(self, order: Order, seller: Seller, key: str, acquirer: Acquirer, brand: str, door: Door, transaction_id: UUID) -> Transaction:
        """The row of an order before its message is made. Raises Problem overloaded: no number is left."""
        stan, rrn = self.numbers.stan(acquirer.acquirer_id), self.numbers.rrn(acquirer.acquirer_id, acquirer.business_date)
        if stan is None or rrn is None:
            raise Problem("overloaded", retry_after=1, extra={"processed": False})
        received_at = door.received_at
        today = received_at.date()
        pan_key, sealed = cards.sealed(self.vault, order.pan, order.expiry, transaction_id, today)
        rule = acquirer.dialect.messages[translation.verb(order.type, acquirer.message_mode)]
        wall = translation.local(order, seller.store, received_at)
        local_date = mmdd(wall)
        terminal_id, token = seller.terminal.terminal_id.bytes, self.vault.token(order.pan)
        terminal_number, acceptor = seller.terminal.numbers[acquirer.acquirer_id]
        return Transaction(
            merchant_id=seller.merchant.merchant_id, transaction_id=transaction_id, type=order.type, exchange=asking(acquirer.dialect),
            store_id=seller.store.store_id, terminal_id=seller.terminal.terminal_id, caller=seller.terminal.terminal_id, idempotency_key=key,
            acquirer_id=acquirer.acquirer_id, business_date=acquirer.business_date, worker_epoch=self.worker_epoch,
            amount=order.amount, currency=order.currency, tip_amount=order.tip_amount, cashback_amount=order.cashback_amount,
            capture_method=order.capture_method, partial_approval=order.partial_approval, entry_mode=order.entry_mode,
            masked_pan=order.pan.masked, card_last4=order.pan.last4, brand=brand, pan_token=token,
            pan_token_key=self.vault.token_key_id, pan_sealed=sealed, pan_key=pan_key, pan_sealed_on=today,
            card_sequence_number=order.sequence_number, emv=order.emv.stored if order.emv else None,
            mti=rule.mti, processing_code=rule.fixed["3"], stan=stan, transmitted_at=de7(received_at), local_time=hhmmss(wall),
            local_date=local_date, pos_entry_mode=translation.entry_mode(order, acquirer.dialect), pos_condition=rule.fixed.get("25", "00"), rrn=rrn,
            card_acceptor_terminal=terminal_number, card_acceptor=acceptor, mcc=seller.merchant.mcc, match_key="",
            received_at=received_at, send_not_after=received_at + timedelta(seconds=send_within(acquirer.answer_timeout_s)),
            respond_by=received_at + timedelta(seconds=acquirer.answer_timeout_s), request_message="",
            terminal_trace=order.terminal_trace, reference=order.reference,
            same_trace=hash64(terminal_id, local_date.encode(), order.terminal_trace.encode()) if order.terminal_trace else None)
