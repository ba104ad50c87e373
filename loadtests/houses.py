"""A directory of any size written by a few statements: merchants, their stores, terminals, numbers and keys, in field sizes as they are in life.

| field | in the load | limit |
|---|---|---|
| merchant's name | 24 to 31 characters, all different | 120 |
| store's name, city | 26 to 33 and 6 characters | 120, 40 |
| terminal's name | 18 to 25 characters, all different | 120 |
| MCC, time zone | 40 codes, 3 zones | |
| numbers | one acquirer knows every terminal, a second every fifth; DE42 is the merchant's | 8 and 15 |
| keys | one per terminal, one per merchant | |
"""
import asyncpg

ACQUIRER, SECOND = "00000000-0000-7000-8000-000000000002", "00000000-0000-7000-8000-000000000003"
DAY = "2026-11-26"
TABLES = ("organisation", "merchant", "store", "terminal", "acquirer_terminal", "api_key")
FUNCTIONS = (
    """CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT ('0000000' || kind || '-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid $$""",
)
# $1 merchants, $2 terminals of each.
HOUSES = (
    "INSERT INTO organisation (organisation_id, name) SELECT pg_temp.id('1', n), 'Group of companies ' || n FROM generate_series(0, $1::int / 100) n",
    """INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone)
    SELECT pg_temp.id('2', n), pg_temp.id('1', n / 100), 'Merchant with some name ' || n, (5200 + n % 40)::text,
      (ARRAY['Asia/Shanghai', 'Asia/Urumqi', 'Europe/Vienna'])[n % 3 + 1] FROM generate_series(1, $1::int) n""",
    """INSERT INTO store (merchant_id, store_id, name, city, time_zone)
    SELECT pg_temp.id('2', n), pg_temp.id('3', n), 'Store in the main street ' || n, 'City ' || n % 10,
      (ARRAY['Asia/Shanghai', 'Asia/Urumqi', 'Europe/Vienna'])[n % 3 + 1] FROM generate_series(1, $1::int) n""",
    """INSERT INTO terminal (merchant_id, store_id, terminal_id, name)
    SELECT pg_temp.id('2', m), pg_temp.id('3', m), pg_temp.id('4', m::bigint * 1000 + t), 'Till ' || t || ' of shop ' || m
    FROM generate_series(1, $1::int) m, generate_series(1, $2::int) t""",
    f"""INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
    SELECT pg_temp.id('2', m), a, pg_temp.id('4', m::bigint * 1000 + t), lpad(upper(to_hex(m * $2::int + t)), 8, 'T0000000'),
      'M' || lpad(m::text, 14, '0')
    FROM generate_series(1, $1::int) m, generate_series(1, $2::int) t, unnest(ARRAY['{ACQUIRER}', '{SECOND}']::uuid[]) a
    WHERE a = '{ACQUIRER}' OR t % 5 = 0""",
    """INSERT INTO api_key (key_id, role, merchant_id, terminal_id, secret_digest)
    SELECT 't' || lpad(to_hex(m::bigint * 1000 + t), 15, '0'), 'terminal', pg_temp.id('2', m), pg_temp.id('4', m::bigint * 1000 + t),
      sha256(convert_to(lpad((m::bigint * 1000 + t)::text, 43, 's'), 'UTF8'))
    FROM generate_series(1, $1::int) m, generate_series(1, $2::int) t""",
    """INSERT INTO api_key (key_id, role, merchant_id, secret_digest)
    SELECT 'm' || lpad(to_hex(m), 15, '0'), 'merchant', pg_temp.id('2', m), sha256(convert_to(lpad(m::text, 43, 's'), 'UTF8'))
    FROM generate_series(1, $1::int) m WHERE $2::int > 0""",
)


def key_of(merchant: int, terminal: int) -> str:
    """The key of a terminal that `build` wrote; both count from 1."""
    number = merchant * 1000 + terminal
    return f"tk_t{number:015x}.{str(number).rjust(43, 's')}"


def terminal_of(merchant: int, terminal: int) -> str:
    return f"00000004-0000-7000-9000-{merchant * 1000 + terminal:012x}"


async def build(url: str, merchants: int, each: int) -> None:
    """A migrated database gets `merchants` with `each` terminals, at acquirers that are there already (ACQUIRER, SECOND). The triggers that log
    changes are off meanwhile: no worker runs that could read them."""
    connection = await asyncpg.connect(url)
    try:
        for statement in FUNCTIONS:
            await connection.execute(statement)
        async with connection.transaction():
            for table in TABLES:
                await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            for statement in HOUSES:
                takes = ([merchants, each] if "$2" in statement else [merchants])
                await connection.execute(statement, *takes, timeout=300)
            for table in TABLES:
                await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def acquirers(url: str, port: int) -> None:
    """Two acquirers whose hosts are one stub, and a rule to each."""
    connection = await asyncpg.connect(url)
    try:
        for acquirer_id, name, priority in ((ACQUIRER, "bench", 10), (SECOND, "second", 20)):
            async with connection.transaction():
                await connection.execute("INSERT INTO acquirer (acquirer_id, name, dialect, message_mode) VALUES ($1, $2, 'iso87_ascii', 'single')",
                                         acquirer_id, name)
                await connection.execute("INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2::text::date)", acquirer_id, DAY)
                await connection.execute("INSERT INTO acquirer_line (acquirer_id, line_id, host, port) VALUES ($1, $1, '127.0.0.1', $2)",
                                         acquirer_id, port)
                await connection.execute("INSERT INTO route (route_id, acquirer_id, priority, created_by) VALUES ($1, $1, $2, 'bench')",
                                         acquirer_id, priority)
    finally:
        await connection.close()
