"""The directory: loaded whole, kept fresh from the change log, and honest about being stale."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import database
from switch.alike import Alike, ApiKey, Keys, Numbers
from switch.directory import KINDS, ROWS, STALE_AFTER_S, Directory
from switch.records import Acquirer, BinRange, Line, Merchant, ReversalTerms, Route, Store, Terminal

DAY = date(2026, 11, 23)
NUMBERS = ("T0000001", "M00000000000001")


@dataclass
class House:
    """One of everything, by its id."""

    organisation: UUID = field(default_factory=uuid4)
    merchant: UUID = field(default_factory=uuid4)
    store: UUID = field(default_factory=uuid4)
    terminal: UUID = field(default_factory=uuid4)
    acquirer: UUID = field(default_factory=uuid4)
    route: UUID = field(default_factory=uuid4)

    @property
    def name(self) -> str:
        return f"bank-{self.acquirer.hex[:8]}"

    @property
    def key(self) -> str:
        return f"key{self.terminal.hex[:8]}"


async def add_acquirer(owner: asyncpg.Connection, house: House, dialect: str = "iso87_ascii") -> None:
    async with owner.transaction():
        await rows.insert(owner, "acquirer", acquirer_id=house.acquirer, name=house.name, dialect=dialect, message_mode="dual",
                          institution_code="6212", time_zone="Asia/Shanghai", answer_timeout_ms=3000, reversal_grace_ms=500, max_in_flight=9)
        await rows.insert(owner, "business_day", acquirer_id=house.acquirer, business_date=DAY)


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def house(owner: asyncpg.Connection) -> House:
    made = House()
    await rows.insert(owner, "organisation", organisation_id=made.organisation, name="Chain")
    await rows.insert(owner, "merchant", merchant_id=made.merchant, organisation_id=made.organisation, name="Shop", mcc="5411", time_zone="Asia/Tokyo")
    await rows.insert(owner, "store", merchant_id=made.merchant, store_id=made.store, name="Corner", city="Wien", country="AT",
                      time_zone="Europe/Vienna")
    await rows.insert(owner, "terminal", merchant_id=made.merchant, store_id=made.store, terminal_id=made.terminal, name="till")
    await add_acquirer(owner, made)
    await rows.insert(owner, "acquirer_line", acquirer_id=made.acquirer, line_id=UUID(int=1), host="127.0.0.1", port=5001)
    await rows.insert(owner, "acquirer_terminal", merchant_id=made.merchant, acquirer_id=made.acquirer, terminal_id=made.terminal,
                      card_acceptor_terminal=NUMBERS[0], card_acceptor=NUMBERS[1])
    await rows.insert(owner, "route", route_id=made.route, acquirer_id=made.acquirer, merchant_id=made.merchant, brand="visa", priority=5)
    await rows.insert(owner, "api_key", key_id=made.key, role="terminal", merchant_id=made.merchant, terminal_id=made.terminal,
                      secret_digest=bytes(32))
    return made


class Reader:
    """Connects like the switch does; may be told to refuse, and keeps its connections for the test to cut."""

    def __init__(self, url: str) -> None:
        self.url, self.refusing, self.made = url, False, []  # type: ignore[var-annotated]

    async def connect(self) -> asyncpg.Connection:
        if self.refusing:
            raise ConnectionRefusedError
        self.made.append(await database.connect(self.url, "switch_reader"))
        return self.made[-1]


@asynccontextmanager
async def following(url: str) -> AsyncIterator[tuple[Directory, Reader]]:
    directory, reader = Directory(), Reader(url)
    await directory.load(await reader.connect())
    await reader.made.pop().close()
    task = asyncio.create_task(directory.follow(reader.connect))
    while not reader.made:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    yield directory, reader
    task.cancel()
    await asyncio.wait([task])
    assert reader.made[-1].is_closed()


async def seen(condition: Callable[[], bool], within_s: float) -> float:
    """How long it took until the condition held."""
    begun = time.monotonic()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - begun


async def loaded(owner: asyncpg.Connection) -> Directory:
    directory = Directory()
    await directory.load(owner)
    return directory


async def test_every_record_is_loaded_as_it_stands(owner: asyncpg.Connection, house: House) -> None:
    directory = await loaded(owner)
    assert directory.merchants[house.merchant] == Merchant(house.merchant, house.organisation, "Shop", "active", "5411", ZoneInfo("Asia/Tokyo"), "warn")
    assert directory.stores[house.store] == Store(house.store, house.merchant, "Corner", "Wien", "AT", ZoneInfo("Europe/Vienna"))
    assert directory.terminals[house.terminal] == Terminal(house.terminal, house.merchant, house.store, "active", (house.acquirer, *NUMBERS))
    acquirer = directory.acquirers[house.acquirer]
    assert acquirer.dialect.name == "iso87_ascii"
    assert acquirer._replace(dialect=acquirer.dialect) == Acquirer(
        house.acquirer, house.name, acquirer.dialect, "dual", "active", "6212", ZoneInfo("Asia/Shanghai"), 3.0, 0.5, 9, (Line(UUID(int=1), "127.0.0.1", 5001),), DAY,
        ReversalTerms(dict(acquirer.dialect.reversal_codes), 259_200.0, 1000, 200, False), reroute_codes=frozenset({"91", "92"}))
    route = directory.routes[house.route]
    assert route.activated_at is not None, "it holds since it was added"
    assert route == Route(house.route, house.acquirer, house.merchant, "visa", 5, activated_at=route.activated_at)
    assert directory.routes[house.route] in directory.ordered_routes
    assert directory.keys.find(house.key) == ApiKey(house.key, "terminal", house.merchant, house.terminal, None, bytes(32), None)
    assert directory.version == await owner.fetchval("SELECT max(version) FROM directory_change")


async def test_a_terminal_without_numbers_has_none(owner: asyncpg.Connection, house: House) -> None:
    other = uuid4()
    await rows.insert(owner, "terminal", merchant_id=house.merchant, store_id=house.store, terminal_id=other, name="new")
    assert (await loaded(owner)).terminals[other].numbers == {}


@pytest.mark.parametrize(("expires", "revoked", "ends"), [
    (None, None, None), (100, None, 100.0), (None, 50, 50.0), (100, 50, 50.0), (50, 100, 50.0),
])
async def test_a_key_ends_when_it_expires_or_is_revoked(
        owner: asyncpg.Connection, house: House, expires: int | None, revoked: int | None, ends: float | None) -> None:
    def at(second: int | None) -> datetime | None:
        return None if second is None else datetime.fromtimestamp(second, UTC)

    await owner.execute("UPDATE api_key SET expires_at = $2, revoked_at = $3 WHERE key_id = $1", house.key, at(expires), at(revoked))
    assert (await loaded(owner)).keys.find(house.key).ends_at == ends


# Changes.


async def test_a_change_is_seen_at_once_because_notify_wakes(database_url: str, owner: asyncpg.Connection, house: House) -> None:
    async with following(database_url) as (directory, _):
        for status in ("suspended", "active", "closed"):
            before = directory.merchants[house.merchant]
            await owner.execute("UPDATE merchant SET status = $2 WHERE merchant_id = $1", house.merchant, status)
            took = await seen(lambda status=status: directory.merchants[house.merchant].status == status, 2)  # type: ignore[misc]
            assert took < 0.6
            assert before.status != status, "who holds a record keeps what it read"


async def test_a_change_is_seen_within_the_poll_without_any_notify(database_url: str, owner: asyncpg.Connection, house: House) -> None:
    async with following(database_url) as (directory, reader):
        await reader.made[-1].execute("UNLISTEN *")
        await owner.execute("UPDATE terminal SET status = 'suspended' WHERE terminal_id = $1", house.terminal)
        assert await seen(lambda: directory.terminals[house.terminal].status == "suspended", 3) < 1.5


DEPENDENT: dict[str, tuple[str, Callable[[Directory, House], bool]]] = {
    "a new business day": (
        "INSERT INTO business_day (acquirer_id, business_date) VALUES ('{acquirer}', '2026-11-24')",
        lambda directory, house: directory.acquirers[house.acquirer].business_date == date(2026, 11, 24)),
    "a new line": (
        "INSERT INTO acquirer_line VALUES ('{acquirer}', '00000000-0000-0000-0000-000000000002', 'bank.example', 5002)",
        lambda directory, house: [line[1:3] for line in directory.acquirers[house.acquirer].lines] == [("127.0.0.1", 5001), ("bank.example", 5002)]),
    "a line that moved": (
        "UPDATE acquirer_line SET port = 5999 WHERE acquirer_id = '{acquirer}'",
        lambda directory, house: [line[1:3] for line in directory.acquirers[house.acquirer].lines] == [("127.0.0.1", 5999)]),
    "a terminal's number": (
        "UPDATE acquirer_terminal SET card_acceptor_terminal = 'T0000002' WHERE terminal_id = '{terminal}'",
        lambda directory, house: directory.terminals[house.terminal].numbers[house.acquirer][0] == "T0000002"),
    "a route": (
        "UPDATE route SET state = 'retired', retired_by = 'Li Wei', retired_at = now() WHERE route_id = '{route}'",
        lambda directory, house: house.route not in [route.route_id for route in directory.ordered_routes]),
    "a key": (
        "UPDATE api_key SET revoked_at = 'epoch' WHERE merchant_id = '{merchant}'",
        lambda directory, house: directory.keys.find(house.key).ends_at == 0.0),
}


@pytest.mark.parametrize("change", DEPENDENT)
async def test_a_change_reloads_the_record_that_carries_it(owner: asyncpg.Connection, house: House, change: str) -> None:
    statement, visible = DEPENDENT[change]
    directory = await loaded(owner)
    directory.chosen[house.terminal, "visa"] = []
    assert not visible(directory, house)
    await owner.execute(statement.format(**vars(house)))
    assert await directory.refresh(owner) == 1
    assert visible(directory, house)
    assert bool(directory.chosen) == (change == "a key"), "routing chooses anew, unless by what has not changed"
    assert await directory.refresh(owner) == 0


async def test_thousands_that_come_at_once_are_read_by_their_keys_whatever_was_planned_before(database_url: str, owner: asyncpg.Connection,
                                                                                             house: House) -> None:
    """What was planned while the tables were small would go through all of both tables for each of the terminals that came."""
    reader = await database.connect(database_url, "switch_reader", **database.FOLLOW_PLANS)
    await reader.execute(f"PREPARE changed (text[]) AS {KINDS['terminal'][0].replace('$1::text[]', '$1')}")
    for _ in range(6):  # the sixth time it may keep a plan
        assert len(await reader.fetch(f"EXECUTE changed ('{{{house.terminal}}}')")) == 1
    added = [uuid4() for _ in range(3000)]
    await owner.execute("""INSERT INTO terminal (merchant_id, store_id, terminal_id, name) SELECT $1, $2, t, 'x' FROM unnest($3::uuid[]) t""",
                        house.merchant, house.store, added)
    await owner.execute("""INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
        SELECT $1, $2, t, lpad(n::text, 8, '0'), $4 FROM unnest($3::uuid[]) WITH ORDINALITY AS u (t, n)""", house.merchant, house.acquirer, added, NUMBERS[1])
    plan = [row[0] for row in await reader.fetch(f"EXPLAIN EXECUTE changed ('{{{','.join(map(str, added[:1000]))}}}')")]
    await reader.close()
    assert not [line for line in plan if "Seq Scan" in line and ("acquirer_terminal" in line or "on terminal" in line)], plan


async def test_only_the_days_that_are_open_count(owner: asyncpg.Connection, house: House) -> None:
    directory = await loaded(owner)
    await owner.execute("INSERT INTO business_day VALUES ($1, '2026-11-25', 'closed')", house.acquirer)
    await directory.refresh(owner)
    assert directory.acquirers[house.acquirer].business_date == DAY


async def test_more_changes_than_one_reading_takes_all_arrive(owner: asyncpg.Connection, house: House) -> None:
    directory = await loaded(owner)
    async with owner.transaction():
        await owner.executemany("UPDATE merchant SET name = $2 WHERE merchant_id = $1", [(house.merchant, f"Shop {n}") for n in range(2100)])
    assert await directory.refresh(owner) == 2100
    assert directory.merchants[house.merchant].name == "Shop 2099"


async def test_a_change_while_loading_is_not_missed(database_url: str, owner: asyncpg.Connection, house: House) -> None:
    """A change that commits between the reading of the version and of the records, or after: the next refresh has it."""
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE merchant SET name = 'Later' WHERE merchant_id = $1", house.merchant)
    directory = await loaded(owner)
    assert directory.merchants[house.merchant].name == "Shop"
    await transaction.commit()
    await directory.refresh(owner)
    assert directory.merchants[house.merchant].name == "Later"
    await other.close()


async def test_versions_come_in_the_order_of_commits(database_url: str, owner: asyncpg.Connection, house: House) -> None:
    """Two writers: the second may not get a later version and commit first, or a reader would skip the other's change."""
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE merchant SET name = 'First' WHERE merchant_id = $1", house.merchant)
    second = asyncio.create_task(owner.execute("UPDATE store SET name = 'Second' WHERE store_id = $1", house.store))
    done, _ = await asyncio.wait([second], timeout=0.2)
    assert not done, "the second writer waits for the first"
    await transaction.commit()
    await second
    kinds = [row[0] for row in await owner.fetch("SELECT kind FROM directory_change ORDER BY version DESC LIMIT 2")]
    assert kinds == ["store", "merchant"]
    await other.close()


