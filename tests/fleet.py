"""Devices for tests: a till of their own, and a device brought to a state over the API."""

from typing import Any

from tests.flows import Shop, eventually
from tests.processes import Answer

COUNT = iter(range(1, 100_000))
PATH = {"inventory": (), "ordered": ("order",), "shipped": ("order", "ship"), "installed": ("order", "ship", "install"),
        "activated": ("order", "ship", "install", "activate"), "live": ("order", "ship", "install", "activate", "go_live"),
        "maintenance": ("order", "ship", "install", "activate", "go_live", "maintain")}


def new_serial() -> str:
    return f"PX7-{next(COUNT):08d}"


async def new_till(shop: Shop, store: str = "first") -> str:
    """A till with numbers at every acquirer."""
    answer = await shop.ask("POST", "/v1/terminals", {"store": shop.shown(f"store.{store}"), "name": f"Till {next(COUNT)}"}, "operator")
    assert answer.status == 201, answer.raw
    await shop.caught_up()
    return str(answer.body["id"])


class Device:
    """One device as its operator sees it; `key` once it is activated."""

    def __init__(self, shop: Shop, till: str, store: str = "first", model: str = "PX7") -> None:
        self.shop, self.till, self.store, self.model = shop, till, store, model
        self.serial, self.id, self.key = new_serial(), "", ""

    async def register(self) -> "Device":
        answer = await self.shop.ask("POST", "/v1/devices", {"serial_number": self.serial, "model": self.model, "reason": "bought"}, "operator")
        assert answer.status == 201, answer.raw
        self.id = answer.body["id"]
        return self

    async def tried(self, event: str, person: str = "operator", **more: Any) -> Answer:
        more = {"reason": "as agreed"} | ({"store": self.shop.shown(f"store.{self.store}")} if event == "order" else {}) | \
            ({"terminal": self.till} if event == "install" else {}) | more
        return await self.shop.ask("POST", f"/v1/devices/{self.id}/moves", {"event": event, **more}, person)

    async def move(self, event: str, **more: Any) -> Any:
        answer = await self.tried(event, **more)
        assert answer.status == 200, answer.raw
        return answer.body

    async def code(self) -> str:
        answer = await self.shop.ask("POST", f"/v1/devices/{self.id}/activation-codes", {}, "operator")
        assert answer.status == 201, answer.raw
        return str(answer.body["code"])

    async def activate(self, code: str | None = None) -> Answer:
        answer = await self.shop.ask("POST", "/v1/activations", {"serial_number": self.serial, "code": code or await self.code()}, "nobody")
        if answer.status == 201:
            self.key = answer.body["key"]
            await self.shop.caught_up()
        return answer

    async def be(self, state: str) -> "Device":
        if not self.id:
            await self.register()
        for event in PATH[state]:
            if event == "activate":
                assert (await self.activate()).status == 201
            else:
                await self.move(event)
        await self.shop.caught_up()
        return self

    async def now(self, person: str = "operator") -> Any:
        answer = await self.shop.ask("GET", f"/v1/devices/{self.id}", key=person)
        assert answer.status == 200, answer.raw
        return answer.body

    async def events(self) -> list[Any]:
        return list(reversed((await self.shop.ask("GET", f"/v1/devices/{self.id}/events", key="operator")).body["items"]))

    async def beat(self, **health: Any) -> Answer:
        body = {"serial_number": self.serial, "software_version": "4.2.0"} | health
        return await self.shop.ask("POST", f"/v1/terminals/{self.till}/heartbeats", body, self.key)

    async def sells(self) -> bool:
        answer = await self.shop.pay(5000, key=self.key)
        assert answer.status in (201, 401, 403), answer.raw
        return answer.status == 201

    async def until_it_sells(self, wanted: bool, seconds: float = 2.0) -> None:
        async def reached() -> bool:
            return await self.sells() is wanted

        await eventually(reached, f"{self.serial} does not {'sell' if wanted else 'stop selling'}", seconds)


async def device(shop: Shop, state: str = "live", store: str = "first", model: str = "PX7") -> Device:
    return await Device(shop, await new_till(shop, store), store, model).be(state)
