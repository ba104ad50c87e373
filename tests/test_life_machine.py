"""One authorization's life over HTTP, drawn by Hypothesis: every answer must be one that the model allows, and the host's book must agree at the end.

The model knows what a terminal can know: its key, what it was told, and what it asked for. A machine's sale goes through one of four tills at
once with others' machines' leftovers; several calls of one step run concurrently.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.flows import ROUTE, Shop, body_of, eventually, new_key, open_shop
from tests.processes import Answer

# Endings of the amount, as the stub takes them, and what the terminal must hear.
ENDINGS = {0: "approved", 7: "approved", 10: "in part", 51: "declined", 91: "declined", 96: "unsold"}
# How a machine begins, so that none of the ways is left to chance.
BEGINNINGS: list[tuple[str, ...]] = [
    (), ("authorize",), ("cancel", "cancel"), ("authorize", "cancel", "wait_for_the_reversal"), ("cancel_while_it_is_asked_again",), ("cancel", "authorize")]
FOREIGN = {"till": "branch", "branch": "dual", "dual": "till", "neighbour": "dual"}
UNDONE = {"reversing", "reversed"}
ANSWER_S = 15


class Left(NamedTuple):
    """What a machine leaves for the comparison of the books. `net`: what must stand at the host, in minor units."""

    key: str
    till: str
    shown_id: str | None
    status: frozenset[str]
    net: int


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("life_machine")) as opened:
        yield opened


class Life(RuleBasedStateMachine):
    """`state` of the model: free (the key was never used), burnt, approved, declined, undone.

    Who wins a race is not drawn, so no rule may have a precondition: one that does not fit the state does nothing.
    """

    shop: Shop
    loop: asyncio.AbstractEventLoop
    left: list[Left]
    seen: Counter[str]

    @initialize(till=st.sampled_from(sorted(FOREIGN)), hundreds=st.integers(50, 90), begins=st.sampled_from(BEGINNINGS), ending=st.sampled_from([*ENDINGS, 0, 7, 96]), accepts=st.booleans())
    def sale(self, till: str, hundreds: int, begins: tuple[str, ...], ending: int, accepts: bool) -> None:
        self.till, self.amount, self.key, self.state = till, hundreds * 100 + ending, new_key(), "free"
        self.body = body_of(self.amount, partial_approval="accept" if accepts else "refuse")
        outcome = ENDINGS[ending]
        self.outcome = ("approved" if accepts else "unsold") if outcome == "in part" else outcome
        self.approved = (self.amount // 2 if outcome == "in part" else self.amount) if self.outcome == "approved" else 0
        self.first: Answer | None = None
        self.id: str | None = None
        for step in begins:
            getattr(self, step)()

    def together(self, *calls: Awaitable[Answer]) -> list[Answer]:
        async def all_of() -> list[Answer]:
            return await asyncio.gather(*calls)

        return asyncio.run_coroutine_threadsafe(all_of(), self.loop).result(ANSWER_S)

    def pay(self, body: Any = None) -> Awaitable[Answer]:
        return self.shop.post(body or self.body, self.key, self.till)

    def get(self, path: str, key: str | None = None) -> Awaitable[Answer]:
        return self.shop.ask("GET", path, key=key or self.till)

    # What may be heard.

    def heard(self, answer: Answer) -> None:
        """An answer to the sale's POST, when nothing else is under way."""
        self.seen[f"post {self.state}"] += 1
        if self.state == "burnt":
            assert (answer.status, answer.body["code"]) == (409, "cancelled_by_terminal"), answer.raw
            return
        self.id = self.id or answer.body["id"]
        assert answer.body["id"] == self.id and answer.body["amount"] == self.amount
        if self.state == "free":
            self.state = {"approved": "approved", "declined": "declined", "unsold": "undone"}[self.outcome]
        if self.state == "undone":
            assert answer.status == 202 and answer.body["status"] in UNDONE and answer.body["advice"] == "new_payment_allowed", answer.raw
            return
        assert (answer.status, answer.body["status"], answer.body["approved_amount"]) == (201, self.state, self.approved), answer.raw
        assert self.first is None or answer.raw == self.first.raw
        assert (answer.headers.get("idempotent-replayed") == "true") is (self.first is not None)
        self.first = self.first or answer

    def now(self, body: Any) -> None:
        """The transaction as it stands now, wherever it is shown."""
        assert (body["id"], body["amount"]) == (self.id, self.amount)
        if self.state == "undone":
            assert body["status"] in UNDONE and body["approved_amount"] == 0 and body["amounts"]["captured"] == 0, body
        else:
            assert (body["status"], body["approved_amount"]) == (self.state, self.approved), body

    # The steps.

    @rule()
    def authorize(self) -> None:
        (answer,) = self.together(self.pay())
        self.heard(answer)

    @rule(count=st.integers(2, 8))
    def authorize_many_times_at_once(self, count: int) -> None:
        answers = self.together(*(self.pay() for _ in range(count)))
        self.seen["at once"] += 1
        if self.first is None and self.state == "free":
            answers.sort(key=lambda answer: answer.headers.get("idempotent-replayed") == "true")  # the first of them is the one that was walked
            assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        for answer in answers:
            self.heard(answer)

    @rule(changed=st.sampled_from([{"amount": 4321}, {"currency": "USD"}, {"reference": "other"}, {"type": "preauthorization"}]))
    def authorize_something_else_under_the_key(self, changed: dict[str, Any]) -> None:
        if self.state == "free":
            return
        (answer,) = self.together(self.pay(self.body | changed))
        wanted = (409, "cancelled_by_terminal") if self.state == "burnt" else (422, "idempotency_key_reused")
        assert (answer.status, answer.body["code"]) == wanted, answer.raw

    @rule()
    def cancel(self) -> None:
        (answer,) = self.together(self.shop.cancel(self.key, self.till))
        self.cancelled(answer)

    @rule(count=st.integers(2, 3))
    def cancel_more_than_once_at_once(self, count: int) -> None:
        for answer in self.together(*(self.shop.cancel(self.key, self.till) for _ in range(count))):
            self.cancelled(answer)

    def cancelled(self, answer: Answer) -> None:
        self.seen[f"cancel {self.state}"] += 1
        if self.state in ("free", "burnt"):
            self.state = "burnt"
            assert (answer.status, answer.body["id"], answer.body["status"]) == (200, None, "cancelled"), answer.raw
            return
        self.state = "undone" if self.state == "approved" else self.state
        assert answer.status == (202 if answer.body["status"] == "reversing" else 200), answer.raw
        self.now(answer.body)

    @rule()
    def cancel_while_it_is_asked_again(self) -> None:
        """Whoever wins: after the cancellation's answer nothing stands, and no later answer says approved."""
        if self.state not in ("free", "approved"):
            return
        self.seen["race"] += 1
        sold, cancelled, again = self.together(self.pay(), self.shop.cancel(self.key, self.till), self.pay())
        assert cancelled.status in (200, 202), cancelled.raw
        if cancelled.body["id"] is None:
            assert self.state == "free" and {sold.status, again.status} == {409}, (sold.raw, again.raw)
            self.state = "burnt"
            return
        assert {sold.status, again.status} <= {201, 202}, (sold.raw, again.raw)
        self.id = self.id or cancelled.body["id"]
        self.state = "declined" if self.outcome == "declined" and cancelled.body["status"] == "declined" else "undone"
        for answer in (sold, again):
            assert answer.body["id"] == self.id
            if answer.status == 201:  # told before the cancellation came
                assert answer.body["status"] == ("declined" if self.state == "declined" else self.outcome), answer.raw
                self.first = self.first or answer

    @rule()
    def read_everywhere(self) -> None:
        (by_key,) = self.together(self.get(f"{ROUTE}?idempotency_key={self.key}"))
        if self.id is None:
            assert (by_key.status, by_key.body["code"]) == ((409, "cancelled_by_terminal") if self.state == "burnt" else (404, "not_found")), by_key.raw
            return
        listed, story, *same = self.together(
            self.get("/v1/transactions?limit=200", "operator"), self.get(f"/v1/transactions/{self.id}/story"), self.get(f"{ROUTE}/{self.id}"),
            self.get(f"/v1/transactions/{self.id}"), self.get(f"{ROUTE}?idempotency_key={self.key}"))
        self.seen[f"read {self.state}"] += 1
        assert {answer.status for answer in (listed, story, *same)} == {200}, [answer.raw for answer in (listed, story, *same)]
        for answer in same:
            self.now(answer.body)
        assert [item["id"] for item in listed.body["items"]].count(self.id) == 1
        assert story.body["transaction"]["id"] == self.id

    @rule()
    def others_see_and_undo_nothing(self) -> None:
        if self.id is None:
            return
        other = FOREIGN[self.till]
        one, by_key = self.together(self.get(f"{ROUTE}/{self.id}", other), self.get(f"{ROUTE}?idempotency_key={self.key}", other))
        assert (one.status, by_key.status) == (404, 404)

    @rule()
    def another_terminal_burns_its_own_key(self) -> None:
        """The same text under another caller is another key."""
        if self.state != "approved" or self.till != "neighbour":
            return
        (answer,) = self.together(self.shop.cancel(self.key, "till"))
        assert answer.body["id"] is None

    @rule()
    def wait_for_the_reversal(self) -> None:
        if self.state != "undone" or self.outcome != "approved":
            return
        async def reached() -> bool:
            return bool((await self.shop.get(str(self.id)))["status"] == "reversed" or "25" in str(await self.shop.duty(str(self.id))))

        asyncio.run_coroutine_threadsafe(eventually(reached, "the reversal is not acknowledged"), self.loop).result(ANSWER_S)
        self.seen["reversed"] += 1

    @invariant()
    def one_key_has_at_most_one_transaction(self) -> None:
        if hasattr(self, "key"):
            made = asyncio.run_coroutine_threadsafe(self.shop.by_key(self.key), self.loop).result(ANSWER_S)
            assert len([row for row in made if row["terminal_id"] == self.shop.ids[f"terminal.{self.till}"]]) == (self.id is not None)

    def teardown(self) -> None:
        if hasattr(self, "key"):
            self.read_everywhere()
            status = {"approved": frozenset({"approved"}), "declined": frozenset({"declined"}), "undone": frozenset(UNDONE)}.get(self.state, frozenset())
            self.left.append(Left(self.key, self.till, self.id, status, self.approved if self.state == "approved" else 0))


