"""kill -9 while payouts are asked for, put into a file and written: no payout in two files, none paid twice, and who comes next ends it."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import asyncpg
import pytest
import pytest_asyncio
from settled import open_till

from switch import database
from switch.custody import open_vault
from switch.ids import show
from switch.settings import load
from switch.settlement import ledger
from switch.settlement.ledger import Account, Transfer
from switch.settlement.payouts import bank_accounts
from switch.settlement.payouts.bank_accounts import BankAccounts
from switch.settlement.payouts.banking import BankAccount
from switch.settlement.payouts.pain001 import NAMESPACE
from tests.bank import DAY, OUR_IBAN, THEIR_IBAN, Booked, every_day, statement
from tests.conftest import create_database
from tests.processes import ROOT, environment

MERCHANTS = 4


@dataclass
class Office:
    url: str
    home: Path
    owner: asyncpg.Connection

    def start(self, *words: str, order: str = "") -> subprocess.CompletedProcess[str]:
        more = {"SWITCH_TESTING": "1", "SWITCH_FAILPOINT": order} if order else {}
        return subprocess.run([sys.executable, "-m", "switch", "payouts", *words], env=environment(self.home, SWITCH_DATABASE_URL=self.url, **more),
                              cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    def run(self, order: str = "") -> subprocess.CompletedProcess[str]:
        return self.start("run", "--person", "Tester", order=order)

    def file(self, name: str, order: str = "") -> subprocess.CompletedProcess[str]:
        return self.start("file", str(self.home / name), "--currency", "EUR", "--person", "Tester", order=order)

    def idents(self, name: str) -> list[str]:
        return [each.text or "" for each in ElementTree.parse(self.home / name).iterfind(f".//{{{NAMESPACE}}}EndToEndId")]

    async def payouts(self) -> list[Any]:
        return list(await self.owner.fetch("SELECT * FROM payout ORDER BY payout_id"))


@pytest_asyncio.fixture
async def office(cluster_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    url = await create_database(cluster_url)
    owner = await asyncpg.connect(url)
    vault = open_vault(load({"SWITCH_HOME": str(tmp_path), "SWITCH_DATABASE_URL": url}))
    pool = await database.pool(url, "switch_writer", 2)
    accounts = BankAccounts(pool, vault)
    tills = [await open_till(url, owner=owner) for _ in range(MERCHANTS)]
    for merchant_id in (None, *(till.merchant for till in tills)):
        number = THEIR_IBAN if merchant_id else OUR_IBAN
        row = await accounts.ask(merchant_id, "EUR", BankAccount("Holder", number, True, None, None, number[:2]), "One")
        async with pool.acquire() as connection, connection.transaction():
            await bank_accounts.agree(connection, "", {"bank_account": show("bank_account", row["bank_account_id"])}, {"decided_by": "Two"})
            if merchant_id:
                await ledger.post(connection, [Transfer(Account("acquirer", "EUR", None, tills[0].acquirer), Account("merchant", "EUR", merchant_id), 1000, "sales",
                                                        "set_test", DAY, f"test:{merchant_id}")])
    await pool.close()
    await every_day(url)
    yield Office(url, tmp_path, owner)
    await owner.close()


@pytest.mark.parametrize("occurrence", [1, 3])
async def test_killed_before_a_request_commits_nothing_is_paid_twice(office: Office, occurrence: int) -> None:
    assert office.run(f"payout.requested:{occurrence}:kill").returncode == -signal.SIGKILL
    assert len(await office.payouts()) == occurrence - 1
    assert office.run().returncode == 0 and office.run().returncode == 0
    found = await office.payouts()
    assert len(found) == MERCHANTS and {row["amount"] for row in found} == {1000} and len({row["merchant_id"] for row in found}) == MERCHANTS


async def test_killed_before_a_file_commits_there_is_none(office: Office) -> None:
    assert office.run().returncode == 0
    assert office.file("a.xml", "payout.file:1:kill").returncode == -signal.SIGKILL
    assert not (office.home / "a.xml").exists() and {row["file_id"] for row in await office.payouts()} == {None}
    assert office.file("a.xml").returncode == 0 and len(office.idents("a.xml")) == MERCHANTS


async def test_killed_between_written_and_sent_the_same_file_comes_again_and_no_payout_is_in_two(office: Office) -> None:
    assert office.run().returncode == 0
    assert office.file("a.xml", "payout.written:1:kill").returncode == -signal.SIGKILL
    assert {row["state"] for row in await office.payouts()} == {"requested"}
    await office.owner.execute("UPDATE payout SET requested_by = requested_by")  # what comes later is another file
    again = office.file("b.xml")
    assert again.returncode == 0 and json.loads(again.stdout)["new"] is False
    assert (office.home / "a.xml").read_bytes() == (office.home / "b.xml").read_bytes()
    assert {row["state"] for row in await office.payouts()} == {"sent"}
    assert office.file("c.xml").returncode == 2 and not (office.home / "c.xml").exists()
    counted = Counter(office.idents("a.xml"))
    assert set(counted.values()) == {1} and counted.keys() == {row["end_to_end_id"] for row in await office.payouts()}


async def test_what_the_bank_paid_although_nobody_said_that_it_was_sent(office: Office) -> None:
    assert office.run().returncode == 0
    assert office.file("a.xml", "payout.written:1:kill").returncode == -signal.SIGKILL
    (office.home / "s.xml").write_bytes(statement([Booked(f"R{number}", 1000, ident) for number, ident in enumerate(office.idents("a.xml"))]))
    answer = office.start("answer", str(office.home / "s.xml"), "--person", "Tester")
    assert answer.returncode == 0 and json.loads(answer.stdout)["applied"] == MERCHANTS, answer.stderr
    assert {row["state"] for row in await office.payouts()} == {"confirmed"}
    assert office.file("b.xml").returncode == 0 and {row["state"] for row in await office.payouts()} == {"confirmed"}
    listed = office.start("list")
    assert listed.returncode == 0 and listed.stdout.count("confirmed") == MERCHANTS and THEIR_IBAN not in listed.stdout


async def test_the_database_keeps_a_payout_in_its_file_and_on_its_way(office: Office) -> None:
    assert office.run().returncode == 0 and office.file("a.xml").returncode == 0
    for change in ("file_id = gen_random_uuid()", "file_id = NULL", "bank_account_id = gen_random_uuid()", "state = 'requested', sent_at = NULL, file_id = file_id"):
        with pytest.raises(asyncpg.CheckViolationError):
            await office.owner.execute(f"UPDATE payout SET {change}")
    assert (office.home / "a.xml").stat().st_mode & 0o077 == 0


def test_another_persons_mistake_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "switch", "payouts", "run"], env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--person" in done.stderr
