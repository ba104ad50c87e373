"""What templates may name of a stored row and of what it follows or undoes (messages.grammar.NAMES): each value made when it is asked for. Pure."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from messages.dialect import Dialect
from messages.grammar import REASONS_OF_THEIR_OWN
from messages.masking import HIDDEN
from messages.templates import answered
from switch.money import CURRENCIES
from switch.payments.transaction import Transaction


class Names(dict[str, str]):
    """By name. `original`: what the row follows; without one, original_* are of the row itself, as in its reversal."""

    def __init__(self, row: Transaction, original: Transaction | None, dialect: Dialect, institution: str | None, expiry: str = "") -> None:
        self.row, self.of, self.dialect, self.institution, self.expiry = row, original or row, dialect, institution or "", expiry

    def __missing__(self, name: str) -> str:
        make = VALUES.get(name)
        value = self[name] = make(self) if make is not None else self.answer(answered(name))
        return value

    def answer(self, path: str) -> str:
        """A field, or a part of one, of the answer as it is stored; "" without one, and where it was stored while it was not shown."""
        if not path:
            raise KeyError(path)
        stored = json.loads(self.of.answer_message) if self.of.answer_message else {}
        return "" if HIDDEN(stored.get(path.partition(".")[0], "")) else self.dialect.part(stored, path)


def local(row: Transaction) -> str:
    """YYMMDDhhmmss at the terminal; near midnight of new year its year is not that of UTC."""
    turn = {("01", 12): 1, ("12", 1): -1}.get((row.local_date[:2], row.received_at.month), 0)
    return f"{(row.received_at.year + turn) % 100:02d}{row.local_date}{row.local_time}"


def reversal_reason(row: Transaction, dialect: Dialect) -> str:
    reasons, cause = dialect.reversal_reasons, "unanswered" if row.answered_at is None else "answered"
    own = row.reason if row.reason in REASONS_OF_THEIR_OWN else None
    return reasons.get(own or cause) or reasons.get(cause, "")


VALUES: Mapping[str, Callable[[Names], str]] = MappingProxyType({
    "mti": lambda names: names.row.mti,
    "stan": lambda names: names.row.stan,
    "mcc": lambda names: names.row.mcc,
    "rrn": lambda names: names.row.rrn,
    "amount": lambda names: f"{names.row.amount:012d}",
    "processing_code": lambda names: names.row.processing_code,
    "transmitted_at": lambda names: names.row.transmitted_at,
    "local_time": lambda names: names.row.local_time,
    "local_date": lambda names: names.row.local_date,
    "local": lambda names: local(names.row),
    "batch": lambda names: f"{names.row.business_date:%y%m%d}",
    "expiry": lambda names: names.expiry,
    "approval_code": lambda names: (names.of.approval_code or "").ljust(6),
    "institution": lambda names: names.institution,
    "institution_length": lambda names: f"{len(names.institution):02d}",
    "terminal": lambda names: names.row.card_acceptor_terminal.strip(),
    "merchant": lambda names: names.row.card_acceptor.strip(),
    "currency": lambda names: CURRENCIES[names.row.currency][0],
    "original_mti": lambda names: names.of.mti,
    "original_stan": lambda names: names.of.stan,
    "original_transmitted_at": lambda names: names.of.transmitted_at,
    "original_local_time": lambda names: names.of.local_time,
    "original_local_date": lambda names: names.of.local_date,
    "original_local": lambda names: local(names.of),
    "original_batch": lambda names: f"{names.of.business_date:%y%m%d}",
    "original_amount": lambda names: f"{names.of.amount:012d}",
    "original_rrn": lambda names: (names.of.acquirer_rrn or names.of.rrn).ljust(12)[:12],
    "original_elements": lambda names: f"{names.of.mti}{names.of.stan}{local(names.of)}{len(names.institution):02d}{names.institution}",
    "transaction": lambda names: names.row.transaction_id.hex,
    "original_transaction": lambda names: names.of.transaction_id.hex,
    "reversal_reason": lambda names: reversal_reason(names.row, names.dialect),
})
