"""Working keys that were replaced: believed for a while, kept in a bounded number, and then removed; what people loaded stays."""

from collections.abc import AsyncIterator
from uuid import UUID

import flows
import pytest
import pytest_asyncio
from asyncpg import exceptions as refusals
from conftest import create_database

from switch import database
from switch.security.ciphers import ClearKey, encrypt, kcv
from switch.security.hsm import Handle
from switch.security.keystore import FORMER_MAX
from switch.security.line_keys import GRACE_S
from tests.flows import forgotten
from tests.keyed import MASTER, Desk, open_desk

pytestmark = pytest.mark.asyncio(loop_scope="module")
PURPOSES = ("pin", "mac", "track")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with open_desk(await create_database(cluster_url), tmp_path_factory.mktemp("former")) as opened:
        yield opened


def brought(desk: Desk, number: int) -> list[Handle]:
    """What a sign-in brings, later than those before."""
    custody = desk.shop.switch.custody
    master, now, octets = custody.store.find(desk.acquirer_id, "tmk"), custody.store.find(desk.acquirer_id, "mac"), bytes(range(number, number + 16))
    assert master is not None and now is not None and custody.hsm is not None
    return [custody.hsm.downloaded(UUID(int=now.key_id.int + (number << 90) + at), purpose, "tdes", encrypt(ClearKey("tdes", MASTER), octets), master,  # type: ignore[arg-type]
                                   kcv(ClearKey("tdes", octets))) for at, purpose in enumerate(PURPOSES)]


async def test_fifty_sign_ins_leave_a_bounded_number_of_keys_and_the_one_before_is_believed(desk: Desk) -> None:
    store = desk.shop.switch.custody.store
    loaded, generations = [key for key in await desk.keys() if key["source"] != "sign_in"], [brought(desk, number) for number in range(1, 51)]
    for keys in generations:
        await desk.shop.switch.crypto_keys.installed(desk.acquirer_id, keys)
    left = await desk.keys(source="sign_in")
    assert len(left) == len(PURPOSES) * (1 + FORMER_MAX)
    assert {(key["purpose"], key["state"]) for key in left} == {(purpose, state) for purpose in PURPOSES for state in ("active", "replaced")}
    assert [key for key in await desk.keys() if key["source"] != "sign_in"] == loaded != [], "what people loaded stays"

    async def followed() -> bool:
        return store.find(desk.acquirer_id, "mac") == generations[-1][1]

    await flows.eventually(followed, "the last one is not in force")
    assert generations[-2][1] in store.usable(desk.acquirer_id, "mac", GRACE_S), "an answer under it may still come"


async def test_who_signs_in_no_more_has_no_former_key_an_hour_later(desk: Desk) -> None:
    await desk.shop.switch.crypto_keys.installed(desk.acquirer_id, brought(desk, 60))
    aged = "UPDATE crypto_key SET ended_at = now() - make_interval(mins => $1) WHERE state = 'replaced' AND source = 'sign_in' AND (purpose = 'pin') = $2"
    for minutes, pin in ((59, True), (61, False)):
        await desk.shop.sql(aged, minutes, pin)
    before = await desk.keys()
    assert await forgotten(desk.shop, "former_keys") == 2 * FORMER_MAX
    gone = {key["id"] for key in before} - {key["id"] for key in await desk.keys()}
    assert gone == {key["id"] for key in before if key["source"] == "sign_in" and key["state"] == "replaced" and key["purpose"] != "pin"}
    assert await forgotten(desk.shop, "former_keys") == 0


async def test_nothing_else_removes_a_key(desk: Desk) -> None:
    writer = await database.connect(desk.shop.url, "switch_writer")
    reader = await database.connect(desk.shop.url, "switch_reader")
    try:
        with pytest.raises(refusals.InsufficientPrivilegeError):
            await writer.execute("DELETE FROM crypto_key")
        for statement in ("SELECT forget_former_keys(1)", "SELECT forget_former_keys(gen_random_uuid())"):
            with pytest.raises(refusals.InsufficientPrivilegeError):
                await reader.execute(statement)
        before = len(await desk.keys())
        await writer.execute("SELECT forget_former_keys($1::uuid)", desk.acquirer_id)
        assert len(await desk.keys()) == before, "the keys in force, and those of people, are no former ones"
    finally:
        await writer.close()
        await reader.close()
