"""What the bank answers: read whole, applied in one commit, or refused whole with nothing written; the same file again changes nothing.

An entry of a statement that is no answer to a payout goes the way of every other entry: to the acquirer whose money it is, or to a person, as an
exception whose resolution posts it (`incoming`, `exceptions`).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem, file_refused
from switch.ids import show
from switch.security.vault import Vault
from switch.settlement import ledger
from switch.settlement.payouts import bank_accounts, bank_csv, camt053, life
from switch.settlement.payouts.answered import Answer, Said
from switch.settlement.payouts.bank_accounts import Ours, new_id
from switch.settlement.payouts.life import CONFIRM, EVENT_OF, REQUESTED, RETURNED, SEND, Payout, step
from switch.settlement.payouts.runs import told
from switch.settlement.reconciliation import incoming
from switch.settlement.reconciliation.clearing import Refused, safe
from switch.settlement.reconciliation.unpacking import Unpacker

CSV_BYTES_MAX = 32 << 20
NUMBER_MAX = 9999
TURN = 200  # entries that are judged before others have their turn
ANSWER_LOCK = 3583038

SHOWN = """file_id, bank_account_id, format, statement, name, encode(sha256, 'hex') AS sha256, size, entries, applied, unexplained, received_by,
received_at"""
KNOWN = f"SELECT {SHOWN} FROM bank_answer WHERE sha256 = $1"
NAMED = """SELECT p.merchant_id, p.payout_id, p.currency, p.amount, p.state, p.end_to_end_id, p.bank_account_id, f.bank_account_id AS payer
FROM payout p LEFT JOIN payout_file f USING (file_id) WHERE p.end_to_end_id = ANY($1::text[]) ORDER BY p.payout_id FOR NO KEY UPDATE OF p"""
FACTS = """SELECT e.payout_id, e.fact, a.format, e.bank_reference FROM bank_answer_entry e JOIN bank_answer a USING (file_id)
WHERE e.payout_id = ANY($1::uuid[])"""
ADD = f"""INSERT INTO bank_answer (file_id, bank_account_id, format, statement, name, sha256, size, entries, applied, unexplained, received_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {SHOWN}"""
ADD_ENTRIES = """INSERT INTO bank_answer_entry (file_id, entry_no, merchant_id, payout_id, fact, amount, currency, booked_on, bank_reference, reason)
SELECT $1, * FROM unnest($2::int[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::text[], $8::date[], $9::text[], $10::text[])"""
SENT = "UPDATE payout SET state = $2, sent_at = now() WHERE payout_id = ANY($1::uuid[]) AND state = 'requested'"
MOVE = """UPDATE payout p SET state = n.state, reason = CASE n.reason WHEN '' THEN p.reason ELSE n.reason END,
  confirmed_at = CASE WHEN n.paid THEN coalesce(p.confirmed_at, now()) ELSE p.confirmed_at END,
  returned_at = CASE n.state WHEN 'returned' THEN coalesce(p.returned_at, now()) END
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[]) AS n(payout_id, state, reason, paid) WHERE p.payout_id = n.payout_id"""
STATEMENT = """INSERT INTO clearing_file (file_id, document, format, institution, business_date, number, name, sha256, size, lines, total, fees,
dates, received_by) VALUES ($1, 'statement', 'camt053', $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11)"""
ENTRY_COLUMNS = ("file_id", "line_no", "booked_on", "business_date", "amount", "currency", "bank_reference", "text")
PAGE = f"SELECT {SHOWN} FROM bank_answer WHERE ($1::uuid IS NULL OR file_id < $1) ORDER BY file_id DESC LIMIT $2"


class Read(NamedTuple):
    answer: Answer
    sha256: bytes
    size: int


@dataclass(slots=True)
class Known:
    """A payout that an answer names, and what banks have said of it: (fact, format, bank reference)."""

    payout: Payout
    state: str
    bank_account_id: UUID
    payer: UUID | None  # of our accounts, the one that its file is paid from
    facts: set[tuple[str, str, str]] = field(default_factory=set)
    reason: str = ""


def unexplained(said: Said, known: Known | None, accounts: Sequence[UUID], format_: str) -> str:
    """Why an entry is no answer to a payout; empty when it is one."""
    if known is None or said.fact is None:
        return "no payout has this end-to-end id"
    if known.payer not in accounts:
        return "this payout was never ordered from this account"
    if (said.currency, said.amount) != (known.payout.currency, known.payout.amount):
        return "the amount is not the payout's"
    others = {reference for fact, form, reference in known.facts if (fact, form) == (said.fact, format_)}
    if format_ == "camt053" and others - {said.bank_reference}:
        return f"the payout was {said.fact} under another bank reference already"
    return ""


def apply(said: Said, known: Known, format_: str) -> list[ledger.Transfer]:
    """Takes one fact into what is known; what it posts."""
    assert said.fact is not None
    event = EVENT_OF[said.fact]
    if known.state == REQUESTED:  # what the bank answers was sent, whoever died before saying so
        known.state = step(known.state, SEND)
    known.state = step(known.state, event)
    known.facts.add((said.fact, format_, said.bank_reference))
    known.reason = said.reason if event != CONFIRM and said.reason else known.reason
    return life.transfers(known.payout, event, said.booked_on, said.reason)


class BankAnswers:
    """Raises Problem: file_refused (line and reason), conflict, overloaded, not_ready."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self.pool, self.vault = pool, vault
        self._place = asyncio.Semaphore(1)

    async def take(self, name: str, chunks: AsyncIterable[bytes], by: str) -> tuple[asyncpg.Record, bool]:
        """The answer's row, and whether it is new."""
        if self._place.locked():
            raise Problem("overloaded", "Another answer is being read; send this one again in a minute.", retry_after=60)
        async with self._place:
            try:
                found = await read(chunks)
                async with self.pool.acquire() as connection, connection.transaction():
                    return await self._take(connection, found, name, by)
            except Refused as refused:
                raise file_refused(refused.line, refused.reason) from None
            except asyncpg.UniqueViolationError:
                raise Problem("conflict", "Another content under this statement's id and number is there already; ask the bank.") from None
            except UNKNOWN:
                raise Problem("not_ready", "It is not known whether the file was taken; send it again, twice is once.", retry_after=2) from None

    async def _take(self, connection: Connection, found: Read, name: str, by: str) -> tuple[asyncpg.Record, bool]:
        answer = found.answer
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ANSWER_LOCK)
        if (there := await connection.fetchrow(KNOWN, found.sha256)) is not None:
            return there, False
        accounts = _of(answer, await bank_accounts.ours(connection, self.vault))
        known = await _known(connection, answer)
        file_id, before = new_id(), {each.payout.payout_id: each.state for each in known.values()}
        applied: list[tuple[int, Said, Known]] = []
        rest: list[tuple[int, Said, str]] = []
        transfers = []
        for number, said in enumerate(answer.said, 1):
            about = known.get(said.end_to_end_id)
            if number % TURN == 0:
                await asyncio.sleep(0)  # payments go first
            if why := unexplained(said, about, accounts, answer.format):
                if not answer.books:  # a report about a payment that we do not know is a mistake, not money
                    raise Refused(said.line, why)
                rest.append((number, said, why))
                continue
            assert about is not None
            transfers += apply(said, about, answer.format)
            applied.append((number, said, about))
        row = await connection.fetchrow(ADD, file_id, accounts[-1], answer.format, answer.statement, name, found.sha256, found.size, len(answer.said),
                                        len(applied), len(rest), by)
        await self._write(connection, file_id, applied, before)
        await ledger.post(connection, list({each.posting_key: each for each in transfers}.values()))
        if rest:
            await _others(connection, file_id, found, accounts[-1], rest, name, by)
        assert row is not None
        return row, True

    async def _write(self, connection: Connection, file_id: UUID, applied: list[tuple[int, Said, Known]], before: dict[UUID, str]) -> None:
        """What was said of payouts, and how they stand now."""
        if not applied:
            return
        await connection.execute(ADD_ENTRIES, file_id, *map(list, zip(*(
            (number, known.payout.merchant_id, known.payout.payout_id, said.fact, said.amount, said.currency, said.booked_on, said.bank_reference,
             safe(said.reason)) for number, said, known in applied), strict=True)))
        moved = {known.payout.payout_id: known for _, _, known in applied}
        await connection.execute(SENT, list(moved), step(REQUESTED, SEND))
        facts = {identity: frozenset(fact for fact, _, _ in known.facts) for identity, known in moved.items()}
        await connection.execute(MOVE, list(moved), [known.state for known in moved.values()], [safe(known.reason) for known in moved.values()],
                                 [bool(facts[identity] & {"confirmed", "returned"}) for identity in moved])
        for identity, known in moved.items():
            if known.state != before[identity]:
                await told(connection, known.payout, known.state, safe(known.reason))
                if known.state == RETURNED:
                    await connection.execute(bank_accounts.SUSPEND, known.bank_account_id)
                    await _alert(connection, "payout_returned", identity)
            if life.contradicts(facts[identity]):
                await _alert(connection, "payout_contradicted", identity)


