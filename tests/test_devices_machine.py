"""Devices in the database, drawn by Hypothesis: every move is one that the model allows, alone or by two people at once, and rows, tills and keys agree."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from switch import database
from switch.errors import Problem
from switch.merchants import terminal_keys
from switch.merchants.onboarding import Onboarding
from switch.security.vault import Keyring, Vault
from switch.terminals.activation import Activation
from switch.terminals.devices import By, Devices, Keys
from switch.terminals.health import Health, Heartbeat
from switch.terminals.lifecycle import AFTER_TAMPER, ASSIGNED, BOUND, BY_PEOPLE, LIFE, sells

T = TypeVar("T")
BY = By("Li Wei", "ok_x")
TILLS = 3


class Drawn(RuleBasedStateMachine):
    """The model: of each device its state, whether it was opened, whether it may sell while it is maintained, its till, and whether it has a good key."""

    pool: Any
    onboarding: Onboarding
    store: UUID
    vault: Vault
    loop: asyncio.AbstractEventLoop
    seen: Counter[str]
    count = 0

    def wait(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(15)

    @initialize(far=st.lists(st.sampled_from([0, 2, 3, 4, 5, 6, 7]), min_size=3, max_size=3))
    def shop(self, far: list[int]) -> None:
        keys = Keys(terminal_keys.issue, terminal_keys.revoke, terminal_keys.erase)
        self.devices, self.health = Devices(self.pool, self.pool, keys), Health(self.pool, self.pool, keys)
        self.activation = Activation(self.pool, self.vault, keys)
        self.tills = [self.wait(self.onboarding.terminal(self.store, "Till")).terminal_id for _ in range(TILLS)]
        self.used: set[UUID] = set()
        self.known: dict[UUID, dict[str, Any]] = {}
        for number, steps in enumerate(far):
            self.another()
            device_id, one = list(self.known.items())[-1]
            for event in ("order", "ship", "install", "activate", "go_live", "maintain", "tamper")[:steps]:
                if event == "activate":
                    self.by_code(device_id, one, True)
                else:
                    self.move(device_id, one, event, self.tills[number], False)

    @rule()
    def another(self) -> None:
        if len(self.known) >= 6:
            return
        Drawn.count += 1
        serial = f"PX7-{Drawn.count:06d}"
        device_id = self.wait(self.devices.register(serial, "PX7", BY, "bought"))
        self.known[device_id] = {"serial": serial, "state": "inventory", "opened": False, "may": False, "till": None, "key": False, "moves": 1, "called": 0}

    def pick(self, which: int) -> tuple[UUID, dict[str, Any]]:
        device_id = sorted(self.known)[which % len(self.known)]
        return device_id, self.known[device_id]

    def allowed(self, one: dict[str, Any], event: str) -> bool:
        return (one["state"], event) in LIFE and (not one["opened"] or event in AFTER_TAMPER)

    def follow(self, one: dict[str, Any], event: str, till: UUID | None = None, may: bool = False) -> None:
        """What the model says of a step that was taken."""
        self.seen[f"{one['state']} {event}"] += 1
        one["state"] = LIFE[one["state"], event]
        one["moves"] += 1
        one["may"] = may and one["state"] == "maintenance"
        if event == "tamper":
            one["called"] += not one["opened"]
            one["opened"], one["key"] = True, False
        if event == "repair":
            one["opened"] = False
        if till is not None:
            one["till"] = till
            self.used.add(till)
        if one["state"] not in BOUND:
            one["till"], one["key"] = None, False

    def arguments(self, event: str, till: UUID, may: bool) -> dict[str, Any]:
        return ({"store_id": self.store} if event == "order" else {}) | ({"terminal_id": till} if event == "install" else {}) | ({"sells": may} if event == "maintain" else {})

    @rule(which=st.integers(0, 99), event=st.sampled_from(sorted(BY_PEOPLE)), till=st.integers(0, TILLS - 1), may=st.booleans())
    def any_move(self, which: int, event: str, till: int, may: bool) -> None:
        self.move(*self.pick(which), event, self.tills[till], may)

    @rule(which=st.integers(0, 99), choice=st.integers(0, 99), till=st.integers(0, TILLS - 1), may=st.booleans())
    def next_move(self, which: int, choice: int, till: int, may: bool) -> None:
        device_id, one = self.pick(which)
        able = sorted(event for state, event in LIFE if state == one["state"] and event in BY_PEOPLE and event not in ("retire", "tamper"))
        if able:
            self.move(device_id, one, able[choice % len(able)], self.tills[till], may)

    @rule(choice=st.integers(0, 99), till=st.integers(0, TILLS - 1))
    def then(self, choice: int, till: int) -> None:
        self.next_move(0, choice, till, False)

    def move(self, device_id: UUID, one: dict[str, Any], event: str, till: UUID, may: bool) -> None:
        taken = event == "install" and till in {each["till"] for each in self.known.values()}
        try:
            self.wait(self.devices.move(device_id, event, BY, "drawn", **self.arguments(event, till, may)))
        except Problem as problem:
            expected = "device_move" if (one["state"], event) not in LIFE else "device_tampered" if not self.allowed(one, event) else "already_exists"
            assert problem.code == expected and (problem.code != "already_exists" or taken), (problem.code, one, event)
            self.seen[f"refused {problem.code}"] += 1
            return
        assert self.allowed(one, event) and not taken
        self.follow(one, event, till if event == "install" else None, may and event == "maintain")

    @rule(which=st.integers(0, 99), first=st.integers(0, 99), second=st.integers(0, 99), till=st.integers(0, TILLS - 1))
    def two_people(self, which: int, first: int, second: int, till: int) -> None:
        """Both at once: what happened is one of the two orders."""
        device_id, one = self.pick(which)
        able = sorted(event for state, event in LIFE if state == one["state"] and event in BY_PEOPLE - {"install", "retire"})
        if not able:
            return
        events = (able[first % len(able)], able[second % len(able)])

        async def both() -> list[Any]:
            return await asyncio.gather(*(self.devices.move(device_id, event, BY, "at once", **self.arguments(event, self.tills[till], False)) for event in events),
                                        return_exceptions=True)

        outcomes = self.wait(both())
        assert all(each is None or (isinstance(each, Problem) and each.code in ("device_move", "device_tampered")) for each in outcomes), outcomes
        for event in self.order(device_id, one, [event for event, outcome in zip(events, outcomes, strict=True) if outcome is None]):
            assert self.allowed(one, event), (one, event)
            self.follow(one, event)
        self.seen["two people, both" if outcomes == [None, None] else "two people, one"] += 1

    def order(self, device_id: UUID, one: dict[str, Any], taken: list[str]) -> list[str]:
        rows = self.wait(self.devices.events(device_id, None, None, 200))
        written = [row["event"] for row in reversed(rows)][one["moves"]:]
        assert sorted(written) == sorted(taken)
        return written

    @rule(which=st.integers(0, 99), right=st.integers(0, 3))
    def activate(self, which: int, right: int) -> None:
        self.by_code(*self.pick(which), right > 0)

    def by_code(self, device_id: UUID, one: dict[str, Any], right: bool) -> None:
        try:
            issued = self.wait(self.activation.issue(device_id, BY))
        except Problem as problem:
            assert not self.allowed(one, "activate") and problem.code in ("device_move", "device_tampered")
            return
        assert self.allowed(one, "activate")
        code = issued.code if right else "0000-0000"
        try:
            made = self.wait(self.activation.activate(one["serial"], code, f"198.51.100.{Drawn.count % 250}"))
        except Problem as problem:
            assert not right and problem.code == "activation_refused"
            self.seen["wrong code"] += 1
            return
        assert right and made.terminal_id == one["till"]
        self.follow(one, "activate")
        one["key"] = True
        with pytest.raises(Problem):
            self.wait(self.activation.activate(one["serial"], code, "203.0.113.1"))

    @rule(which=st.integers(0, 99), other=st.integers(0, 99))
    def any_swap(self, which: int, other: int) -> None:
        self.swap(*self.pick(which), *self.pick(other))

    @rule(which=st.integers(0, 99), other=st.integers(0, 99))
    def next_swap(self, which: int, other: int) -> None:
        bound = [item for item in sorted(self.known.items()) if item[1]["state"] in BOUND]
        others = [item for item in sorted(self.known.items()) if item[1]["state"] not in BOUND]
        if bound and others:
            self.swap(*bound[which % len(bound)], *others[other % len(others)])

    def swap(self, old_id: UUID, old: dict[str, Any], new_id: UUID, new: dict[str, Any]) -> None:
        able = old_id != new_id and self.allowed(old, "swap_out") and self.allowed(new, "swap_in")
        till = old["till"]
        try:
            self.wait(self.devices.swap(old_id, new_id, BY, "broken"))
        except Problem as problem:
            assert not able and problem.code in ("device_move", "device_tampered", "conflict")
            return
        assert able
        self.follow(old, "swap_out")
        self.follow(new, "swap_in", till)

    @rule(which=st.integers(0, 99), tamper=st.sampled_from([False, False, False, True]))
    def beat(self, which: int, tamper: bool) -> None:
        _, one = self.pick(which)
        if one["till"] is None:
            return
        told = self.wait(self.health.beat(one["till"], one["serial"], Heartbeat("4.2.0", tamper=tamper)))
        if tamper and not one["opened"]:
            self.follow(one, "tamper")
        assert (told.device["state"], told.device["sells"], told.erase_keys) == (one["state"], sells(one["state"], one["may"], one["opened"]), one["opened"])

    @invariant()
    def the_database_is_the_models(self) -> None:
        if not hasattr(self, "known"):
            return
        fetch = self.pool.fetch
        rows = {row["device_id"]: row for row in self.wait(fetch("SELECT * FROM device WHERE device_id = ANY($1::uuid[])", list(self.known)))}
        for device_id, one in self.known.items():
            row = rows[device_id]
            assert (row["state"], row["tampered_at"] is not None, row["terminal_id"], row["sells_in_maintenance"], row["version"]) == (
                one["state"], one["opened"], one["till"], one["may"], one["moves"])
            assert row["sells"] is sells(one["state"], one["may"], one["opened"]) and (row["store_id"] == self.store) is (one["state"] in ASSIGNED)
        counted = self.wait(fetch("SELECT device_id, count(*) AS n, max(number) AS last FROM device_event WHERE device_id = ANY($1::uuid[]) GROUP BY 1", list(self.known)))
        assert {row["device_id"]: (row["n"], row["last"]) for row in counted} == {each: (one["moves"], one["moves"]) for each, one in self.known.items()}
        of_till = {one["till"]: one for one in self.known.values() if one["till"] is not None}
        for row in self.wait(fetch("SELECT terminal_id, status FROM directory_terminal WHERE terminal_id = ANY($1::uuid[])", self.tills)):
            one = of_till.get(row["terminal_id"])
            able = sells(one["state"], one["may"], one["opened"]) if one is not None else row["terminal_id"] not in self.used
            assert row["status"] == ("active" if able else "suspended")
        good = {row[0] for row in self.wait(fetch("SELECT terminal_id FROM api_key WHERE terminal_id = ANY($1::uuid[]) AND revoked_at IS NULL", self.tills))}
        assert good == {till for till, one in of_till.items() if one["key"]}
        called = self.wait(fetch("SELECT sum(count)::int FROM alert WHERE kind = 'terminal_tampered' AND object = ANY($1::text[])", [f"dev_{each}" for each in self.known]))
        assert (called[0][0] or 0) == sum(one["called"] for one in self.known.values())


def drawn(kept: dict[str, Any]) -> Counter[str]:
    run_state_machine_as_test(type("Devices", (Drawn,), kept), settings=settings(
        max_examples=70, stateful_step_count=22, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)))
    return kept["seen"]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
async def test_devices_move_as_the_model_says(database_url: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 4)
    onboarding = Onboarding(pool)
    merchant = await onboarding.merchant((await onboarding.organisation("X")).organisation_id, "X", "5812")
    store = await onboarding.store(merchant.merchant_id, "X")
    vault = Vault(Keyring("k", "k", {"k": bytes(range(32))}))
    kept = {"pool": pool, "onboarding": onboarding, "store": store.store_id, "vault": vault, "loop": asyncio.get_running_loop(), "seen": Counter[str]()}
    try:
        seen = await asyncio.to_thread(drawn, kept)
    finally:
        await pool.close()
    assert [each for each in ("shipped install", "installed activate", "activated go_live", "live maintain", "maintenance restore", "live tamper", "returned repair", "live swap_out",
                              "inventory swap_in", "two people, both", "two people, one", "refused device_move", "refused device_tampered", "refused already_exists", "wrong code")
            if not seen[each]] == [], seen
