"""The drain of the desk: it waits for what came before it and for what that leaves behind, never for what it refuses."""

import asyncio

from switch.payments.desk import Desk


def desk() -> Desk:
    return Desk(history=None)  # type: ignore[arg-type]  # no key is looked up here


async def test_who_comes_during_the_drain_is_not_waited_for() -> None:
    """However many come: one of them is always on its way."""
    at, ran = desk(), list[int]()

    async def request(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0.02)

    async def crowd() -> None:
        for number in range(1, 100):
            at.begin(request(number))
            await asyncio.sleep(0.001)

    at.begin(request(0))
    coming = asyncio.create_task(crowd())
    assert await at.drain(5.0) == 0
    assert not coming.done() and 0 in ran and at.refused
    coming.cancel()
    await asyncio.gather(*at.refused)


async def test_what_a_walk_leaves_behind_is_waited_for() -> None:
    at, settled = desk(), asyncio.Event()

    async def doubt() -> None:
        await asyncio.sleep(0.05)
        settled.set()

    async def walk() -> None:
        await asyncio.sleep(0.02)
        at.keep(asyncio.create_task(doubt()))

    at.begin(walk())
    assert await at.drain(5.0) == 0 and settled.is_set()


async def test_a_drain_is_bounded_and_says_what_is_left() -> None:
    at, forever = desk(), asyncio.Event()

    async def walk() -> None:
        await forever.wait()

    at.begin(walk())
    assert await at.drain(0.05) == 1
    forever.set()
    assert await at.drain(5.0) == 0
