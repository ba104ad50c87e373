"""An event loop in virtual time. Every handle belongs to a node through its context: a dead node's handles vanish, a paused node's wait."""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any


class Node:
    """A process of the simulated world. `wall` is how far its wall clock is off, in seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive, self.paused, self.wall = True, False, 0.0
        self.held: list[Handle] = []  # what became due while it was paused
        self.tasks: list[asyncio.Task[Any]] = []
        self.own: dict[str, Any] = {}  # what is one per process
        self.context = copy_context()
        self.context.run(NODE.set, self)


NODE: ContextVar[Node | None] = ContextVar("node", default=None)


class Handle(list[Any]):
    """What asyncio needs of a handle, and no more: callback (None: cancelled), arguments, context, instant. A list, which is made without a call."""

    __slots__ = ()

    def cancel(self) -> None:
        self[0] = None

    def cancelled(self) -> bool:
        return self[0] is None

    def when(self) -> float:
        return float(self[3])


class VirtualLoop(asyncio.AbstractEventLoop):
    """First in, first out within an instant; time jumps to the next timer. `hooks` see each handle before it runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stop = False
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._serial = 0
        self.faults: list[BaseException] = []

    # what asyncio's own classes ask for

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        node = (context or copy_context()).get(NODE)
        if node is not None:
            node.tasks.append(task)  # kept, so that a dead node's coroutines are not closed by the collector at some later moment
        return task

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        handle = Handle((callback, args, copy_context() if context is None else context, self.now))
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        when = max(when, self.now)
        handle = Handle((callback, args, copy_context() if context is None else context, when))
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        when = self.now + delay if delay > 0 else self.now
        handle = Handle((callback, args, copy_context() if context is None else context, when))
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.faults.append(error if error is not None else RuntimeError(context.get("message", "?")))
        self.stop = True

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> Any:  # type: ignore[override]
        return await self.dial(factory, host, port)

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> Any:  # type: ignore[override]
        return await self.visit(factory, path)

    async def dial(self, factory: Callable[[], Any], host: str, port: int) -> Any:
        raise OSError("no network")

    async def visit(self, factory: Callable[[], Any], path: str) -> Any:
        raise OSError("no other process")

    # running

    def run_until(self, limit: float) -> None:
        """Runs handles until `stop` is set or virtual time is `limit`. Raises what a handle of the world itself raised."""
        ready, timers, pop = self._ready, self._timers, heapq.heappop
        self.stop = False
        events._set_running_loop(self)
        try:
            while True:
                if ready:
                    handle = ready.popleft()
                elif self.stop:
                    return
                elif timers and timers[0][0] <= limit:
                    when, _, handle = pop(timers)  # whatever else is due at this instant comes after what this one makes ready
                    if handle[0] is not None:
                        self.now = when
                else:
                    self.now = max(self.now, limit)
                    return
                callback, args, context, _ = handle
                if callback is None:
                    continue
                node = context.get(NODE)
                if node is not None and (node.paused or not node.alive):
                    if node.alive:
                        node.held.append(handle)
                    continue
                try:
                    context.run(callback, *args)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    self.stop = True
                    if node is None:
                        raise
                    self.faults.append(error)
        finally:
            events._set_running_loop(None)

    def resume(self, node: Node) -> None:
        node.paused = False
        held, node.held = node.held, []
        self._ready.extend(held)

    def kill(self, node: Node) -> None:
        node.alive, node.held = False, []
        for task in node.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
