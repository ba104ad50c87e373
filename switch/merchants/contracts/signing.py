"""Contracting: draw up, revise, offer, sign on both sides, refuse, withdraw, give notice. Each step is one commit."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.files.drawing import Sheet, size_of
from switch.files.png import NoPng
from switch.merchants.contracts import force, standard, terms
from switch.merchants.contracts.cases import checked, country_of, document_of, drawn_up, held_and, moved, new_id, possible, revised, today
from switch.merchants.contracts.life import MERCHANT, SIGNS
from switch.payments.resolution import Person
from switch.security.vault import Vault

SHEET = Sheet(96 << 10, 40, 20, 2000, 1000)

SIGN = """INSERT INTO contract_signature (contract_id, document, side, sha256, signature_id, name, size, image_sha256, key_id, sealed, person,
api_key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""
SIGNED = """SELECT side, name, sha256, image_sha256, person, api_key FROM contract_signature WHERE contract_id = $1 AND document = $2 AND side = $3"""
HASHES = "SELECT number, sha256 FROM contract_document WHERE contract_id = $1"


class Hand(NamedTuple):
    """A signature as it is given: the hash of the document that was read, the name of who signs, and the PNG."""

    sha256: bytes
    name: str
    image: bytes


class Contracts:
    """Raises Problem: not_found, invalid, already_exists, contract_*, signature_refused, conflict, not_ready."""

    def __init__(self, writers: Pool, vault: Vault) -> None:
        self.writers, self.vault = writers, vault

    async def draw_up(self, merchant_id: UUID, document: Mapping[str, Any], by: Person) -> UUID:
        async with work(self.writers) as connection:
            return await drawn_up(connection, merchant_id, document, by)

    async def revise(self, contract_id: UUID, document: Mapping[str, Any], by: Person, reason: str) -> None:
        async with work(self.writers) as connection:
            await revised(connection, contract_id, document, by, reason)

    async def offer(self, contract_id: UUID, version: int, by: Person, reason: str) -> list[str]:
        """Done when it returns nothing; else why two people must offer it, and nothing was done: ask the second one (`offered`)."""
        async with work(self.writers) as connection:
            below = await self._offered(connection, contract_id, version, by, reason, None)
        return below

    async def offered(self, connection: Connection, contract_id: UUID, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        """What two people agreed on, if it is still what they looked at."""
        await self._offered(connection, contract_id, payload["version"], Person(people["requested_by"], ""), people["reason"], people["decided_by"])

    async def _offered(self, connection: Connection, contract_id: UUID, version: int, by: Person, reason: str, agreed_by: str | None) -> list[str]:
        row, merchant = await held_and(connection, contract_id)
        possible(row, "offer")
        if row["version"] != version:
            raise Problem("contract_changed")
        document = await document_of(connection, row)
        await checked(connection, merchant, document, today(merchant))
        below = await asyncio.to_thread(standard.below, terms.read(document), await country_of(connection, row["merchant_id"]), merchant["mcc"])
        if below and agreed_by is None:
            return below
        await moved(connection, row, "offer", by, reason, {"below_standard": below} | ({"agreed_by": agreed_by} if agreed_by else {}))
        return []

    async def sign(self, contract_id: UUID, side: str, hand: Hand, by: Person) -> None:
        """Of the newest document, by its hash. The same signature again changes nothing."""
        try:
            await asyncio.to_thread(size_of, hand.image, SHEET)
        except NoPng as error:
            raise Problem("signature_refused", str(error)) from None
        async with work(self.writers) as connection:
            row, merchant = await held_and(connection, contract_id)
            image = hashlib.sha256(hand.image).digest()
            stands = await connection.fetchrow(SIGNED, contract_id, row["document"], side)
            if stands is not None and tuple(stands) == (side, hand.name, hand.sha256, image, by.name, by.key_id):
                return
            possible(row, SIGNS[side])
            await _right(connection, row, hand.sha256)
            identity = new_id()
            key_id, sealed = self.vault.seal_row("contract_signature", hand.image, identity.bytes)
            await connection.execute(SIGN, contract_id, row["document"], side, hand.sha256, identity, hand.name, len(hand.image), image, key_id,
                                     sealed, by.name, by.key_id)
            detail = {"document": row["document"], "sha256": hand.sha256.hex(), "name": hand.name, "image_sha256": image.hex()}
            if side == MERCHANT:
                await moved(connection, row, "sign", by, "", detail)
            else:
                await force.came(connection, row, merchant, by, detail)

    async def refuse(self, contract_id: UUID, by: Person, reason: str) -> None:
        async with work(self.writers) as connection:
            await moved(connection, (await held_and(connection, contract_id))[0], "refuse", by, reason)

    async def withdraw(self, contract_id: UUID, by: Person, reason: str) -> None:
        async with work(self.writers) as connection:
            await moved(connection, (await held_and(connection, contract_id))[0], "withdraw", by, reason)

    async def end(self, contract_id: UUID, side: str, last: date | None, by: Person, reason: str) -> None:
        """Notice to a last day, by the merchant not before its notice is over; the provider may end it at once (`last` None).

        A merchant who ends it before its time is charged what was agreed. Raises Problem: contract_terms, contract_move.
        """
        async with work(self.writers) as connection:
            row, merchant = await held_and(connection, contract_id)
            possible(row, "notice" if last is not None else "terminate")
            day, zone = today(merchant), merchant["time_zone"]
            if last is None:
                row = await moved(connection, row, "notice", by, reason, {"last_day": day.isoformat(), "by": side}, until_on=day, ends_at=clock.now(),
                                  ends_as="terminate")
                await force.ended(connection, row, merchant, by, reason)
                return
            agreed = terms.read(await document_of(connection, row)).term
            earliest = terms.notice_over(agreed, day) if side == MERCHANT else day
            if last < earliest or (row["until_on"] is not None and last > row["until_on"]):
                latest = "" if row["until_on"] is None else f", and {row['until_on']} at the latest, its last day now"
                raise Problem("contract_terms", f"Its last day can be {earliest} at the earliest{latest}.")
            fee = await force.charged_early(connection, row, last, day) if side == MERCHANT and row["ends_as"] != "terminate" else 0
            await moved(connection, row, "notice", by, reason, {"last_day": last.isoformat(), "by": side, "fee": fee}, until_on=last,
                        ends_at=force.end_of(last, zone), ends_as="terminate")


async def _right(connection: Connection, row: asyncpg.Record, digest: bytes) -> None:
    """Raises Problem contract_other_document: another version's hash, or none of this contract's."""
    hashes = {each["number"]: each["sha256"] for each in await connection.fetch(HASHES, row["contract_id"])}
    if hmac.compare_digest(hashes[row["document"]], digest):
        return
    other = next((number for number, known in hashes.items() if known == digest), None)
    words = f"This is the hash of document {other}; the newest is {row['document']}."
    words = "This is the hash of no document of this contract." if other is None else words
    raise Problem("contract_other_document", f"{words} Read the newest, and sign its hash.")
