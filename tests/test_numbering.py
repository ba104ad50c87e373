"""STAN and RRN: from blocks that never overlap, past the wrap, without what is still open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import database
from switch.links.numbering import RRN_BLOCK, RRNS_READY, STAN_BLOCK, STANS_READY, Numbers, rrns, stans

DAY = date(2026, 11, 23)


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def acquirer(owner: asyncpg.Connection) -> UUID:
    acquirer_id = uuid4()
    await rows.insert(owner, "acquirer", acquirer_id=acquirer_id, name=f"bank-{acquirer_id.hex[:8]}", dialect="iso87_ascii", message_mode="single")
    return acquirer_id


@asynccontextmanager
async def working(url: str) -> AsyncIterator[Numbers]:
    numbers = Numbers(lambda: database.connect(url, "switch_writer"))
    task = asyncio.create_task(numbers.work())
    yield numbers
    task.cancel()
    await asyncio.wait([task])


async def at(owner: asyncpg.Connection, acquirer: UUID, name: str, following: int) -> None:
    await rows.insert(owner, "number_block", acquirer_id=acquirer, name=name, next=following)


# The pure part.


def test_the_stan_after_999999_is_000001() -> None:
    assert stans(999_998, 4) == ["999998", "999999", "000001", "000002"]
    assert stans(2 * 999_999, 2) == ["999999", "000001"]
    assert stans(1, 1) == ["000001"]


def test_no_stan_is_zero_and_each_comes_once_in_a_round() -> None:
    round_ = stans(123, 999_999)
    assert len(set(round_)) == 999_999
    assert "000000" not in round_
    assert {len(number) for number in round_} == {6}


@pytest.mark.parametrize(("day", "first", "numbers"), [
    (date(2026, 11, 23), 1, ["632700000001", "632700000002"]), (date(2026, 1, 1), 7, ["600100000007", "600100000008"]),
    (date(2028, 12, 31), 1, ["836600000001", "836600000002"]), (date(2030, 1, 9), 99_999_999, ["000999999999"]),
    (date(2026, 11, 23), 100_000_000, []), (date(2026, 11, 23), 100_000_001, []),
])
def test_an_rrn_is_the_last_digit_of_the_year_its_day_and_eight_digits(day: date, first: int, numbers: list[str]) -> None:
    assert rrns(day, first, 2) == numbers


# The blocks.


async def test_two_workers_never_get_the_same_numbers(database_url: str, acquirer: UUID) -> None:
    async def take(numbers: Numbers) -> list[tuple[str, str]]:
        taken = []
        for _ in range(2000):
            taken.append((await numbers.stan_soon(acquirer), await numbers.rrn_soon(acquirer, DAY)))
            if len(taken) % 100 == 0:
                await asyncio.sleep(0)
        return taken

    async with working(database_url) as first, working(database_url) as second, working(database_url) as third:
        taken = [pair for pairs in await asyncio.gather(take(first), take(second), take(third)) for pair in pairs]
    assert len({stan for stan, _ in taken}) == len({rrn for _, rrn in taken}) == 6000


async def test_what_is_ready_is_refilled_before_it_ends(database_url: str, acquirer: UUID) -> None:
    async with working(database_url) as numbers:
        await numbers.stan_soon(acquirer)
        await numbers.rrn_soon(acquirer, DAY)
        for _ in range(2 * STANS_READY // STAN_BLOCK):
            async with asyncio.timeout(5):
                while len(numbers.left[acquirer, None]) < STANS_READY - 1 or len(numbers.left[acquirer, DAY]) < RRNS_READY - 1:
                    await asyncio.sleep(0.005)
            for _ in range(STAN_BLOCK):
                assert numbers.stan(acquirer) is not None
                assert numbers.rrn(acquirer, DAY) is not None


async def test_at_the_wrap_the_numbers_of_what_is_open_are_skipped(owner: asyncpg.Connection, acquirer: UUID) -> None:
    await at(owner, acquirer, "stan", 999_800)
    numbers = Numbers(lambda: asyncio.sleep(0))  # type: ignore[arg-type]
    states = {"999900": "SENT", "000002": "SENT", "000003": "DECLINED", "000004": "SENT"}
    made = {}
    for stan, state in states.items():
        row = rows.transaction(stan=stan, acquirer_id=acquirer if stan != "000004" else uuid4())
        made[stan] = row
        await rows.insert(owner, "transaction", **{name: getattr(row, name) for name in NEEDED}, state="SENT")
        if state != "SENT":
            await owner.execute("UPDATE transaction SET state = 'DECLINED', outcome = 'DECLINED', version = 2 WHERE transaction_id = $1",
                                row.transaction_id)
    for stan, state in {"000005": "open", "000006": "done"}.items():
        closed = {"closed_at": row.received_at, "closed_by": "ack"} if state == "done" else {}
        of = made["999900"] if state == "open" else made["000003"]
        await rows.insert(owner, "duty", **(rows.duty(of)._asdict() | {"stan": stan, "state": state} | closed))
    assert await numbers.lease(owner, acquirer, None) == STAN_BLOCK - 3
    taken = [numbers.stan(acquirer) for _ in range(STAN_BLOCK - 3)]
    assert [stan for stan in stans(999_800, STAN_BLOCK) if stan not in taken] == ["999900", "000002", "000005"]
    assert taken[0] == "999800"
    assert taken[-1] == "000300"
    assert numbers.stan(acquirer) is None


NEEDED = (
    "merchant_id", "transaction_id", "type", "exchange", "store_id", "terminal_id", "caller", "idempotency_key", "acquirer_id", "business_date",
    "worker_epoch", "amount", "currency", "entry_mode", "masked_pan", "card_last4", "brand", "pan_token", "pan_token_key", "pan_sealed", "pan_key",
    "pan_sealed_on", "mti", "processing_code", "stan", "transmitted_at", "local_time", "local_date", "pos_entry_mode", "pos_condition", "rrn",
    "card_acceptor_terminal", "card_acceptor", "mcc", "match_key", "received_at", "send_not_after", "respond_by", "request_message",
)


async def test_in_later_rounds_too_what_is_open_is_skipped(owner: asyncpg.Connection, acquirer: UUID) -> None:
    await at(owner, acquirer, "stan", 999_999 * 3 + 1001)
    row = rows.transaction(stan="001234", acquirer_id=acquirer)
    await rows.insert(owner, "transaction", **{name: getattr(row, name) for name in NEEDED}, state="SENT")
    numbers = Numbers(lambda: asyncio.sleep(0))  # type: ignore[arg-type]
    assert await numbers.lease(owner, acquirer, None) == STAN_BLOCK - 1
    assert "001234" not in numbers.left[acquirer, None]


async def test_before_the_first_block_there_is_no_number(acquirer: UUID) -> None:
    numbers = Numbers(lambda: asyncio.sleep(0))  # type: ignore[arg-type]
    assert numbers.stan(acquirer) is None
    assert numbers.rrn(acquirer, DAY) is None


async def test_a_day_whose_numbers_are_used_up_has_none_and_the_others_go_on(
        database_url: str, owner: asyncpg.Connection, acquirer: UUID) -> None:
    await at(owner, acquirer, f"rrn:{DAY}", 99_999_999)
    async with working(database_url) as numbers:
        assert await numbers.rrn_soon(acquirer, DAY) == "632799999999"
        for _ in range(3):
            assert numbers.rrn(acquirer, DAY) is None
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert await numbers.stan_soon(acquirer) == "000001"
            assert await numbers.rrn_soon(acquirer, date(2026, 11, 24)) == "632800000001"


async def test_the_blocks_of_yesterday_stay_for_what_still_asks_and_older_ones_go(owner: asyncpg.Connection, acquirer: UUID) -> None:
    numbers, tomorrow = Numbers(lambda: asyncio.sleep(0)), date(2026, 11, 24)  # type: ignore[arg-type]
    await numbers.lease(owner, acquirer, None)
    for day in (date(2026, 11, 22), DAY):
        await numbers.lease(owner, acquirer, day)
    assert await numbers.lease(owner, acquirer, tomorrow) == RRN_BLOCK
    assert set(numbers.left) == {(acquirer, None), (acquirer, DAY), (acquirer, tomorrow)}


async def test_a_database_that_was_away_is_asked_again(database_url: str, acquirer: UUID) -> None:
    attempts = 0

    async def connect() -> database.Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionRefusedError
        return await database.connect(database_url, "switch_writer")

    numbers = Numbers(connect)
    task = asyncio.create_task(numbers.work())
    async with asyncio.timeout(5):
        assert await numbers.stan_soon(acquirer) == "000001"
    assert attempts == 2
    task.cancel()
    await asyncio.wait([task])


async def test_numbers_that_cannot_be_leased_do_not_keep_the_others_waiting(database_url: str, acquirer: UUID) -> None:
    async with working(database_url) as numbers:
        assert numbers.stan(uuid4()) is None  # of an acquirer that does not exist
        async with asyncio.timeout(5):
            assert await numbers.stan_soon(acquirer) == "000001"
