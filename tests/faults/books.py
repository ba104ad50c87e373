"""Three books side by side: what the tills told their customers, the switch's rows, the stubs' durable books. Field by field."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from acquirer_stubs.book import lines_of
from loadtests.terminal import Receipt
from tests.faults.stage import sql
from tests.faults.tills import Till

CURRENCY = {"CNY": "156"}
STANDS = ("APPROVED", "CONFIRMED")
OPEN = ("SENT", "REVERSING", "PARKED")
ROWS = """
SELECT t.transaction_id, t.caller, t.idempotency_key, t.type, t.exchange, t.original_id, t.state, t.version, t.outcome, t.amount, t.currency,
  t.authorised, t.captured, t.refunded, t.voided, t.capture_reserved, t.refund_reserved, t.void_reserved, t.approved_amount, t.approval_code, t.card_last4, t.rrn, t.stan, t.transmitted_at, t.mti,
  t.card_acceptor_terminal, t.worker_epoch, a.name AS acquirer, d.kind AS duty, d.state AS duty_state, d.closed_by, d.last_code, d.cause
FROM transaction t JOIN acquirer a USING (acquirer_id) LEFT JOIN duty d USING (transaction_id)
"""
# What nobody may leave behind: rows whose end is unknown and which nobody owes a reversal for.
FORGOTTEN = """SELECT count(*) FROM transaction t WHERE t.exchange = 'request' AND t.outcome IS NULL AND NOT EXISTS (
  SELECT FROM duty d WHERE d.transaction_id = t.transaction_id AND d.kind = 'reversal')"""
# Not yet at rest. A reversal whose original the host does not know is told so twice, a minute apart: the first time is rest enough.
MOVING = """SELECT count(*) FROM transaction t LEFT JOIN duty d USING (transaction_id)
WHERE t.state = 'SENT' OR d.state = 'open' AND d.last_code IS DISTINCT FROM '25'"""
SNAPSHOT = """SELECT t.transaction_id, t.original_id, t.state, t.version, t.outcome, t.captured, t.approved_amount, d.kind, d.state, d.closed_by
FROM transaction t LEFT JOIN duty d USING (transaction_id) ORDER BY 1"""


@dataclass(slots=True)
class Effect:
    """What stands at a host under one RRN, and what came under it."""

    net: int = 0
    held: int = 0
    approvals: list[str] = field(default_factory=list)
    received: list[dict[str, str]] = field(default_factory=list)  # fields as the book holds them; "0" is the MTI


@dataclass(slots=True)
class Found:
    """What a comparison came to. `differences` name the key or RRN and the field."""

    differences: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def book(path: Path) -> dict[str, Effect]:
    """By RRN. A torn last line was never acted on."""
    effects: defaultdict[str, Effect] = defaultdict(Effect)
    for _, line in lines_of(path):
        if line["kind"] == "received" and "37" in line.get("fields", {}) and line["mti"][1] != "8":
            effects[line["fields"]["37"]].received.append({"0": line["mti"], **line["fields"]})
        elif line["kind"] == "decision" and line["rrn"] and line["reason"] != "duplicate":
            effect = effects[line["rrn"]]
            effect.net += line["net"]
            effect.held += line["held"]
            if line["approval"] and line["mti"] in ("0110", "0210"):
                effect.approvals.append(line["approval"].strip())
    return dict(effects)


def at_rest(url: str) -> bool:
    return bool(sql(url, MOVING)[0][0] == 0)


def snapshot(url: str) -> dict[Any, tuple[Any, ...]]:
    """What a second recovery may not change, by transaction."""
    return {row[0]: tuple(row)[1:] for row in sql(url, SNAPSHOT)}


def moved(before: dict[Any, tuple[Any, ...]], after: dict[Any, tuple[Any, ...]]) -> list[str]:
    """What changed meanwhile, but for a reversal that its second "not found" has closed, and the original that it is booked on."""
    changed = {each: row for each, row in after.items() if row != before.get(each)}
    late = {row[0] for row in changed.values() if row[-1] == "not_found"}
    return [f"txn_{each} went on from {before.get(each)} to {row}" for each, row in changed.items() if row[-1] != "not_found" and each not in late]


def compare(url: str, books: dict[str, Path], tills: Iterable[Till]) -> Found:
    """`books`: acquirer -> its book. To be called at rest."""
    found, rows = Found(), sql(url, ROWS)
    hosts = {acquirer: book(path) for acquirer, path in books.items()}
    by_key = {row["idempotency_key"]: row for row in rows if row["idempotency_key"] is not None}
    told: set[str] = set()
    for till in tills:
        for receipt in till.receipts:
            told.add(receipt.key)
            found.counts["sold" if receipt.sold else "not sold"] += 1
            _receipt(found, till, receipt, by_key.get(receipt.key), hosts)
        _answers(found, till)
    for row in rows:
        _row(found, row, hosts[row["acquirer"]].get(row["rrn"], Effect()))
        if row["state"] in STANDS and row["idempotency_key"] is not None and row["idempotency_key"] not in told:
            found.differences.append(f"{row['idempotency_key']} stands and no till knows it")
    _families(found, rows, hosts)
    known = {(row["acquirer"], row["rrn"]) for row in rows}
    found.differences += [f"{acquirer} received {rrn}, which was never written down"
                          for acquirer, effects in hosts.items() for rrn in effects if (acquirer, rrn) not in known]
    if forgotten := sql(url, FORGOTTEN)[0][0]:
        found.differences.append(f"{forgotten} rows without an outcome owe no reversal")
    return found


def _receipt(found: Found, till: Till, receipt: Receipt, row: asyncpg.Record | None, hosts: dict[str, dict[str, Effect]]) -> None:
    """A till's word against the other two books."""
    if row is None:
        if receipt.sold:
            found.differences.append(f"{receipt.key} was sold and is not written down")
        return
    effect = hosts[row["acquirer"]].get(row["rrn"], Effect())
    if not receipt.sold:
        if row["state"] in STANDS:
            found.differences.append(f"{receipt.key} was told as {receipt.status} and stands as {row['state']}")
        return
    if row["original_id"] is not None:  # a follow-up: the till knows what it asked for, the row and the host's book are compared below
        if row["state"] not in STANDS or receipt.id != f"txn_{row['transaction_id']}" or receipt.amount not in (0, row["approved_amount"]):
            found.differences.append(f"{receipt.key} was told as {receipt.status} with {receipt.amount}, and is {row['state']} with {row['approved_amount']}")
        return
    originals = [fields for fields in effect.received if fields["0"] in ("0100", "0200")]
    pairs: dict[str, tuple[object, object]] = {
        "state": (row["state"], "APPROVED"),
        "id": (receipt.id, f"txn_{row['transaction_id']}"),
        "amount": (receipt.amount, row["approved_amount"]),
        "amount at the host": (receipt.amount, effect.net + effect.held),
        "currency": (receipt.currency, row["currency"]),
        "approval code": (receipt.approval_code, row["approval_code"]),
        "approval code at the host": ([receipt.approval_code], sorted(set(effect.approvals))),
        "card": (till.card["pan"][-4:], row["card_last4"]),
    }
    for fields in originals:
        pairs |= {"DE2 at the host": (fields["2"][-4:], row["card_last4"]), "DE4 at the host": (int(fields["4"]), row["amount"]),
                  "DE49 at the host": (fields["49"], CURRENCY[row["currency"]])}
    found.differences += [f"{receipt.key}: {name} is {one!r} and {other!r}" for name, (one, other) in pairs.items() if one != other]
    if not originals:
        found.differences.append(f"{receipt.key} was sold and its host never received it")


