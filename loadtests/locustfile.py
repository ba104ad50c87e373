"""Locust scenario: terminals of many merchants that sell, are declined, repeat keys and meet silence. Started by loadtests/load.py.

Environment: LOAD_PLAN names a JSON file {"terminals": [[merchant, key], ...], "shape": [[seconds, users, users started per second], ...],
"stub_control_url", "silence_every", "first_number", "out"}; what the terminals were told and how long it
took goes to the file "out" when Locust quits.
"""
import itertools
import json
import os
import random
import secrets
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, between, events, task

from loadtests.books import Told
from loadtests.driver import EMV, sample_pan
from loadtests.processes import call
from loadtests.terminal import Action, read, rule

PLAN: dict[str, Any] = json.loads(Path(os.environ["LOAD_PLAN"]).read_text())
DECLINES = (1, 5, 51, 54, 55, 61, 91)
TRIES = 6
PANS = [sample_pan(number * 7919) for number in range(2000)]

told: dict[str, Told] = {}
times: defaultdict[str, list[float]] = defaultdict(list)
faults: defaultdict[str, int] = defaultdict(int)
terminals = itertools.cycle(PLAN["terminals"])
numbers = itertools.count(PLAN["first_number"])


class Shape(LoadTestShape):
    """Users over time, as the plan says."""

    def tick(self) -> tuple[int, float] | None:
        passed = self.get_run_time()  # type: ignore[no-untyped-call]
        for seconds, users, rate in PLAN["shape"]:
            if passed < seconds:
                return users, rate
            passed -= seconds
        return None


class TerminalUser(FastHttpUser):
    """One terminal that takes one payment at a time."""

    wait_time = between(0.02, 0.1)
    connection_timeout, network_timeout = 5.0, 45.0

    def on_start(self) -> None:
        self.merchant, self.key = next(terminals)
        self.last: tuple[str, dict[str, Any], bytes] | None = None

    @task(70)
    def sell(self) -> None:
        self.pay("approve", random.randrange(100, 90_000) * 100)

    @task(18)
    def be_declined(self) -> None:
        self.pay("decline", random.randrange(100, 90_000) * 100 + random.choice(DECLINES))

    @task(12)
    def repeat_the_last_key(self) -> None:
        if self.last is None:
            return
        key, body, first = self.last
        outcome, _, raw, headers = self.send("replay", key, body)
        if not outcome.startswith("201 ") or raw != first or headers.get("idempotent-replayed") != "true":
            faults["replay_not_identical"] += 1

    @task(1)
    def meet_silence(self) -> None:
        number = next(numbers)
        if number % PLAN["silence_every"]:
            return self.sell()
        amount = 10_000_000 + number * 100  # no other payment has it
        call("POST", f"{PLAN['stub_control_url']}/faults", {"match": {"4": f"{amount:012d}"}, "action": "silence", "count": 1})
        outcome = self.pay("silence", amount)
        faults["silence_not_202"] += not outcome.startswith("202 ")
        return None

    def pay(self, kind: str, amount: int) -> str:
        """One payment to its end, by the table of the reference terminal; no end after TRIES: cancelled by key."""
        number, key = next(numbers), secrets.token_hex(16)
        body = {"type": "purchase", "amount": amount, "currency": "CNY", "terminal_trace": f"{number % 1_000_000:06d}",
                "reference": f"load-{number}", "card": {"entry_mode": "chip", "pan": random.choice(PANS), "expiry": "3012", "emv": EMV}}
        for _ in range(TRIES):
            outcome, answer, raw, headers = self.send(kind, key, body)
            action = rule("pay", outcome).action
            if action is not Action.AGAIN:
                break
            time.sleep(min(5.0, float(headers.get("retry-after") or 0.2)) * random.uniform(1.0, 1.5))
        if action in (Action.AGAIN, Action.CANCEL):
            outcome, answer, raw, headers = self.send("cancel", None, {"idempotency_key": key}, "/v1/cancellations")
        status, _, word = outcome.partition(" ")
        told[key] = Told(key, self.merchant, int(status) if status.isdigit() else 0, word or outcome, answer.get("id"),
                         answer.get("approved_amount") or amount, answer.get("approval_code"))
        if outcome.startswith("201 "):
            self.last = key, body, raw
        return outcome

    def send(self, kind: str, key: str | None, body: dict[str, Any],
             path: str = "/v1/authorizations") -> tuple[str, dict[str, Any], bytes, dict[str, str]]:
        """One request, timed -> (outcome as loadtests.terminal.read tells it, answer, raw body, headers with lower-case names)."""
        headers = {"Authorization": f"Bearer {self.key}"} | ({"Idempotency-Key": key} if key else {})
        started = time.perf_counter()
        with self.client.post(path, json=body, headers=headers, name=kind, catch_response=True) as response:
            raw = response.content or b""
            outcome, answer = read(response.status_code, raw) if response.status_code else ("broken", {})
            response.success() if outcome[:1] in "24" else response.failure(outcome)
        times[f"{'replay: ' if kind == 'replay' else ''}{outcome}"].append(time.perf_counter() - started)
        fields = {name.lower(): value for name, value in response.headers.items()} if response.headers else {}
        return outcome, answer, raw, fields


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_down(**_: object) -> None:
    Path(PLAN["out"]).write_text(json.dumps({"told": list(told.values()), "times": times, "faults": faults}))
