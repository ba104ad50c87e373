"""kill -9 while a payer decides, and while the wallet's answer is awaited: after the restart the order is asked for, and never reversed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests import flows
from tests.processes import Demo, ask, sale, stub_book
from tests.wallets import CLIENT, SECRET, new_code, order_of, wallet


async def operator(demo: Demo, method: str, path: str, body: object = None) -> Any:
    answer = await demo.ask(method, path, body, demo.handover["operator_key"])
    assert answer.status in (200, 201), answer.raw
    return answer.body


async def followed(demo: Demo, path: str, body: object) -> Any:
    """A change, as soon as sales see it."""
    async def version() -> int:
        return int((await demo.ask("GET", "/readyz")).body["directory_version"])

    async def seen() -> bool:
        return await version() > before

    before = await version()
    made = await operator(demo, "POST", path, body)
    await flows.eventually(seen, f"the directory does not follow {path}")
    return made


async def joined(demo: Demo, port: int) -> None:
    made = await followed(demo, "/v1/acquirers", {"name": "wallet", "dialect": "qr_wallet", "host": "127.0.0.1", "port": port, "answer_timeout_ms": 20_000})
    await followed(demo, "/v1/routes", {"acquirer": made["id"]})
    await operator(demo, "PUT", f"/v1/acquirers/{made['id']}/account", {"options": {"client": CLIENT, "scheme": "http"}, "secret": SECRET})
    await reached(demo)


async def reached(demo: Demo) -> None:
    async def up() -> bool:
        return bool((await demo.ask("GET", "/readyz")).body["lines"].get("wallet") == "up")

    await flows.eventually(up, "the wallet is not reached", 15.0)


async def pay(demo: Demo, amount: int, key: str) -> Any:
    return await demo.ask("POST", "/v1/authorizations", sale(amount, card=None, qr={"code": new_code()}), Idempotency_Key=key)


async def by_key(demo: Demo, key: str, status: str) -> Any:
    async def reached_it() -> Any:
        answer = await demo.ask("GET", f"/v1/authorizations?idempotency_key={key}")
        return answer.body if answer.status == 200 and answer.body["status"] == status else None

    return await flows.eventually(reached_it, f"it is not {status}", 30.0)


async def verbs(control: str, order: str) -> list[str]:
    return [line["verb"] for line in await stub_book(control) if line["kind"] == "received" and line["order"] == order]


@pytest.mark.parametrize("when", ["pending", "awaited"])
async def test_after_a_kill_the_order_is_asked_for_until_the_wallet_has_spoken(tmp_path: Path, when: str) -> None:
    home, key = tmp_path / "home", flows.new_key()
    (tmp_path / "wallet").mkdir()
    with wallet(tmp_path / "wallet") as (port, control):
        with Demo(home) as demo:
            await joined(demo, port)
            if when == "pending":
                answer = await pay(demo, 5008, key)
                assert (answer.status, answer.body["status"]) == (202, "pending"), answer.raw
                demo.kill()
            else:
                assert (await ask(control, "POST", "/faults", "", {"match": {"verb": "pay"}, "action": "silence", "count": 1})).status == 201
                asked = asyncio.ensure_future(pay(demo, 5000, key))

                async def arrived() -> bool:
                    return any(line["kind"] == "received" for line in await stub_book(control))

                await flows.eventually(arrived, "the order did not arrive")
                demo.kill()
                assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], BaseException)
        order = next(line["order"] for line in await stub_book(control) if line["kind"] == "received")
        with Demo(home) as demo:
            await reached(demo)
            if when == "pending":
                async def asked_again() -> bool:
                    return len(await verbs(control, order)) > 2

                await by_key(demo, key, "pending")
                await flows.eventually(asked_again, "nobody asks after the restart", 30.0)
                assert (await ask(control, "POST", "/host", "", {"order": order, "word": "paid"})).status == 200
            now = await by_key(demo, key, "approved")
            assert order_of(now["id"]) == order and now["amounts"]["captured"] == (5008 if when == "pending" else 5000)
            assert set(await verbs(control, order)) == {"pay", "query"}
            assert sum(line["net"] for line in await stub_book(control) if line["kind"] == "decision") == now["amounts"]["captured"]
