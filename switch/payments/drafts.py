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
        received_at, row = door.received_at, Transaction.blank()
        row.transaction_id, row.idempotency_key, row.brand = transaction_id, key, brand
        row.stan, row.rrn, row.worker_epoch = stan, rrn, self.worker_epoch
        row.received_at, row.transmitted_at = received_at, de7(received_at)
        row.send_not_after = received_at + timedelta(seconds=send_within(acquirer.answer_timeout_s))
        row.respond_by = received_at + timedelta(seconds=acquirer.answer_timeout_s)
        row.match_key = row.request_message = ""
        _ordered(row, order)
        _sold_by(row, seller)
        _sent_to(row, order, seller, acquirer)
        wall = translation.local(order, seller.store, received_at)
        row.local_time, row.local_date = hhmmss(wall), mmdd(wall)
        if order.terminal_trace:
            row.same_trace = hash64(row.terminal_id.bytes, row.local_date.encode(), order.terminal_trace.encode())
        row.pan_token, row.pan_token_key, row.pan_sealed_on = self.vault.token(order.pan), self.vault.token_key_id, received_at.date()
        row.pan_key, row.pan_sealed = cards.sealed(self.vault, order.pan, order.expiry, transaction_id, row.pan_sealed_on)
        return row


def _ordered(row: Transaction, order: Order) -> None:
    row.type, row.amount, row.currency = order.type, order.amount, order.currency
    row.tip_amount, row.cashback_amount = order.tip_amount, order.cashback_amount
    row.capture_method, row.partial_approval, row.entry_mode = order.capture_method, order.partial_approval, order.entry_mode
    row.masked_pan, row.card_last4, row.card_sequence_number = order.pan.masked, order.pan.last4, order.sequence_number
    row.emv = order.emv.stored if order.emv else None
    row.terminal_trace, row.reference = order.terminal_trace, order.reference


def _sold_by(row: Transaction, seller: Seller) -> None:
    merchant, terminal_id = seller.merchant, seller.terminal.terminal_id
    row.merchant_id, row.store_id, row.mcc = merchant.merchant_id, seller.store.store_id, merchant.mcc
    row.terminal_id = row.caller = terminal_id


def _sent_to(row: Transaction, order: Order, seller: Seller, acquirer: Acquirer) -> None:
    dialect = acquirer.dialect
    rule = dialect.messages[translation.verb(order.type, acquirer.message_mode)]
    row.acquirer_id, row.business_date, row.exchange = acquirer.acquirer_id, acquirer.business_date, asking(dialect)
    row.mti, row.processing_code, row.pos_condition = rule.mti, rule.fixed["3"], rule.fixed.get("25", "00")
    row.pos_entry_mode = translation.entry_mode(order, dialect)
    row.card_acceptor_terminal, row.card_acceptor = seller.terminal.numbers[acquirer.acquirer_id]