def lived(shop: Shop, loop: asyncio.AbstractEventLoop) -> tuple[list[Left], Counter[str]]:
    kept = {"shop": shop, "loop": loop, "left": [], "seen": Counter()}
    machine = type("Lives", (Life,), kept)
    run_state_machine_as_test(machine, settings=settings(
        max_examples=220, stateful_step_count=10, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)))
    return kept["left"], kept["seen"]


@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")  # the switch beside it draws its jitter
async def test_every_answer_is_one_that_the_model_allows_and_the_books_agree(shop: Shop) -> None:
    left, seen = await asyncio.to_thread(lived, shop, asyncio.get_running_loop())
    rare = [kind for kind in ("post approved", "post declined", "post undone", "post burnt", "cancel free", "cancel approved", "cancel declined", "cancel undone",
                              "cancel burnt", "at once", "race", "reversed", "read approved", "read undone", "read declined") if not seen[kind]]
    assert rare == [], seen
    assert len(left) >= 120
    for each in left:
        await compared(shop, each)


async def compared(shop: Shop, each: Left) -> None:
    """Terminal's, switch's and host's book about one key; a dual sale stands under its capture's number."""
    rows = [row for row in await shop.by_key(each.key) if row["terminal_id"] == shop.ids[f"terminal.{each.till}"]]
    assert [f"txn_{row['transaction_id']}" for row in rows] == ([each.shown_id] if each.shown_id else [])
    if not rows:
        return
    host = shop.host_of(each.till)

    async def agreed() -> bool:
        followers = await shop.sql("SELECT rrn FROM transaction WHERE original_id = $1", rows[0]["transaction_id"])
        numbers = {rows[0]["rrn"], *(row["rrn"] for row in followers)}
        posted = sum([(await host.effect(rrn))[0] for rrn in numbers])
        return posted == each.net and (await shop.get(str(each.shown_id)))["status"] in each.status

    await eventually(agreed, f"{each} is not what the host holds", 15)
    assert len([message for message in await host.received(rows[0]["rrn"]) if message["0"] in ("0100", "0200")]) == 1


