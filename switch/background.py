"""Background jobs: none dies silently, and none is forgotten while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from switch import logs, metrics

PULSE_S = 0.05
AGAIN_S = 1.0


async def supervised(job: Awaitable[None]) -> None:
    """What a job did not expect is logged with its place, and the process goes on."""
    try:
        await job
    except Exception as error:
        logs.error("job_failed", error=type(error).__name__, where=logs.place(error))


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels tasks until they have ended. Once may not be enough: who waits with a limit inside one may take a cancellation that comes together
    with what it waits for as a success (asyncio.wait_for of Python 3.11, in libraries too)."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)


class Background:
    """Jobs that somebody has begun and nobody waits for."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def later(self, job: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(supervised(job))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self) -> None:
        """Cancels what still runs, and waits for it."""
        await end(self.tasks)


async def pulse(late: Callable[[float], None]) -> None:
    """Measures by how many seconds the loop is late: what waits in it waits so long before it is even looked at."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PULSE_S
        await asyncio.sleep(PULSE_S)
        by = max(0.0, loop.time() - due)
        metrics.loop_late.observe(by)
        late(by)