async def test_each_acquirer_that_is_read_is_announced(owner: asyncpg.Connection, house: House) -> None:
    announced: list[tuple[UUID, int]] = []

    async def hear(acquirer: Acquirer) -> bool:
        announced.append((acquirer.acquirer_id, acquirer.max_in_flight))
        return acquirer.max_in_flight < 11

    directory = Directory()
    directory.on_acquirer = hear
    await directory.load(owner)
    assert (house.acquirer, 9) in announced
    announced.clear()
    await owner.execute("UPDATE acquirer SET max_in_flight = 10 WHERE acquirer_id = $1", house.acquirer)
    await directory.refresh(owner)
    assert announced == [(house.acquirer, 10)]
    await owner.execute("UPDATE acquirer SET max_in_flight = 11 WHERE acquirer_id = $1", house.acquirer)
    await directory.refresh(owner)
    assert directory.acquirers[house.acquirer].max_in_flight == 10, "one that is not to be used leaves the old record in its place"


@pytest.mark.parametrize("broken", ["an unknown dialect", "an unknown zone", "no zone at all"])
async def test_one_record_that_this_release_cannot_read_does_not_stop_the_others(owner: asyncpg.Connection, house: House, broken: str) -> None:
    directory, other = await loaded(owner), House()
    if "dialect" in broken:
        await add_acquirer(owner, other, "dialect_of_the_next_release")
    else:
        await owner.execute("UPDATE store SET time_zone = $2 WHERE store_id = $1", house.store, "Mars/Phobos" if "unknown" in broken else "../etc")
    await owner.execute("UPDATE merchant SET name = 'Renamed' WHERE merchant_id = $1", house.merchant)
    try:
        await directory.refresh(owner)
        assert directory.merchants[house.merchant].name == "Renamed"
        assert other.acquirer not in directory.acquirers
        assert directory.stores[house.store].zone == ZoneInfo("Europe/Vienna"), "the record as it was"
        assert (await loaded(owner)).merchants[house.merchant].name == "Renamed"
    finally:
        await owner.execute("UPDATE store SET time_zone = 'Europe/Vienna' WHERE store_id = $1", house.store)
        await owner.execute("UPDATE acquirer SET dialect = 'iso87_ascii' WHERE acquirer_id = $1", other.acquirer)