# What follows a hold or a sale.

OPEN = [(), ("capture",), ("capture", "refund"), ("increment", "capture"), ("capture", "void"), ("void",), ("capture_more_than_there_is",), ("tip",),
        ("capture", "tip"), ("tip", "refund"), ("tip", "void")]
COMPLETION, TIP = 15, 20  # percent that the terms allow beyond what is authorised
PATIENT_MS = 10_000  # nothing fails here but a machine that stands still, which the model does not know of


class Followed(RuleBasedStateMachine):
    """A preauthorization or a sale with its captures, increments, tips, voids and refunds; several at once share what is left."""

    shop: Shop
    loop: asyncio.AbstractEventLoop
    left: list["Followed"]
    seen: Counter[str]

    @initialize(till=st.sampled_from(["till", "dual"]), hundreds=st.integers(50, 90), by_hand=st.booleans(), begins=st.sampled_from(OPEN))
    def begin(self, till: str, hundreds: int, by_hand: bool, begins: tuple[str, ...]) -> None:
        self.till, self.by_hand, self.held, self.refunded, self.voided = till, by_hand, hundreds * 100, 0, False
        self.captured = 0 if by_hand else self.held
        self.capturable = self.held + self.held * (COMPLETION if by_hand else TIP) // 100
        self.replayed: list[tuple[str, Any, str, Answer]] = []
        (answer,) = self.together(self.shop.pay(self.held, key=till, type="preauthorization" if by_hand else "purchase"))
        assert (answer.status, answer.body["payment_status"]) == (201, "authorized" if by_hand else "captured"), answer.raw
        self.id = answer.body["id"]
        self.owed = asyncio.run_coroutine_threadsafe(acknowledged(self.shop, self.id), self.loop).result(ANSWER_S)
        for step in begins:
            getattr(self, step)() if step in ("void", "capture_more_than_there_is") else getattr(self, f"{step}s")(1, 10)

    def together(self, *calls: Awaitable[Answer]) -> list[Answer]:
        async def all_of() -> list[Answer]:
            return await asyncio.gather(*calls)

        return asyncio.run_coroutine_threadsafe(all_of(), self.loop).result(ANSWER_S)

    def ask(self, verb: str, body: dict[str, Any], key: str) -> Awaitable[Answer]:
        path = "/v1/refunds" if verb == "refunds" else f"{ROUTE}/{self.id}/{verb}"
        return self.shop.ask("POST", path, body | ({"authorization": self.id} if verb == "refunds" else {}), self.till, Idempotency_Key=key)

    def follow(self, verb: str, body: dict[str, Any], allowed: int, count: int = 1) -> int:
        """Sends the same `count` times at once, each under its own key: exactly `allowed` of them may be done."""
        keys = [new_key() for _ in range(count)]
        answers = self.together(*(self.ask(verb, body, key) for key in keys))
        done = [(verb, body, key, answer) for key, answer in zip(keys, answers, strict=True) if answer.status == 201]
        assert {answer.status for answer in answers} <= {201, 409}, [answer.raw for answer in answers]
        assert len(done) == min(allowed, count), (verb, body, allowed, [answer.raw for answer in answers])
        assert all(answer.body["status"] == "approved" and answer.body["original"] == self.id for *_, answer in done)
        self.replayed += done
        self.seen[f"{verb} {'done' if done else 'refused'}"] += 1
        return len(done)

    @rule(count=st.integers(1, 4), hundreds=st.integers(5, 40))
    def captures(self, count: int, hundreds: int) -> None:
        amount = 100 * hundreds
        allowed = 0 if self.voided or not self.by_hand else (self.capturable - self.captured) // amount
        self.captured += amount * self.follow("captures", {"amount": amount}, allowed, count)

    @rule()
    def capture_more_than_there_is(self) -> None:
        self.follow("captures", {"amount": self.capturable - self.captured + 100}, 0)

    @rule(count=st.integers(1, 1), hundreds=st.integers(1, 20))
    def increments(self, count: int, hundreds: int) -> None:
        more = 100 * hundreds * self.follow("increments", {"amount": 100 * hundreds}, int(self.by_hand and not self.voided and not self.captured), count)
        self.held, self.capturable = self.held + more, self.capturable + more + more * COMPLETION // 100

    @rule(count=st.integers(1, 4), hundreds=st.integers(1, 12))
    def tips(self, count: int, hundreds: int) -> None:
        amount = 100 * hundreds
        allowed = 0 if self.voided or not self.captured else (self.capturable - self.captured) // amount
        self.captured += amount * self.follow("tips", {"tip_amount": amount}, allowed, count)

    @rule(count=st.integers(1, 4), hundreds=st.integers(2, 30))
    def refunds(self, count: int, hundreds: int) -> None:
        amount = 100 * hundreds
        allowed = 0 if self.voided else (self.captured - self.refunded) // amount
        self.refunded += amount * self.follow("refunds", {"amount": amount}, allowed, count)

    @rule()
    def void(self) -> None:
        if self.follow("voids", {}, int(not self.voided and not self.refunded)):
            self.voided, self.captured = True, 0

    @rule(which=st.integers(0, 1 << 16))
    def say_one_again(self, which: int) -> None:
        if self.replayed:
            verb, body, key, first = self.replayed[which % len(self.replayed)]
            again, other = self.together(self.ask(verb, body, key), self.ask(verb, body | {"reference": "other"}, key))
            assert (again.status, again.raw, again.headers.get("idempotent-replayed")) == (201, first.raw, "true")
            assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
            self.seen["replay"] += 1

    @invariant()
    def the_amounts_are_the_models(self) -> None:
        if hasattr(self, "id"):
            amounts = asyncio.run_coroutine_threadsafe(self.shop.get(self.id), self.loop).result(ANSWER_S)["amounts"]
            assert (amounts["captured"], amounts["refunded"]) == (self.captured, self.refunded), amounts
            assert self.voided or amounts["authorised"] == self.held, amounts
            assert self.voided or amounts["capturable"] == self.capturable, amounts
            assert amounts["refunded"] <= amounts["captured"] <= amounts["capturable"]

    def teardown(self) -> None:
        if hasattr(self, "id"):
            self.left.append(self)


