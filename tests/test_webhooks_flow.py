"""Webhooks over real HTTP: sales are told to a local receiver, signed, again after a failure, and not after it is gone."""

import asyncio
import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from tests.flows import eventually, open_shop

Got = tuple[int, dict[str, str], bytes]


async def test_a_sale_is_told_signed_and_told_again_after_a_failure_until_the_receiver_is_gone(database_url: str, tmp_path: Path) -> None:
    got: list[Got] = []
    script = [500]

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        status = script.pop(0) if script else 200
        got.append((status, headers, body))
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 23\r\n\r\n4111 1111 1111 1111 hey".encode())
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/h"
    async with open_shop(database_url, tmp_path, SWITCH_WEBHOOK_TARGETS="any") as shop:
        hook: Any = (await shop.ask("POST", "/v1/webhooks", {"url": address, "types": ["*"]}, "merchant.one")).body
        place = f"/v1/webhooks/{hook['id']}"
        assert (await shop.ask("GET", place, key="merchant.two")).status == 404
        await shop.pay(10000)
        await shop.pay(10051)

        async def told() -> bool:
            return len(got) >= 3

        await eventually(told, "not told", 15)
        assert sorted(json.loads(body)["type"] for status, _, body in got if status == 200) == ["transaction.approved", "transaction.declined"]
        key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
        for _, headers, body in got:
            signed = hmac.new(key, f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body, hashlib.sha256).digest()
            assert headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
        assert len({headers["webhook-id"] for _, headers, _ in got}) == 2

        async def logged() -> Any:
            items = (await shop.ask("GET", f"{place}/deliveries", key="merchant.one")).body["items"]
            return items if {item["state"] for item in items} == {"delivered"} else None

        (again,) = [item for item in await eventually(logged, "not delivered") if item["attempts"] == 2]
        log = (await shop.ask("GET", f"{place}/deliveries/{again['id']}", key="merchant.one")).body["log"]
        assert [each["status"] for each in log] == [200, 500] and "4111" not in str(log)

        script.append(410)
        assert (await shop.ask("POST", f"{place}/test", {}, "merchant.one")).status == 202

        async def gone() -> bool:
            return bool((await shop.ask("GET", place, key="operator")).body["state"] == "disabled")

        await eventually(gone, "not disabled")
        assert [row["object"] for row in await shop.sql("SELECT object FROM alert WHERE kind = 'webhook_disabled'")] == [hook["id"]]
    server.close()
