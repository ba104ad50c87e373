"""Disputes of one sale in the books, drawn by Hypothesis: every step is one that the model allows, and amounts, ledger and deadlines agree after each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from asyncpg import exceptions as refusals
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from settled import Till, open_till

from switch import database
from switch.errors import Problem
from switch.ids import show
from switch.settlement.disputes.cases import Cases, Step
from switch.settlement.disputes.life import CHARGED, CLOSED, EVENTS, LIFE, NOTICES, TO_ANSWER
from switch.settlement.disputes.notices import Notice
from tests.deadlines import look

T = TypeVar("T")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
CAPTURED, FEE, COST = 1000, 7, 3
DAYS = {"retrieval": 10, "chargeback": 20, "pre_arbitration": 10}


@pytest_asyncio.fixture
async def till(database_url: str) -> AsyncIterator[Till]:
    opened = await open_till(database_url)
    yield opened
    await opened.owner.close()


class Disputed(RuleBasedStateMachine):
    """The model: each dispute's state, amount and end of time; what was refunded; what was charged for it."""

    till: Till
    pool: Any
    loop: asyncio.AbstractEventLoop
    seen: Counter[str]

    def wait(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(15)

    async def _commit(self, work: Any) -> Any:
        async with self.pool.acquire() as connection, connection.transaction():
            return await work(connection)

    @initialize(begins=st.lists(st.sampled_from(sorted(NOTICES)), min_size=1, max_size=3))
    def sale(self, begins: list[str]) -> None:
        Disputed.count = getattr(Disputed, "count", 0)
        self.cases, self.now, self.told = Cases(self._tell), NOON, []
        self.row = self.wait(self.till.made(amount=CAPTURED))
        self.disputes: dict[Any, dict[str, Any]] = {}
        self.refunded = self.fees = 0
        for kind in begins:
            self.notice(kind, 150)

    async def _tell(self, connection: Any, merchant_id: Any, type_: str, object_id: str, data: Any) -> None:
        self.told.append((type_, object_id))

    @property
    def left(self) -> int:
        return CAPTURED - self.refunded - sum(each["amount"] for each in self.disputes.values() if each["state"] in CHARGED)

    def _is_now(self, dispute: dict[str, Any], state: str) -> None:
        dispute["state"] = state
        dispute["by"] = None
        if state in TO_ANSWER:
            self.fees += 1
            self._sets_time(dispute)

    def _sets_time(self, dispute: dict[str, Any]) -> None:
        dispute["by"] = (self.now + timedelta(days=DAYS[dispute["state"]] + 1)).replace(hour=0)
        dispute["warned"] = False

    @rule(kind=st.sampled_from(sorted(NOTICES)), amount=st.integers(1, 700))
    def another(self, kind: str, amount: int) -> None:
        self.notice(kind, amount)

    def notice(self, kind: str, amount: int) -> None:
        Disputed.count += 1
        reference = f"R{Disputed.count}"
        notice = Notice(kind, reference, self.row.transaction_id, None, amount, "CNY", "4853", self.now.date())
        try:
            row, new = self.wait(self._commit(lambda c: self.cases.notice(c, self.till.acquirer, notice, "person:x", self.now)))
        except Problem as problem:
            assert problem.code == "amount_exceeds_disputable" and amount > self.left, (problem.code, self.left)
            self.seen["too much"] += 1
            return
        assert new and amount <= self.left
        self.disputes[row["dispute_id"]] = {"amount": amount, "reference": reference}
        self._is_now(self.disputes[row["dispute_id"]], kind)
        again, new = self.wait(self._commit(lambda c: self.cases.notice(c, self.till.acquirer, notice, "person:x", self.now)))
        assert not new and again == row
        self.seen[kind] += 1

    @rule(which=st.integers(0, 99), event=st.sampled_from(sorted(EVENTS)), amount=st.integers(1, 700))
    def any_step(self, which: int, event: str, amount: int) -> None:
        if self.disputes and event != "retrieve":
            self.step(sorted(self.disputes)[which % len(self.disputes)], event, amount)

    @rule(which=st.integers(0, 99), choice=st.integers(0, 99), amount=st.integers(1, 700))
    def next_step(self, which: int, choice: int, amount: int) -> None:
        able = [(each, event) for each, dispute in sorted(self.disputes.items()) for state, event in sorted(LIFE, key=str) if state == dispute["state"]]
        if able:
            self.step(*able[(which * 7 + choice) % len(able)], amount)

    @rule(choice=st.integers(0, 99), amount=st.integers(1, 700))
    def then(self, choice: int, amount: int) -> None:
        self.next_step(0, choice, amount)

    def step(self, dispute_id: Any, event: str, amount: int) -> None:
        dispute = self.disputes[dispute_id]
        wanted = Step(event, "mer_x", "told so", day=self.now.date(), amount=amount if event == "charge_back" else None)
        follows, was = LIFE.get((dispute["state"], event)), dispute["state"]
        try:
            self.wait(self._commit(lambda c: self.cases.move(c, dispute_id, wanted, self.now)))
        except Problem as problem:
            if follows is not None:
                assert problem.code == "dispute_overdue" and dispute["by"] <= self.now
            self.seen[f"refused {problem.code}"] += 1
            return
        except refusals.CheckViolationError as error:
            assert error.constraint_name == "undone_within_captured" and amount > self.left and event == "charge_back"
            self.seen["too much later"] += 1
            return
        assert follows is not None, (was, event)
        if event == "charge_back":
            assert amount <= self.left
            dispute["amount"] = amount
        self._is_now(dispute, follows)
        self.seen[f"{was} {event}"] += 1

    @rule(amount=st.integers(1, 400))
    def refund(self, amount: int) -> None:
        try:
            self.wait(self.till.follow(self.row, "refund", amount))
        except refusals.CheckViolationError as error:
            assert error.constraint_name == "undone_within_captured" and amount > self.left
            self.seen["refund refused"] += 1
            return
        assert amount <= self.left
        self.refunded += amount
        self.seen["refund"] += 1

    @rule(days=st.sampled_from([1, 2, 5, 12]))
    def time_passes(self, days: int) -> None:
        self.now += timedelta(days=days)
        lost = [each for each in self.disputes.values() if each["by"] is not None and each["by"] <= self.now]
        found = self.wait(look(self.pool, self.cases, self.now))
        assert found[0] == len(lost)
        for dispute in lost:
            self._is_now(dispute, LIFE[dispute["state"], "expire"])
            self.seen["expired"] += 1
        assert self.wait(look(self.pool, self.cases, self.now)) == (0, 0), "each once"

    @invariant()
    def the_books_are_the_models(self) -> None:
        if not hasattr(self, "row"):
            return
        charged = sum(each["amount"] for each in self.disputes.values() if each["state"] in CHARGED)
        (sale,) = self.wait(self.till.fetch("SELECT captured, refunded, charged_back FROM transaction WHERE transaction_id = $1", self.row.transaction_id))
        assert sale == {"captured": CAPTURED, "refunded": self.refunded, "charged_back": charged}
        rows = {row["dispute_id"]: row for row in self.wait(self.till.fetch("SELECT * FROM dispute WHERE transaction_id = $1", self.row.transaction_id))}
        assert {each: (row["state"], row["amount"], row["answer_by"], row["closed_at"] is not None) for each, row in rows.items()} == {
            each: (dispute["state"], dispute["amount"], dispute["by"], dispute["state"] in CLOSED) for each, dispute in self.disputes.items()}
        objects = [show("dispute", each) for each in rows]
        moved = {row["kind"]: row["amount"] for row in self.wait(self.till.fetch(
            """SELECT a.kind, sum(e.amount)::bigint AS amount FROM ledger_entry e JOIN account a USING (account_id) WHERE e.object = ANY($1) GROUP BY a.kind""", objects))}
        expected = {"merchant": -charged - FEE * self.fees, "dispute": 0, "acquirer": charged + COST * self.fees, "fee": FEE * self.fees, "cost": -COST * self.fees}
        assert {kind: moved.get(kind, 0) for kind in expected} == expected and sum(moved.values()) == 0
        assert len(set(self.told)) == len(self.told), "a type and an object are told once"

    def teardown(self) -> None:
        """The next sale's deadlines are looked at alone."""
        if hasattr(self, "row"):
            self.wait(look(self.pool, self.cases, self.now + timedelta(days=99)))


def drawn(till: Till, pool: Any, loop: asyncio.AbstractEventLoop) -> Counter[str]:
    kept: dict[str, Any] = {"till": till, "pool": pool, "loop": loop, "seen": Counter()}
    run_state_machine_as_test(type("Drawn", (Disputed,), kept), settings=settings(
        max_examples=220, stateful_step_count=18, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)))
    return kept["seen"]


@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
async def test_disputes_move_as_the_model_says_and_the_books_agree(till: Till, database_url: str) -> None:
    for kind in DAYS:
        await till.owner.execute("INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost) VALUES ($1, $2, 'CNY', $3, $4)", till.acquirer, kind, FEE, COST)
    pool = await database.pool(database_url, "switch_writer", 3)
    try:
        seen = await asyncio.to_thread(drawn, till, pool, asyncio.get_running_loop())
    finally:
        await pool.close()
    assert [each for each in ("retrieval", "chargeback", "too much", "too much later", "refund", "refund refused", "expired", "chargeback represent", "represented win",
                              "represented lose", "chargeback accept", "retrieval charge_back", "lost win", "refused dispute_closed", "refused dispute_move",
                              "refused dispute_waits") if not seen[each]] == [], seen
