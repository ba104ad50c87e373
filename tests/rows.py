"""Rows for the tests of the books: a whole transaction with every value given, and what belongs to it."""

import itertools
import os
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from switch.ids import uuid7
from switch.payments.journal import Duty, Intent
from switch.payments.transaction import Transaction

MERCHANT, STORE, TERMINAL, ACQUIRER = (UUID(int=number) for number in (1, 2, 3, 4))
DAY = date(2026, 11, 23)
_count = itertools.count(1)


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def transaction(**changes: Any) -> Transaction:
    """A purchase of 10.00 CNY that was just handed to the journal; every card and every number is its own."""
    number = next(_count)
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "merchant_id": MERCHANT, "transaction_id": new_id(), "type": "purchase", "exchange": "request", "store_id": STORE,
        "terminal_id": TERMINAL, "caller": TERMINAL, "idempotency_key": f"key-{uuid4().hex}", "acquirer_id": ACQUIRER, "business_date": DAY,
        "worker_epoch": 1, "amount": 1000, "currency": "CNY", "tip_amount": 0, "cashback_amount": 0, "capture_method": "automatic",
        "partial_approval": "refuse", "entry_mode": "chip", "masked_pan": "41111111****1111", "card_last4": "1111", "brand": "visa",
        "pan_token": os.urandom(32), "pan_token_key": "t1", "pan_sealed": b"sealed", "pan_key": "k1", "pan_sealed_on": DAY,
        "card_sequence_number": None, "emv": None, "mti": "0200", "processing_code": "000000", "stan": f"{number % 999_999 + 1:06d}",
        "transmitted_at": "1123080000", "local_time": "160000", "local_date": "1123", "pos_entry_mode": "051", "pos_condition": "00",
        "rrn": f"6327{number:08d}", "card_acceptor_terminal": "T0000001", "card_acceptor": "M00000000000001", "mcc": "5411",
        "match_key": f"2|{uuid4().hex}", "received_at": now, "send_not_after": now + timedelta(seconds=2),
        "respond_by": now + timedelta(seconds=3), "request_message": "{}", "terminal_trace": None, "reference": None, "same_trace": None,
    }
    return Transaction(**values | changes)


def intent(row: Transaction, *, refuse: bool = False, fingerprint: bytes = bytes(32)) -> Intent:
    return Intent(row, "authorizations", fingerprint, refuse)


def duty(row: Transaction, kind: str = "reversal", **changes: Any) -> Duty:
    number = next(_count)
    values: dict[str, Any] = {
        "merchant_id": row.merchant_id, "transaction_id": row.transaction_id, "acquirer_id": row.acquirer_id, "kind": kind, "cause": "silence",
        "stan": f"{number % 999_999 + 1:06d}", "transmitted_at": "1123080005", "match_key": f"4|{uuid4().hex}",
        "next_attempt_at": datetime.now(UTC) + timedelta(seconds=5),
    }
    return Duty(**values | changes)


async def insert(connection: asyncpg.Connection, table: str, **values: Any) -> None:
    """One row by hand-written columns."""
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", *values.values())
