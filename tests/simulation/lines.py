"""The lines to the acquirers: TCP that cuts, and a frame-aware middle that loses, delays, doubles, reorders and spoils frames."""

import asyncio
from typing import TYPE_CHECKING, Any

from messages.codec import decode, encode
from messages.framing import frame
from tests.simulation.loop import NODE, Node

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.world import World

LATENCY = (0.001, 0.015)
DELAY_MAX = 3.0  # towards the host: below the reversal's grace, else no switch could keep an original from arriving after its reversal
STRAY = {"4": "000000000001", "37": "632700099999", "41": "T9999999", "11": "009999", "49": "978", "7": "1201000000", "39": "  "}


class Wire:
    """A socket that takes every option."""

    def setsockopt(self, *_: Any) -> None:
        pass


class Line(asyncio.Transport):
    """One connection between a worker and a host: the worker's transport, and the host's way back."""

    def __init__(self, world: "World", host: "Host", protocol: Any, node: Node) -> None:
        super().__init__()
        self.world, self.host, self.protocol, self.node = world, host, protocol, node
        self.closed = self.half_open = False
        self.signed_on = False
        self.out_until = self.in_until = 0.0  # frames keep their order unless a fault says otherwise

    # what the worker's protocol uses

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return Wire() if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:  # type: ignore[override]
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at:at + 2], "big")
            self._written(data[at + 2:at + 2 + length])
            at += 2 + length

    def abort(self) -> None:
        self.cut()

    def close(self) -> None:
        self.cut()

    # what the world does to it

    def cut(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.host.lines.pop(self, None)
        self.world.loop.call_soon(self.protocol.connection_lost, None, context=self.node.context)

    def _written(self, payload: bytes) -> None:
        world, faults = self.world, self.world.faults
        message = decode(self.host.dialect, payload)
        world.checkers.written(self, message)
        if self.closed or self.half_open:
            return
        if faults.hit("line_half_open"):
            self.half_open = True
            return
        if faults.hit("line_cut"):
            world.later(world.chance.uniform(*LATENCY), self.cut)
        if faults.hit("line_loss"):
            return
        self._towards_host(message)
        if faults.hit("line_duplicate"):
            self._towards_host(message)

    def _towards_host(self, message: dict[str, str]) -> None:
        at = self._arrival("out_until")
        self.world.later(at - self.world.loop.now, self.host.receive, self, message)

    def _arrival(self, order: str) -> float:
        world, faults = self.world, self.world.faults
        at = world.loop.now + world.chance.uniform(*LATENCY)
        if faults.hit("line_reorder"):
            return at + world.chance.uniform(0, 0.5)
        if faults.hit("line_delay"):
            at += world.chance.uniform(0.1, DELAY_MAX)
        at = max(at, getattr(self, order))
        setattr(self, order, at)
        return at

    def send(self, message: dict[str, str]) -> None:
        """From the host to the worker."""
        faults, chance = self.world.faults, self.world.chance
        if self.closed or self.half_open:
            return
        if faults.hit("line_loss"):
            return
        for _ in range(1 + faults.hit("line_duplicate")):
            data, spoilt = dict(message), False
            if faults.hit("line_corrupt"):
                spoiled = [number for number in STRAY if number in data and (number != "4" or data["39"] != "10")]  # a part of it may be right
                number = chance.choice(spoiled)
                data[number], spoilt = STRAY[number], True
            payload = encode(self.host.dialect, data)
            if faults.hit("line_garbage"):
                spoilt = True
                payload = bytes(chance.randrange(256) for _ in range(40))
            at = self._arrival("in_until")
            self.world.loop.call_later(at - self.world.loop.now, self._arrived, frame(self.host.dialect.framing, payload),
                                       None if spoilt else message, context=self.node.context)

    def _arrived(self, data: bytes, meant: dict[str, str] | None) -> None:
        if not self.closed and not self.half_open:
            if meant is not None:
                self.world.checkers.heard(self.host, meant)
                if meant["0"][1] == "4" and self.world.faults.hit("cut_off_at_answer"):  # acknowledged, and it cannot be written down
                    self.world.cut_off(self.node, self.world.chance.uniform(4, 14))
            self.protocol.data_received(data)


async def dial(world: "World", factory: Any, host: str, port: int) -> tuple[Line, Any]:
    node = NODE.get()
    assert node is not None
    await asyncio.sleep(world.chance.uniform(0.001, 0.01))
    found = world.hosts[port]
    if found.down or world.faults.hit("line_refused"):
        raise ConnectionRefusedError(f"{host} refuses")
    protocol = factory()
    line = Line(world, found, protocol, node)
    found.lines[line] = None
    protocol.connection_made(line)
    return line, protocol