async def read(chunks: AsyncIterable[bytes]) -> Read:
    """Raises Refused."""
    unpacker, digest = Unpacker(), hashlib.sha256()
    reader: camt053.Reader | None = None
    begun = bytearray()
    size = 0

    def take(piece: bytes) -> None:
        nonlocal reader, size
        size += len(piece)
        digest.update(piece)
        if reader is None:
            begun.extend(piece)
            if begun[:1] != b"<":
                if size > CSV_BYTES_MAX:
                    raise Refused(0, "the file is too long")
                return
            reader, piece = camt053.Reader(), bytes(begun)
        reader.feed(piece)

    async for chunk in chunks:
        for piece in unpacker.feed(chunk):
            take(piece)
            await asyncio.sleep(0)  # payments go first
    for piece in unpacker.end():
        take(piece)
    if reader is None and begun and not begun.startswith(bank_csv.STARTS):
        raise Refused(1, "neither a camt.053 statement nor an answer that begins with H,ANSWER,1")
    answer = await asyncio.to_thread(bank_csv.read, bytes(begun)) if reader is None else await asyncio.to_thread(reader.end)
    return Read(answer, digest.digest(), size)


def _of(answer: Answer, ours: list[Ours]) -> list[UUID]:
    """Which of our accounts it is about, the newest last: one number may have been agreed several times."""
    found = sorted(each.bank_account_id for each in ours if (each.account.number, each.currency) == (answer.account, answer.currency))
    if not found:
        raise Refused(1, "the account in it is none of ours in this currency")
    return found