async def acknowledged(shop: Shop, shown_id: str) -> int:
    """How many captures it owes by itself; the acquirer has taken them."""
    captures = await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(shown_id[4:]))
    for row in captures:
        await shop.until(f"txn_{row['transaction_id']}", "approved")
    return len(captures)


def followed(shop: Shop, loop: asyncio.AbstractEventLoop) -> tuple[list[Followed], Counter[str]]:
    kept = {"shop": shop, "loop": loop, "left": [], "seen": Counter()}
    run_state_machine_as_test(type("FollowedHolds", (Followed,), kept), settings=settings(
        max_examples=90, stateful_step_count=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)))
    return kept["left"], kept["seen"]


@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
async def test_follow_ups_take_give_back_and_undo_as_the_model_says_and_the_books_agree(shop: Shop) -> None:
    for acquirer in ("single", "dual"):
        terms = {"mcc": "5812", "completion_basis_points": COMPLETION * 100, "tip_basis_points": TIP * 100}
        path = f"/v1/acquirers/{shop.shown(f'acquirer.{acquirer}')}"
        assert (await shop.ask("PUT", f"{path}/terms", terms, "operator")).status == 200
        assert (await shop.ask("PATCH", path, {"answer_timeout_ms": PATIENT_MS}, "operator")).status == 200
    await shop.caught_up()
    left, seen = await asyncio.to_thread(followed, shop, asyncio.get_running_loop())
    assert [kind for kind in ("captures done", "captures refused", "increments done", "increments refused", "refunds done", "refunds refused", "voids done",
                              "voids refused", "tips done", "tips refused", "replay") if seen[kind] < 3] == [], seen
    assert len(left) >= 90
    for each in left:
        rows = await shop.sql("SELECT rrn FROM transaction WHERE transaction_id = $1 OR original_id = $1", UUID(each.id[4:]))
        posted = sum([(await shop.host_of(each.till).effect(row["rrn"]))[0] for row in rows])
        assert posted == each.captured - each.refunded, (each.id, posted)
        assert len(rows) == 1 + each.owed + len(each.replayed)
