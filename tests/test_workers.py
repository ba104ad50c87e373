"""Several workers behind one address: whichever dies or stands still, nothing is lost, nothing is done twice, and nothing stale is written."""

import asyncio
import json
import os
import signal
import socket
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uvloop

from switch.demo import prepare
from switch.merchants.onboarding import Onboarding
from switch.parent import Worker
from switch.settings import load
from switch.worker import COMMAND
from tests import processes
from tests.conftest import create_database
from tests.processes import SWITCH, Answer, Caller, Process, ask, environment, request, sale, stub_book, within
from tests.test_kill import TERMINALS, Load, everything_agrees


class Workers(Process):
    """`switch serve --workers N`, onboarded as the demo is, with the few things that a Load wants of a demo."""

    def __init__(self, home: Path, keys: dict[str, str], database_url: str | None, workers: int = 2) -> None:
        more = {} if database_url is None else {"SWITCH_DATABASE_URL": database_url}
        super().__init__(home.parent, "serve", (*SWITCH, "serve", "--workers", f"{workers}"), environment(home, **more))
        line = self.first_line()
        self.base, self.admin, self.key, self.home = line["base_url"], line["admin_url"], keys["terminal_key"], home
        self.operator = keys["operator_key"]
        assert (line["pid"], line["workers"]) == (self.pid, workers)
        self.handover = {"database_url": database_url or url_of(home)}

    async def shown(self) -> list[dict[str, Any]]:
        """The workers, as the admin port shows them."""
        return list((await ask(self.admin, "GET", "/readyz", "")).body["workers"])

    async def ready(self, seconds: float = 20.0) -> list[dict[str, Any]]:
        async with within(seconds, "the workers are not ready"):
            while (answer := await ask(self.admin, "GET", "/readyz", "")).status != 200:
                await asyncio.sleep(0.05)
        assert answer.body["ready"] is True
        return list(answer.body["workers"])

    async def figure(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series with these labels."""
        text = (await ask(self.admin, "GET", "/metrics", "")).raw.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
                   if line.partition("{")[0].partition(" ")[0] == name and all(each in line for each in wanted))

    async def sql(self, statement: str, *arguments: object) -> list[Any]:
        connection = await asyncpg.connect(self.handover["database_url"])
        try:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def pay(self, key: str, amount: int) -> Answer:
        return await ask(self.base, "POST", "/v1/authorizations", self.key, sale(amount), Idempotency_Key=key)


def url_of(home: Path) -> str:
    folder = home / "postgres"
    return f"postgresql://switch:{(folder / 'password').read_text().strip()}@127.0.0.1:{(folder / 'port').read_text().strip()}/switch"


@contextmanager
def ended(server: Workers) -> Iterator[Workers]:
    try:
        yield server
    except BaseException:
        print(server.err[-6000:])
        raise
    finally:
        if server.running:
            server.kill()


@asynccontextmanager
async def shop(folder: Path, cluster_url: str, *, max_links: int = 0, workers: int = 2) -> AsyncIterator[tuple[Workers, str]]:
    """Workers on an external database with an acquirer of its own; the stub's control address."""
    url, home = await create_database(cluster_url), folder / "home"
    with processes.stub(folder) as (port, control):
        keys = await prepare(load({"SWITCH_HOME": str(made(home))}), url, "127.0.0.1", port)
        if max_links:
            await limit(url, max_links)
        with ended(await asyncio.to_thread(Workers, home, keys, url, workers)) as server:
            await lines_up(server)
            yield server, control


def made(home: Path) -> Path:
    home.mkdir(mode=0o700, exist_ok=True)
    return home


async def limit(url: str, max_links: int) -> None:
    pool = await asyncpg.create_pool(url, min_size=1, max_size=1)
    office = Onboarding(pool)
    await office.change_acquirer((await office.acquirer_named("demo")).acquirer_id, max_links=max_links)
    await pool.close()


async def lines_up(server: Workers) -> None:
    async with within(15, "the lines do not come up"):
        while not all(each["lines"].get("demo") in ("up", "handed_over") for each in await server.ready()):
            await asyncio.sleep(0.05)


async def one_crash_each(server: Workers) -> int:
    """How many sales recovery took over: each has one duty and one event, whoever swept."""
    rows = await server.sql("""SELECT d.transaction_id, count(*) FROM duty d WHERE d.cause = 'crash' GROUP BY 1""")
    assert all(count == 1 for _, count in rows)
    return len(rows)


async def eventually(reached: Callable[[], Any], complaint: str, seconds: float = 15.0) -> Any:
    async with within(seconds, complaint):
        while not (found := await reached()):
            await asyncio.sleep(0.05)
    return found


async def test_workers_share_one_address_the_admin_port_sums_and_a_stop_drains_them_all(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        epochs = {each["epoch"] for each in await server.shown()}
        assert len(epochs) == 2 and len({each["pid"] for each in await server.shown()} | {server.pid}) == 3
        load = Load(server)  # type: ignore[arg-type]
        async with load.running():
            await load.answered(300)
            await ask(control, "POST", "/host", "", {"delay": 0.5})
            await load.answered(3 * TERMINALS)
            told = sum(mine.told is not None for mine in load.sales)
            assert await server.figure("switch_authorizations_total") >= told
            assert await server.figure("switch_link_up") == 2
            waiting, signalled = [caller for caller in load.callers if caller.sent_at is not None], time.monotonic()
            assert len(waiting) > TERMINALS // 2
            load.stopping = True
            server.popen.send_signal(signal.SIGTERM)
            await eventually(lambda: refused(server.base), "new connections are still taken")
            given_up(load)
            assert await asyncio.to_thread(server.popen.wait, 20) == 0
            given_up(load)  # of those that began while it was signalled too
            assert not [at for at in load.broken if at < signalled], "a sale on its way was cut off"
        by_worker = dict(await server.sql("SELECT worker_epoch, count(*) FROM transaction GROUP BY 1"))
        assert set(by_worker) == epochs, "one worker has served alone: this test showed nothing"
        assert await server.sql("SELECT 1 FROM worker WHERE ended_at IS NULL") == []
        assert await server.sql("SELECT 1 FROM transaction WHERE state = 'SENT'") == [] and await one_crash_each(server) == 0
        blocks = await server.sql("SELECT rrn, count(*) FROM transaction GROUP BY 1 HAVING count(*) > 1")
        assert blocks == [], "two workers shared a block of numbers"
        assert "Traceback" not in server.err and "walks_left" not in server.err
        print(f"{by_worker}, drained in {time.monotonic() - signalled:.2f} s")


async def test_a_second_switch_on_the_same_home_is_one_line_and_so_is_a_worker_that_cannot_start(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, _):
        url = server.handover["database_url"]
        begun = time.monotonic()
        second = await asyncio.to_thread(processes.run, server.home, "serve", SWITCH_DATABASE_URL=url)
        assert (second.code, len(second.err.splitlines())) == (2, 1) and f"(pid {server.pid})" in second.err and time.monotonic() - begun < 8
        (made(tmp_path / "other") / "run").mkdir()
        (tmp_path / "other" / "keys.json").write_text("{}")
        broken = await asyncio.to_thread(processes.run, tmp_path / "other", "serve", "--workers", "2", SWITCH_DATABASE_URL=url)
        assert broken.code == 2 and "keys.json cannot be used" in broken.err and "Traceback" not in broken.err
        assert processes.run(tmp_path / "other", "serve", "--workers", "65").code == 2


def given_up(load: Load) -> None:
    """Terminals need not ask again: the shop is closed."""
    for mine in load.sales:
        mine.answers = mine.answers or [Answer(202, {}, b'{"status": "refused"}')]


async def refused(base: str) -> bool:
    try:
        caller = Caller()
        await caller.connect(base)
        caller.close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_worker_killed_under_load_is_taken_over_once_and_started_again(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        await ask(control, "POST", "/host", "", {"delay": 0.05})
        load = Load(server)  # type: ignore[arg-type]
        async with load.running():
            await load.answered(100)
            before = await server.figure("switch_authorizations_total")
            victim = (await server.shown())[0]
            os.kill(victim["pid"], signal.SIGKILL)
            killed = time.monotonic()
            assert await server.figure("switch_authorizations_total") >= before, "what the dead one counted is forgotten"
            fresh = await eventually(lambda: another(server, victim), "no other worker takes its place")
            await load.answered(100)
        assert fresh["epoch"] > victim["epoch"] and server.running
        books = await everything_agrees(server, control, load)  # type: ignore[arg-type]
        crashed = await one_crash_each(server)
        print(f"{len(books.rows)} sales, {crashed} taken over, replaced in {time.monotonic() - killed:.1f} s, {len(load.broken)} answers lost")
        assert crashed > 0 and load.broken, "the kill met no sale on its way: this test showed nothing"
        assert await asyncio.to_thread(server.stop) == 0


async def another(server: Workers, victim: dict[str, Any]) -> dict[str, Any] | None:
    now = (await server.shown())[victim["worker"]]
    return now if now["ready"] and now["pid"] != victim["pid"] else None


async def busiest(server: Workers) -> dict[str, Any]:
    """The worker that made the most sales."""
    sold = dict(await server.sql("SELECT worker_epoch, count(*) FROM transaction GROUP BY worker_epoch"))
    return max(await server.shown(), key=lambda each: sold.get(each["epoch"], 0))


PAUSE_S = 12.0  # longer than a lease


@asynccontextmanager
async def leases_held(server: Workers, epoch: int) -> AsyncIterator[None]:
    """Nobody can renew or end a lease; that of `epoch` has been ended."""
    connection = await asyncpg.connect(server.handover["database_url"])
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE worker IN SHARE MODE")
            assert await connection.fetchval("SELECT ended_at IS NOT NULL FROM worker WHERE epoch = $1", epoch)
            yield
    finally:
        await connection.close()


async def test_a_worker_that_stood_still_past_its_lease_writes_nothing_and_begins_anew(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        await ask(control, "POST", "/host", "", {"delay": 0.15})
        load = Load(server)  # type: ignore[arg-type]
        async with load.running():
            await load.answered(100)
            victim = await busiest(server)  # the kernel gives connections to whoever asks first: one worker may have none
            for mti in ("0420", "0421"):  # reversals stay owed: whoever may write has something to write
                await ask(control, "POST", "/faults", "", {"match": {"0": mti}, "action": "silence", "value": None, "count": None})
            os.kill(victim["pid"], signal.SIGSTOP)
            await asyncio.sleep(PAUSE_S)
            assert (await ask(server.admin, "GET", "/readyz", "")).status == 503
            waiting = sum(caller.sent_at is not None and time.monotonic() - caller.sent_at > 5 for caller in load.callers)
            async with leases_held(server, victim["epoch"]):  # for a while it cannot learn that its lease was ended: only its clock tells
                woken = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
                os.kill(victim["pid"], signal.SIGCONT)
                for _ in range(15):
                    await server.sql("UPDATE duty SET next_attempt_at = now() WHERE state = 'open'")
                    await asyncio.sleep(0.1)
            await ask(control, "DELETE", "/faults", "")
            await eventually(lambda: another(server, victim), "no other worker takes its place")
            await load.answered(100)
        books = await everything_agrees(server, control, load)  # type: ignore[arg-type]
        owned = await server.sql("SELECT rrn FROM transaction WHERE worker_epoch = $1", victim["epoch"])
        lines = await stub_book(control)
        numbers = {row[0] for row in owned}
        of_victim = {line["line"] for line in lines if line["kind"] == "received" and line["mti"] == "0200" and line["fields"]["37"] in numbers}
        assert len(of_victim) == 1, "which line was its?"
        late = [line for line in lines if line["kind"] == "received" and line["line"] in of_victim and line["at"] > woken]
        print(f"{len(books.rows)} sales, {len(numbers)} of them by the one that stood still, {waiting} terminals waited for it")
        assert waiting > 0, "nobody waited for it: this test showed nothing"
        assert late == [], "an owner without its lease wrote to the line"
        assert await one_crash_each(server) > 0 and f"epoch {victim['epoch']} was ended" in server.err
        assert await asyncio.to_thread(server.stop) == 0


async def test_a_killed_parent_takes_workers_and_postgresql_with_it_and_the_next_start_recovers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with processes.stub(tmp_path) as (port, control):
        assert processes.run(home, "migrate").code == 0
        keys = await in_its_own_database(home, port)
        with ended(await asyncio.to_thread(Workers, home, keys, None)) as server:
            await lines_up(server)
            await ask(control, "POST", "/host", "", {"delay": 0.3})
            load = Load(server)  # type: ignore[arg-type]
            async with load.running():
                await load.answered(2 * TERMINALS)
                family = processes.family(server.pid)[1:]
                assert len(family) == 3  # two workers and the postmaster
                os.kill((await server.shown())[0]["pid"], signal.SIGSTOP)  # even one that stands still
                server.kill()
                await eventually(lambda: none_of(family), "children outlive their parent")
                await ask(control, "POST", "/host", "", {"delay": 0})
                with ended(await asyncio.to_thread(Workers, home, keys, None)) as again:
                    load.demo = again  # type: ignore[assignment]
                    await load.answered(50)
                    load.stopping = True
                    await eventually(lambda: answered(load), "terminals wait for an answer for ever", 30)
                    await everything_agrees(again, control, load)  # type: ignore[arg-type]
                    assert await one_crash_each(again) > 0, "the kill met no sale on its way: this test showed nothing"
                    assert await asyncio.to_thread(again.stop) == 0
        assert "Traceback" not in server.err + again.err


async def test_a_worker_whose_parent_is_just_dying_says_nothing_and_ends(tmp_path: Path, cluster_url: str) -> None:
    """The kernel closes the ends of a dying parent before it kills its children: for a moment a worker has nobody to talk to."""
    url, home = await create_database(cluster_url), made(tmp_path / "home")
    await prepare(load({"SWITCH_HOME": str(home)}), url, "127.0.0.1", 1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        worker = await asyncio.create_subprocess_exec(
            *SWITCH, COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(home, SWITCH_DATABASE_URL=url), pass_fds=[listening.fileno()])
        assert worker.stdin is not None and worker.stderr is not None
        worker._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        worker.stdin.write(json.dumps({"worker": 0, "database_url": url, "listening": listening.fileno()}).encode() + b"\n1\n")
        connection = await asyncpg.connect(url)
        async with within(30, "the worker does not start"):
            while not await connection.fetchval("SELECT count(*) FROM worker"):
                await asyncio.sleep(0.05)
        await connection.close()
        worker.stdin.close()
        async with within(10, "the worker does not end with its parent"):
            code, rest = await worker.wait(), await worker.stderr.read()
    assert (code, b"Traceback" in rest) == (0, False), rest.decode()


async def answered(load: Load) -> bool:
    return all(mine.told is not None for mine in load.sales)


async def none_of(pids: list[int]) -> bool:
    return not any(processes.alive(pid) for pid in pids)


async def in_its_own_database(home: Path, port: int) -> dict[str, str]:
    """Onboards into the embedded database of a home folder, which runs for that long."""
    database = Process(home.parent, "postgres", (*SWITCH, "postgres"), environment(home))
    try:
        url = (await asyncio.to_thread(database.first_line))["database_url"]
        return await prepare(load({"SWITCH_HOME": str(home)}), url, "127.0.0.1", port)
    finally:
        await asyncio.to_thread(database.stop)


async def test_posts_with_one_key_over_two_workers_have_one_effect(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        await ask(control, "POST", "/host", "", {"delay": 0.2})
        callers, elsewhere = [Caller() for _ in range(12)], 0
        for number in range(5):
            key = f"two-workers-{number:011d}"
            content = request("POST", "/v1/authorizations", server.key, sale(3000 + 100 * number), Idempotency_Key=key)
            answers = await asyncio.gather(*(caller.ask(server.base, content) for caller in callers))
            sold = [answer for answer in answers if answer.status == 201]
            assert len({answer.raw for answer in sold}) == 1 and {answer.status for answer in answers} <= {201, 409}
            assert sum("idempotent-replayed" not in answer.headers for answer in sold) == 1
            elsewhere += len(answers) - len(sold)  # who comes while the other worker sells is asked to come again, or finds it in the books
        for caller in callers:
            caller.close()
        rows = await server.sql("SELECT rrn FROM transaction WHERE idempotency_key LIKE 'two-workers-%'")
        sent = Counter(line["fields"]["37"] for line in await stub_book(control) if line["kind"] == "received" and line["mti"] == "0200")
        assert len(rows) == 5 and all(sent[rrn] == 1 for rrn, in rows)
        assert elsewhere + await server.figure("switch_replays_total") > 0, "all came to one worker: this test showed nothing"


@pytest.mark.parametrize("victim", ["holder", "asker"])
async def test_an_acquirer_with_one_line_is_served_by_all_workers_and_the_line_moves_on(tmp_path: Path, cluster_url: str, victim: str) -> None:
    async with shop(tmp_path, cluster_url, max_links=1) as (server, control):
        states = {each["lines"]["demo"]: each for each in await server.shown()}
        assert set(states) == {"up", "handed_over"}
        await ask(control, "POST", "/host", "", {"delay": 0.05})
        load = Load(server)  # type: ignore[arg-type]
        async with load.running():
            await load.answered(200)
            assert (await ask(control, "GET", "/stats", "")).body["signed_on_lines"] == 1
            killed = states["up" if victim == "holder" else "handed_over"]
            os.kill(killed["pid"], signal.SIGKILL)
            at = time.monotonic()
            await eventually(lambda: another(server, killed), "no other worker takes its place")
            await load.answered(100)
            took = time.monotonic() - at
        books = await everything_agrees(server, control, load)  # type: ignore[arg-type]
        by_worker = dict(await server.sql("SELECT worker_epoch, count(*) FROM transaction GROUP BY 1"))
        lines = {line["line"] for line in await stub_book(control) if line["kind"] == "received" and line["mti"] == "0200"}
        print(f"{len(books.rows)} sales over {len(lines)} lines by {by_worker}, {len(load.broken)} answers lost, on again after {took:.1f} s")
        assert by_worker[states["handed_over"]["epoch"]] > 20 and by_worker[states["up"]["epoch"]] > 20
        assert len(lines) == (2 if victim == "holder" else 1) and (await ask(control, "GET", "/stats", "")).body["signed_on_lines"] == 1
        assert "handover_refused" not in server.err and processes.CARD["pan"] not in server.err
        assert await asyncio.to_thread(server.stop) == 0


async def test_on_a_stop_what_was_handed_over_is_waited_for_by_the_holder_too(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url, max_links=1) as (server, control):
        asker = next(each["epoch"] for each in await server.shown() if each["lines"]["demo"] == "handed_over")
        callers = [Caller() for _ in range(16)]

        async def pay(number: int, key: str) -> Answer:
            content = request("POST", "/v1/authorizations", server.key, sale(4000), Idempotency_Key=f"{key}-{number:015d}")
            return await callers[number].ask(server.base, content)

        await asyncio.gather(*(pay(number, "who") for number in range(16)))
        keys = {row[0] for row in await server.sql("SELECT idempotency_key FROM transaction WHERE worker_epoch = $1", asker)}
        of_asker = [number for number in range(16) if f"who-{number:015d}" in keys]
        assert of_asker, "one worker has served alone: this test showed nothing"
        await ask(control, "POST", "/faults", "", {"match": {"0": "0200"}, "action": "delay", "value": 2.5, "count": None})  # not the sign-off
        sales = [asyncio.create_task(pay(number, "sale")) for number in of_asker]
        await eventually(lambda: at_the_host(control, 16 + len(sales)), "the sales have not left")
        assert await asyncio.to_thread(server.stop) == 0
        for caller in callers:
            caller.close()
        assert [answer.body["status"] for answer in await asyncio.gather(*sales)] == ["approved"] * len(sales)
        assert await server.sql("SELECT 1 FROM duty") == []


async def at_the_host(control: str, count: int) -> bool:
    return bool((await ask(control, "GET", "/stats", "")).body["received"].get("0200", 0) >= count)


async def test_a_verb_of_an_operator_reaches_every_worker(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        ((identity,),) = await server.sql("SELECT acquirer_id FROM acquirer")
        path = f"/v1/links/acq_{UUID(str(identity))}"

        async def do(verb: str) -> None:
            assert (await ask(server.base, "POST", f"{path}/{verb}", server.operator)).status == 200

        async def are(state: str) -> bool:
            return {each["lines"]["demo"] for each in await server.shown()} == {state}

        signed_on = (await ask(control, "GET", "/stats", "")).body["received"]["0800"]
        await do("sign-on")

        async def both_did() -> bool:
            return bool((await ask(control, "GET", "/stats", "")).body["received"]["0800"] >= signed_on + 2)

        await eventually(both_did, "one worker has not signed on again")
        for verb, state in (("drain", "down"), ("up", "up"), ("down", "down"), ("up", "up")):
            await do(verb)
            await eventually(lambda state=state: are(state), f"after {verb} one line is not {state}")
        assert (await server.pay("after-all-the-verbs", 5000)).status == 201


def test_one_that_has_died_this_moment_is_not_ready_and_asking_it_breaks_nothing() -> None:
    """uvloop raises when a closed pipe is written to; the admin port would answer 500."""
    async def asked() -> Worker:
        worker = Worker(0)
        worker.process = await asyncio.create_subprocess_exec("sleep", "60", stdin=PIPE, stdout=PIPE)
        worker.told["ready"] = True
        worker.admits.set()
        worker.process.kill()
        await worker.process.wait()
        await worker.ask()
        return worker

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asked()).told["ready"] is False
