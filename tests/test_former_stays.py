"""Where terminals were, and what devices said of themselves: removed when no rule, and no trial of one, can ask for it; until then it stays."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from asyncpg import exceptions as refusals

from switch import database
from switch.merchants import former
from switch.payments.away import KNOWN, TRIED
from tests.fleet import Device, device
from tests.flows import Shop, forgotten, open_shop
from tests.test_relocation_flow import BEIJING, SHANGHAI, relocated, says, stands
from tests.test_risk_flow import in_force, post

OLDER = "UPDATE terminal_stay SET since = since - $1::interval, told_at = told_at - $1::interval, written_at = written_at - $1::interval"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("stays")) as shop:
        yield shop


async def been(shop: Shop, *days: float) -> Device:
    """A terminal that said where it is so many days ago, at a time."""
    one = await device(shop)
    for at, ago in enumerate(days):
        await says(one, (BEIJING, SHANGHAI)[at % 2])
        await shop.sql(f"{OLDER} WHERE 'trm_' || terminal_id = $2 AND told_at > now() - interval '1 hour'", timedelta(days=ago), one.till)
    return one


async def left(shop: Shop, one: Device) -> list[int]:
    """How many days ago each stay that is kept was."""
    rows = await shop.sql("""SELECT extract(epoch FROM now() - told_at)::integer / 86400 AS days FROM terminal_stay
                             WHERE 'trm_' || terminal_id = $1 ORDER BY told_at""", one.till)
    return [row["days"] for row in rows]


async def test_what_no_rule_and_no_trial_can_ask_for_goes_and_what_one_can_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await stands(shop, SHANGHAI)
    kept = (TRIED + KNOWN).days
    one, silent = await been(shop, kept + 3, kept + 0.1, kept - 0.1, 8), await been(shop, kept + 200)
    monkeypatch.setattr(former, "AT_ONCE", 2)
    assert await forgotten(shop, "former_stays") == 3
    assert (await left(shop, one), await left(shop, silent)) == ([kept - 1, 8], [])
    assert await forgotten(shop, "former_stays") == 0
    await says(silent, BEIJING)
    assert await left(shop, silent) == [0], "who was silent so long is known again by the next heartbeat"


@pytest.mark.parametrize("named", ["activate", "retire"])
async def test_a_trial_that_begins_before_what_is_kept_is_refused_by_name(shop: Shop, named: str) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    begin, end = datetime.now(UTC) - TRIED - timedelta(minutes=1), datetime.now(UTC)
    asked = {"from": begin.isoformat(), "to": end.isoformat()}
    if named == "activate":
        rule = await post(shop, "risk-rules", {"name": "Elsewhere", "action": "decline", **relocated(one)}, 201)
        await shop.caught_up()
        answer = await shop.ask("POST", "/v1/risk-rules/try", {named: [rule["id"]], **asked}, "operator")
    else:
        async with in_force(shop, **relocated(one)) as of:
            answer = await shop.ask("POST", "/v1/risk-rules/try", {named: [of["id"]], **asked}, "operator")
    assert (answer.status, [fault["field"] for fault in answer.body["errors"]]) == (422, ["from"]), answer.raw
    other = await post(shop, "risk-rules", {"name": "Large", "kind": "amount", "action": "flag", "amount_max": 100_000, "currency": "CNY"}, 201)
    await shop.caught_up()
    await post(shop, "risk-rules/try", {"activate": [other["id"]], **asked})


async def test_what_a_device_said_goes_as_late(shop: Shop) -> None:
    one = await device(shop)
    await says(one, BEIJING)
    await shop.sql("""INSERT INTO device_health_hour (device_id, hour, latitude_e6, longitude_e6) SELECT device_id, date_trunc('hour', now() - d * interval '1 day'), 1, 1
        FROM device_health_hour, unnest($1::integer[]) AS d WHERE 'dev_' || device_id = $2""", [96, 98, 500], one.id)
    assert await forgotten(shop, "former_health") == 2
    assert [row["days"] for row in await shop.sql("SELECT extract(epoch FROM now() - hour)::integer / 86400 AS days FROM device_health_hour WHERE 'dev_' || device_id = $1 ORDER BY hour", one.id)] == [96, 0]


async def test_nothing_else_removes_a_stay(shop: Shop) -> None:
    writer, reader = await database.connect(shop.url, "switch_writer"), await database.connect(shop.url, "switch_reader")
    try:
        for connection, statement in ((writer, "DELETE FROM terminal_stay"), (reader, "SELECT forget_former_stays(1)"), (writer, "DELETE FROM device_health_hour"),
                                      (reader, "SELECT forget_former_health(1)")):
            with pytest.raises(refusals.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await writer.close()
        await reader.close()
