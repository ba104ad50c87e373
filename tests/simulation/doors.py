"""Local sockets between the workers of the machine: over them one hands requests to another that holds the line."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from switch.links.holder import Holder, Visit
from tests.simulation.loop import NODE, Node

if TYPE_CHECKING:
    from tests.simulation.world import World

LATENCY_S = 0.0002


class Pipe(asyncio.Transport):
    """One end of a connection. What is written arrives in order, at a worker that stands still when it goes on."""

    def __init__(self, world: "World", node: Node) -> None:
        super().__init__()
        self.world, self.node, self.closed = world, node, False
        self.protocol: Any = None
        self.peer: Pipe

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self.closed:
            return
        if self.world.faults.hit("handover_cut"):
            self.abort()
            return
        self.world.loop.call_later(LATENCY_S, self.peer._arrived, data, context=self.peer.node.context)

    def abort(self) -> None:
        for end in (self, self.peer):
            if not end.closed:
                end.closed = True
                self.world.pipes.pop(end, None)
                self.world.loop.call_soon(end.protocol.connection_lost, None, context=end.node.context)

    close = abort

    def _arrived(self, data: bytes) -> None:
        if not self.closed:
            self.protocol.data_received(data)


async def open_door(holder: Holder) -> None:
    """Instead of the holder's own: a name in the world's list."""
    node, doors = NODE.get(), world_of().doors
    assert node is not None
    if holder.server is None:
        doors[holder.path.name] = node, holder
        holder.server = SimpleNamespace(close=lambda: doors.pop(holder.path.name, None))  # type: ignore[assignment]
        holder.looking = asyncio.create_task(holder._look())


async def visit(world: "World", factory: Any, path: str) -> tuple[Pipe, Any]:
    node = NODE.get()
    assert node is not None
    await asyncio.sleep(LATENCY_S)
    host, holder = world.doors.get(Path(path).name, (None, None))
    if host is None or holder is None or not host.alive or world.faults.hit("handover_refused"):
        raise ConnectionRefusedError("nobody takes requests there")
    mine, theirs = Pipe(world, node), Pipe(world, host)
    mine.peer, theirs.peer = theirs, mine
    mine.protocol, theirs.protocol = factory(), Visit(holder)
    world.pipes |= {mine: None, theirs: None}
    world.loop.call_soon(theirs.protocol.connection_made, theirs, context=host.context)
    mine.protocol.connection_made(mine)
    return mine, mine.protocol


def world_of() -> "World":
    from tests.simulation.ground import Here  # noqa: PLC0415  the ground knows the doors

    return Here.world