async def _known(connection: Connection, answer: Answer) -> dict[str, Known]:
    """The payouts that an answer names, locked in the order of their ids."""
    named = sorted({said.end_to_end_id for said in answer.said if said.end_to_end_id})
    known = {row["end_to_end_id"]: Known(Payout(row["merchant_id"], row["payout_id"], row["currency"], row["amount"]), row["state"],
                                         row["bank_account_id"], row["payer"]) for row in await connection.fetch(NAMED, named)}
    by_id = {each.payout.payout_id: each for each in known.values()}
    for row in await connection.fetch(FACTS, list(by_id)):
        by_id[row["payout_id"]].facts.add((row["fact"], row["format"], row["bank_reference"]))
    return known


async def _others(connection: Connection, file_id: UUID, found: Read, account: UUID, rest: list[tuple[int, Said, str]], name: str, by: str) -> None:
    """The rest of a statement: money of acquirers, and what nobody can explain."""
    answer = found.answer
    signed = {number: said.amount if said.credit else -said.amount for number, said, _ in rest}
    await connection.execute(STATEMENT, file_id, show("bank_account", account), answer.day, (answer.number - 1) % NUMBER_MAX + 1, name, found.sha256,
                             found.size, len(rest), sum(signed.values()), sorted({said.booked_on for _, said, _ in rest}), by)
    await connection.copy_records_to_table("statement_entry", columns=ENTRY_COLUMNS, records=[
        (file_id, number, said.booked_on, said.booked_on, signed[number], said.currency, safe(said.bank_reference),
         safe(f"{said.reason} {said.end_to_end_id} ({why})".strip() if said.end_to_end_id else said.reason)[:400]) for number, said, why in rest])
    lines = {number: said.line for number, said, _ in rest}
    try:
        await incoming.take(connection, file_id)
    except Refused as refused:
        raise Refused(lines.get(refused.line - 1, 0), refused.reason) from None


async def _alert(connection: Connection, kind: str, payout_id: UUID) -> None:
    await connection.execute(alerts.RAISE, new_id(), kind, show("payout", payout_id))
    alerts.announce(kind, show("payout", payout_id))


async def page(pool: Pool, before: UUID | None, limit: int) -> list[asyncpg.Record]:
    """Answers that were taken, newest first."""
    try:
        return await pool.fetch(PAGE, before, limit)
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None


