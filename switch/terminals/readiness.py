"""What must be done before a device goes live: plans per model as data, the check list, and what of both is missing.

A model without a plan asks for nothing, and its devices go live as they always did.
"""

import json
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.errors import Problem
from switch.terminals import acceptance_steps as steps

NEWEST = "SELECT version, content FROM acceptance_plan WHERE model = $1 ORDER BY version DESC LIMIT 1"
# The number of the move that bound it: what was tested, checked or shown before that was another till.
INSTALLATION = "SELECT coalesce(max(number), 0) FROM device_event WHERE device_id = $1 AND event IN ('install', 'swap_in')"
DIALECTS = """SELECT DISTINCT a.dialect FROM directory_acquirer_terminal n JOIN directory_acquirer a USING (acquirer_id)
WHERE n.merchant_id = $1 AND n.terminal_id = $2"""
SHOWN = """SELECT DISTINCT s.step, s.dialect FROM acceptance_step s JOIN acceptance_test t USING (test_id)
WHERE t.device_id = $1 AND t.installation = $2 AND t.state = 'passed' AND s.shown"""
CHECKED = """SELECT DISTINCT ON (code) code, done, person, at FROM device_check WHERE device_id = $1 AND installation = $2
ORDER BY code, number DESC"""
TRAINED = "SELECT DISTINCT role FROM training WHERE store_id = $1 AND model = $2"
INTERRUPT = """WITH ended AS (UPDATE acceptance_test SET state = 'cancelled', version = version + 1, state_since = now()
  WHERE device_id = $1 AND state IN ('open', 'running') RETURNING test_id, version),
was AS (SELECT test_id, state FROM acceptance_test WHERE device_id = $1 AND state IN ('open', 'running'))
INSERT INTO acceptance_event (test_id, number, event, was, state, reason, person, key_id)
SELECT e.test_id, e.version, 'cancel', w.state, 'cancelled', $2, $3, $4 FROM ended e JOIN was w USING (test_id)"""


class Plan(NamedTuple):
    """What a model asks for. Steps: `{step, dialect}`; checks: `{code, en, zh}`; roles: who must be trained at the store."""

    version: int
    steps: list[dict[str, str | None]]
    checks: list[dict[str, str]]
    roles: list[str]


class Standing(NamedTuple):
    """What a device lacks, by the plan in force."""

    plan: Plan
    installation: int
    asked: list[dict[str, str | None]]  # the steps of its till
    steps: list[dict[str, str | None]]
    checks: list[dict[str, str]]
    roles: list[str]

    @property
    def ready(self) -> bool:
        return not (self.steps or self.checks or self.roles)

    def errors(self) -> list[dict[str, str]]:
        return [*({"field": f"steps.{each['step']}", "rule": f"must be shown in a passed test{_by(each['dialect'])}", "type": "step"}
                  for each in self.steps),
                *({"field": f"checks.{each['code']}", "rule": f"must be done: {each['en']}", "type": "check"} for each in self.checks),
                *({"field": f"roles.{role}", "rule": "somebody at the store must be trained for it", "type": "training"} for role in self.roles)]


def _by(dialect: str | None) -> str:
    return "" if dialect is None else f" at an acquirer that speaks {dialect}"


async def plan_of(connection: Connection, model: str) -> Plan:
    row = await connection.fetchrow(NEWEST, model)
    content: dict[str, Any] = {} if row is None else json.loads(row["content"])
    return Plan(0 if row is None else row["version"], content.get("steps", []), content.get("checks", []), content.get("roles", []))


async def asked_of(connection: Connection, device: asyncpg.Record, plan: Plan) -> list[dict[str, str | None]]:
    """The steps that the plan asks of the device's till."""
    rows = await connection.fetch(DIALECTS, device["merchant_id"], device["terminal_id"])
    return steps.asked(plan.steps, frozenset(row["dialect"] for row in rows))


async def standing(connection: Connection, device: asyncpg.Record) -> Standing:
    """Of a device that is bound to a till."""
    plan = await plan_of(connection, device["model"])
    installation = await connection.fetchval(INSTALLATION, device["device_id"])
    asked = await asked_of(connection, device, plan)
    shown = [(row["step"], row["dialect"]) for row in await connection.fetch(SHOWN, device["device_id"], installation)]
    done = {row["code"] for row in await connection.fetch(CHECKED, device["device_id"], installation) if row["done"]}
    trained = {row["role"] for row in await connection.fetch(TRAINED, device["store_id"], device["model"])}
    return Standing(plan, installation, asked, steps.missing(asked, shown), [each for each in plan.checks if each["code"] not in done],
                    [role for role in plan.roles if role not in trained])


async def required(connection: Connection, device: asyncpg.Record) -> None:
    """Raises Problem device_not_ready, which names everything that is missing."""
    found = await standing(connection, device)
    if not found.ready:
        raise Problem("device_not_ready", "It does not go live before what its model asks for is done.", errors=found.errors())


async def interrupt(connection: Connection, device_id: UUID, why: str, person: str, key_id: str | None) -> None:
    """Ends a test that is open or running: its device was moved."""
    await connection.execute(INTERRUPT, device_id, why, person, key_id)