def _answers(found: Found, till: Till) -> None:
    """A 201 is final: every one for a key says the same."""
    for key, answers in till.answers.items():
        finals = {repr(sorted(answer.items())) for outcome, answer in answers if outcome.startswith("201")}
        if len(finals) > 1:
            found.differences.append(f"{key} got {len(finals)} different final answers")


def _families(found: Found, rows: list[asyncpg.Record], hosts: dict[str, dict[str, Effect]]) -> None:
    """A payment with all that followed it: its amounts are the sums of what stands, nothing stays reserved, and a void leaves nothing."""
    followers: defaultdict[Any, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        if row["original_id"] is not None:
            followers[row["original_id"]].append(row)
            found.counts[f"{row['type']} {row['state']}"] += 1
    for row in rows:
        family = followers[row["transaction_id"]]
        if row["original_id"] is not None or row["state"] not in STANDS or any(each["state"] in OPEN for each in family):
            continue
        name = f"{row['acquirer']} {row['rrn']}"
        standing = Counter({kind: sum(each["approved_amount"] for each in family if each["type"] == kind and each["state"] in STANDS)
                            for kind in ("capture", "tip", "refund", "increment")})
        if row["capture_reserved"] or row["refund_reserved"] or row["void_reserved"]:
            found.differences.append(f"{name}: something is reserved and nothing open")
        if row["refunded"] != standing["refund"]:
            found.differences.append(f"{name}: refunded is {row['refunded']}, its refunds are {standing['refund']}")
        if row["voided"]:
            left = sum(effect.net + effect.held for each in (row, *family) if (effect := hosts[each["acquirer"]].get(each["rrn"])) is not None)
            if left:
                found.differences.append(f"{name} is voided, and {left} stand at the host")
        elif row["captured"] != standing["capture"] + standing["tip"] + (row["approved_amount"] if row["acquirer"] == "single" else 0):
            found.differences.append(f"{name}: captured is {row['captured']}, its captures are {dict(standing)}")


def _row(found: Found, row: asyncpg.Record, effect: Effect) -> None:
    """A row against its host's book: the net effect, the numbers, and the order on the wire."""
    name, state = f"{row['acquirer']} {row['rrn']}", row["state"]
    found.counts[state] += 1
    if state == "PARKED":
        found.parked.append(name)
    else:
        due = (-row["approved_amount"] if row["type"] == "refund" else row["approved_amount"]) if state in STANDS else 0
        if (row["type"] != "void" or state not in STANDS) and (effect.net + effect.held) != due:
            found.differences.append(f"{name} is {state} with {due} here and {effect.net + effect.held} at the host")
    if state in ("REVERSING", "REVERSED") and row["duty"] != "reversal":
        found.differences.append(f"{name} is {state} without a reversal")
    mtis = [fields["0"] for fields in effect.received]
    reversals = [at for at, mti in enumerate(mtis) if mti in ("0400", "0401", "0420", "0421")]
    if reversals and any(mti in ("0100", "0200") for mti in mtis[reversals[0]:]):
        found.counts["original after its reversal"] += 1
    for fields in effect.received:
        if fields["0"] == row["mti"] and (fields["11"], fields["7"], fields["41"].strip()) != (
                row["stan"], row["transmitted_at"], row["card_acceptor_terminal"].strip()):
            found.differences.append(f"{name}: STAN, DE7 or DE41 at the host are not the row's")
        if fields["0"] in ("0400", "0401", "0420", "0421") and fields.get("90", "")[:20] != row["mti"] + row["stan"] + row["transmitted_at"]:
            found.differences.append(f"{name}: DE90 does not name its original")