async def test_who_asks_is_told_when_what_is_committed_is_in_force(database_url: str, owner: asyncpg.Connection, house: House,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = Directory.refresh

    async def slowly(self: Directory, connection: asyncpg.Connection) -> int:
        await asyncio.sleep(0.2)
        return await refresh(self, connection)

    async with following(database_url) as (directory, _):
        monkeypatch.setattr(Directory, "refresh", slowly)
        for status in ("suspended", "active"):
            await owner.execute("UPDATE merchant SET status = $2 WHERE merchant_id = $1", house.merchant, status)
            await asyncio.gather(*(directory.caught_up() for _ in range(3)))
            assert directory.merchants[house.merchant].status == status
        assert not directory.waiting


async def test_who_asks_is_not_kept_for_ever_when_the_log_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switch.directory.STALE_AFTER_S", 0.1)
    directory = Directory()
    await asyncio.wait_for(directory.caught_up(), 5)
    assert not directory.waiting


# Staleness.


async def test_a_log_that_cannot_be_read_makes_the_records_stale_after_three_seconds(database_url: str, owner: asyncpg.Connection, house: House) -> None:
    async with following(database_url) as (directory, reader):
        reader.refusing = True
        pid = reader.made[-1].get_server_pid()
        await owner.execute("SELECT pg_terminate_backend($1)", pid)
        await asyncio.sleep(0.1)
        confirmed_at = directory.confirmed_at
        await asyncio.sleep(1.3)
        assert directory.confirmed_at == confirmed_at, "a failed reading confirms nothing"
        assert directory.fresh(confirmed_at + STALE_AFTER_S - 0.01)
        assert not directory.fresh(confirmed_at + STALE_AFTER_S)
        assert STALE_AFTER_S == 3.0
        await owner.execute("UPDATE merchant SET name = 'Meanwhile' WHERE merchant_id = $1", house.merchant)
        reader.refusing = False
        await seen(lambda: directory.merchants[house.merchant].name == "Meanwhile", 3)
        assert directory.fresh(time.monotonic())
        await owner.execute("UPDATE merchant SET name = 'After' WHERE merchant_id = $1", house.merchant)
        assert await seen(lambda: directory.merchants[house.merchant].name == "After", 3) < 0.6, "it listens again"


def test_what_was_never_loaded_is_not_fresh() -> None:
    assert not Directory().fresh(0.0)
    assert not Directory().fresh(time.monotonic())


async def test_a_quiet_log_keeps_the_records_fresh(owner: asyncpg.Connection) -> None:
    directory = await loaded(owner)
    directory.confirmed_at -= 10
    assert not directory.fresh(time.monotonic())
    await directory.refresh(owner)
    assert directory.fresh(time.monotonic())


# BIN ranges.

RANGES = (("400000", "499999", "visa"), ("41111111", "41111111", "house"), ("510000", "559999", "mastercard"), ("62000000", "62999999", "unionpay"),
          ("621234567890", "621234567899", "staff"), ("340000", "349999", "amex"))


@pytest.mark.parametrize(("prefix", "brand"), [
    ("400000000000", "visa"), ("499999999999", "visa"), ("411111110000", "visa-or-house"), ("411111100000", "visa"), ("411111120000", "visa"),
    ("500000000000", None), ("510000000000", "mastercard"), ("559999999999", "mastercard"), ("560000000000", None), ("620000000000", "unionpay"),
    ("621234567889", "unionpay"), ("621234567890", "staff"), ("621234567899", "staff"), ("621234567900", "unionpay"), ("630000000000", None),
    ("343999999999", "amex"), ("399999999999", None), ("000000000000", None), ("999999999999", None),
])
async def test_the_longest_prefix_of_a_card_number_names_the_brand(owner: asyncpg.Connection, prefix: str, brand: str | None) -> None:
    directory = Directory()
    directory.bins = {low: BinRange(low, high, name, "unknown", (16,)) for low, high, name in RANGES}
    directory._reorder({"bin_range"})
    found = directory.brand(prefix)
    assert (found.brand if found else None) == (brand if brand != "visa-or-house" else "house")


async def test_a_new_range_is_used_at_once(owner: asyncpg.Connection) -> None:
    directory = await loaded(owner)
    await rows.insert(owner, "bin_range", low="22210000", high="27209999", brand="mastercard", card_type="credit", pan_lengths=[16])
    await directory.refresh(owner)
    assert directory.brand("223000000000") == BinRange("22210000", "27209999", "mastercard", "credit", (16,))


async def test_a_slow_loading_lets_others_run(owner: asyncpg.Connection) -> None:
    """Records are applied in slices of at most 5 ms."""
    organisation = uuid4()
    await rows.insert(owner, "organisation", organisation_id=organisation, name="Large")
    async with owner.transaction():
        await owner.execute("""INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone)
            SELECT gen_random_uuid(), $1, 'Shop', '5411', 'Asia/Shanghai' FROM generate_series(1, 5000)""", organisation)
    gaps, last = [], time.perf_counter()

    async def tick() -> None:
        nonlocal last
        while True:
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()
            await asyncio.sleep(0)

    ticker: Awaitable[None] = asyncio.ensure_future(tick())
    directory = await loaded(owner)
    ticker.cancel()  # type: ignore[attr-defined]
    assert sum(merchant.organisation_id == organisation for merchant in directory.merchants.values()) == 5000
    assert len(gaps) > 3
    assert timedelta(seconds=max(gaps)) < timedelta(seconds=0.5)


async def test_a_large_directory_is_read_in_slices(owner: asyncpg.Connection, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of ROWS records at most, whatever there is: a load never holds all rows of a table beside the records made of them."""
    taken, take = [], Directory._take

    async def counted(self: Directory, kind: str, found: list[asyncpg.Record]) -> None:
        taken.append(len(found))
        await take(self, kind, found)

    organisation = uuid4()
    await rows.insert(owner, "organisation", organisation_id=organisation, name="Larger")
    await owner.execute("""INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone)
        SELECT gen_random_uuid(), $1, 'Shop', '5411', 'Asia/Shanghai' FROM generate_series(1, $2::int)""", organisation, ROWS + 1)
    monkeypatch.setattr(Directory, "_take", counted)
    directory = await loaded(owner)
    assert max(taken) == ROWS and sum(taken) >= len(directory.merchants) > ROWS


def test_equal_ids_of_records_are_one_object() -> None:
    merchant = Merchant(UUID(int=1), UUID(int=2), "Shop", "active", "5411", ZoneInfo("Asia/Tokyo"), "warn")
    alike = Alike({merchant.merchant_id: merchant})
    assert alike.of(0, UUID(int=1)) is merchant.merchant_id
    assert alike.of(0, UUID(int=3)) == UUID(int=3)
    assert alike.few(UUID(int=5)) is alike.few(UUID(int=5))


def test_numbers_of_a_terminal_are_looked_up_by_acquirer() -> None:
    numbers = Numbers((UUID(int=1), "T1", "M1", UUID(int=2), "T2", "M2"))
    assert dict(numbers) == {UUID(int=1): ("T1", "M1"), UUID(int=2): ("T2", "M2")}
    assert UUID(int=2) in numbers and UUID(int=3) not in numbers and "T1" not in numbers and len(numbers) == 2
    with pytest.raises(KeyError):
        numbers[UUID(int=3)]


@pytest.mark.parametrize("key", [
    ApiKey("t1", "terminal", UUID(int=1), UUID(int=2), None, bytes(32), None), ApiKey("t2", "terminal", UUID(int=1), UUID(int=2), None, bytes(32), 5.0),
    ApiKey("m1", "merchant", UUID(int=1), None, None, bytes(32), None), ApiKey("o1", "operator", None, None, "Li Wei", bytes(32), None),
    ApiKey("a1", "applicant", None, None, None, bytes(32), None, UUID(int=9)),
])
def test_a_key_is_found_as_it_was_taken(key: ApiKey) -> None:
    keys = Keys({UUID(int=2): Terminal(UUID(int=2), UUID(int=1), UUID(int=3), "active", ())})
    keys[key.key_id] = key
    assert keys.find(key.key_id) == key
    assert keys.find("t9") is None


def test_the_key_of_a_terminal_that_is_not_known_yet_is_no_key() -> None:
    keys = Keys({})
    keys["t1"] = ApiKey("t1", "terminal", UUID(int=1), UUID(int=2), None, bytes(32), None)
    assert keys.find("t1") is None
