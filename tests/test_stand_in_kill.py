"""kill -9 between a sale that was stood in for and its advice, and between the advice and its answer; then the day is settled. Terms by the commands."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from switch.demo import ACQUIRER
from tests.flows import eventually, new_key
from tests.processes import Answer, Demo, ask, run, stub_book

DEMO_SALE = 10_000  # a demo begins with one
TERMS = ("--currency", "CNY", "--sale-amount", "9000", "--day-amount", "20000", "--day-count", "5", "--reason", "Agreed for the test", "--by", "Tester")


class Shop:
    """A demo, with its acquirer."""

    def __init__(self, demo: Demo) -> None:
        self.demo, self.control = demo, str(demo.handover["stub_control_url"])

    async def operator(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.demo.ask(method, path, body, self.demo.handover["operator_key"])
        assert answer.status in (200, 201, 202), answer.raw
        return answer.body

    async def line(self, port: int | None = None) -> int:
        """The port that its line goes to, or is made to go to."""
        (acquirer,) = (await self.operator("GET", "/v1/acquirers"))["items"]
        path = f"/v1/acquirers/{acquirer['id']}/lines"
        (line,) = (await self.operator("GET", path))["items"]
        if port is not None:
            await self.operator("PATCH", f"{path}/{line['id']}", {"port": port})
            await eventually(lambda: self.reached(port > 1), f"the line to {port} is not as it should be", 20.0)
        return int(line["port"])

    async def reached(self, wanted: bool) -> bool:
        return ((await self.demo.ask("GET", "/readyz")).body["lines"].get(ACQUIRER) == "up") == wanted

    async def pay(self, amount: int, key: str) -> Answer:
        answer = await self.demo.pay(key, amount)
        assert (answer.status, answer.body.get("approved_by")) == (201, "stand_in"), answer.raw
        return answer

    async def heard(self, rrn: str) -> list[dict[str, str]]:
        return [{"0": line["mti"], **line["fields"]} for line in await stub_book(self.control)
                if line["kind"] == "received" and line.get("fields", {}).get("37") == rrn]

    async def captured(self, shown_id: str) -> bool:
        shown = await self.operator("GET", f"/v1/transactions/{shown_id}")
        return bool(shown["amounts"]["left_to_refund"])  # only when its acquirer has taken it


def stand_in(home: Path, *words: str, code: int = 0) -> str:
    done = run(home, "stand-in", *words)
    assert done.code == code, done.err
    return done.out + done.err


async def test_what_was_approved_in_its_stead_is_said_once_whenever_the_switch_died_and_is_settled(tmp_path: Path) -> None:
    home, keys = tmp_path / "home", {2100: new_key(), 2200: new_key()}
    with Demo(home) as demo:
        shop = Shop(demo)
        assert "There are no such terms" in stand_in(home, "off", ACQUIRER, "--reason", "None yet", code=2)
        assert stand_in(home, "list", ACQUIRER) == "nothing is there by what was asked\n"
        assert "not the id of a merchant" in stand_in(home, "set", ACQUIRER, *TERMS, "--merchant", "one", code=2)
        put = json.loads(stand_in(home, "set", ACQUIRER, *TERMS).splitlines()[-1])
        assert (put["state"], put["sale_amount"], put["created_by"]) == ("on", 9000, "Tester")
        port = await shop.line()
        await shop.line(1)
        said = await shop.pay(2100, keys[2100])
        assert (await ask(shop.control, "POST", "/faults", "", {"match": {"0": "0220"}, "action": "silence", "count": None})).status == 201
        await shop.line(port)

        async def arrived() -> bool:
            return bool(await shop.heard(said.body["rrn"]))

        await eventually(arrived, "the advice does not arrive", 20.0)
        await shop.line(1)
        unsaid = await shop.pay(2200, keys[2200])
        assert await shop.heard(unsaid.body["rrn"]) == []
        assert "2 sales, 43.00 CNY" in stand_in(home, "list", ACQUIRER)
        demo.kill()
    with Demo(home) as demo:  # its line goes to its host again
        shop = Shop(demo)
        for answer in (said, unsaid):
            await eventually(lambda answer=answer: shop.captured(answer.body["id"]), "it is not said after the restart", 30.0)  # type: ignore[misc]
            assert (await shop.demo.pay(keys[answer.body["amount"]], answer.body["amount"])).raw == answer.raw
        first, second = await shop.heard(said.body["rrn"]), await shop.heard(unsaid.body["rrn"])
        assert [each["0"] for each in first] == ["0220", *["0221"] * (len(first) - 1)] and len(first) > 1
        assert {(each["11"], each["7"]) for each in first} == {(first[0]["11"], first[0]["7"])}, "a repeat is the same message"
        assert [each["0"] for each in second] == ["0220"]
        booked = [line["net"] for line in await stub_book(shop.control) if line["kind"] == "decision" and line.get("net")]
        assert sorted(net for net in booked if net != DEMO_SALE) == [2100, 2200], "each moves money once"
        told = json.loads(stand_in(home, "off", ACQUIRER, "--reason", "Over", "--by", "Tester").splitlines()[-1])
        assert told["state"] == "off" and '"state": "off"' in stand_in(home, "list", ACQUIRER)
        done = run(home, "cutover", "run", ACQUIRER, f"{datetime.now(UTC):%Y-%m-%d}")
        assert done.code == 0, done.out + done.err
        (settled,) = (await shop.operator("GET", "/v1/settlements"))["items"]
        assert (settled["sales_count"], settled["sales"]) == (len(booked), sum(booked)), settled
