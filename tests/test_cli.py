"""The command line as an operator uses it: real processes, an external database and the embedded one, and one line for every mistake."""

import asyncio
import json
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from switch import logs
from switch.cli import main
from switch.database import head
from tests import processes
from tests.processes import SWITCH, Demo, Ended, Process, ask, environment, run
from tests.proxy import Proxy


async def empty_database(cluster_url: str) -> str:
    """A database in which nobody has made anything yet."""
    name = f"cli_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(cluster_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return cluster_url.rsplit("/", 1)[0] + f"/{name}"


def made(done: Ended) -> dict[str, Any]:
    """What a command that makes something prints: one JSON line, and nothing on stderr but JSON and progress."""
    assert done.code == 0 and len(done.out.splitlines()) == 1, done.err
    line: dict[str, Any] = done.last
    return line


async def onboard_all(do: Callable[..., Awaitable[dict[str, Any]]]) -> dict[str, str]:
    """An organisation down to its keys: the keys by their role."""
    organisation = await do("onboard", "organisation", "--name", "Groß & Söhne 商店")
    merchant = await do("onboard", "merchant", "--organisation", organisation["id"], "--name", "Noodles", "--mcc", "5812",
                        "--time-zone", "Europe/Berlin", "--duplicate-policy", "refuse")
    store = await do("onboard", "store", "--merchant", merchant["id"], "--name", "First", "--city", "Berlin", "--country", "DE")
    terminal = await do("onboard", "terminal", "--store", store["id"], "--name", "Till 1")
    assert (organisation["name"], merchant["duplicate_policy"], store["time_zone"]) == ("Groß & Söhne 商店", "refuse", "Europe/Berlin")
    assert store["merchant"] == merchant["id"] and terminal["store"] == store["id"]
    keys = {"terminal": await do("onboard", "key", "--terminal", terminal["id"]),
            "merchant": await do("onboard", "key", "--merchant", merchant["id"]),
            "operator": await do("onboard", "key", "--operator", "Li Wei"),
            "staff": await do("onboard", "key", "--staff", store["id"], "--person", "Zhao Lei"),
            "administrator": await do("onboard", "key", "--administrator", "Wu Min"), "reviewer": await do("onboard", "key", "--reviewer", "Sun Li")}
    assert all(issued["role"] == role and "digest" not in issued for role, issued in keys.items())
    return {role: issued["key"] for role, issued in keys.items()}


async def sells(base: str, key: str, amount: int = 10_000) -> dict[str, Any]:
    """One sale; what is new on another process's command line may take a second to be known."""
    idempotency_key = f"cli-{secrets.token_hex(8)}"
    async with processes.within(10, "what was onboarded cannot sell"):
        while (answer := await ask(base, "POST", "/v1/authorizations", key, processes.sale(amount), Idempotency_Key=idempotency_key)).status != 201:
            assert answer.status in (401, 503), answer
            await asyncio.sleep(0.1)
    sold: dict[str, Any] = answer.body
    return sold


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Awaitable[Ended]]]:
    """A command without the second that a process takes to start: `await here(home, url, *arguments)`."""
    before = logs.log.stream, logs.log.level

    async def told(home: Path, url: str | None, *arguments: str) -> Ended:
        monkeypatch.setenv("SWITCH_HOME", str(home))
        if url is not None:
            monkeypatch.setenv("SWITCH_DATABASE_URL", url)
        capfd.readouterr()
        code = await asyncio.to_thread(main, list(arguments))
        return Ended(code, *capfd.readouterr())

    yield told
    logs.log.stream, logs.log.level = before


async def test_an_external_database_is_migrated_onboarded_and_served_by_commands_alone(tmp_path: Path, cluster_url: str, here: Any) -> None:
    url, home = await empty_database(cluster_url), tmp_path / "home"

    async def do(*arguments: str) -> dict[str, Any]:
        return made(await here(home, url, *arguments))

    for _ in range(2):  # twice is as good as once
        assert made(run(home, "migrate", SWITCH_DATABASE_URL=url)) == {"schema": head()}
    with processes.stub(tmp_path) as (port, _):
        acquirer = await do("acquirer", "add", "first", "--host", "127.0.0.1", "--port", f"{port}", "--answer-timeout", "2.5",
                            "--institution-code", "62120001", "--time-zone", "Asia/Shanghai")
        assert (acquirer["answer_timeout_ms"], acquirer["message_mode"], acquirer["dialect"]) == (2_500, "single", "iso87_ascii")
        assert (acquirer["institution_code"], acquirer["time_zone"]) == ("62120001", "Asia/Shanghai")
        changed = await do("acquirer", "change", "first", "--reversal-codes", "21=acknowledged,30=retry", "--reversal-max-age", "3600",
                           "--reversals-per-second", "50", "--reversals-at-once", "5", "--reversal-first")
        assert changed == acquirer | {"reversal_codes": {"21": "acknowledged", "30": "retry"}, "reversal_max_age_s": 3600, "reversals_per_second": 50,
                                      "reversals_at_once": 5, "reversal_first": True}
        assert await do("acquirer", "change", "first", "--reversal-codes", "", "--no-reversal-first") == changed | {"reversal_codes": {}, "reversal_first": False}
        assert await do("acquirer", "show", "first") == changed | {"reversal_codes": {}, "reversal_first": False, "options": {}, "secret_at": None}
        keys = await onboard_all(do)
        route = await do("route", "add", "--acquirer", "first", "--brand", "unionpay", "--priority", "7")
        assert (route["acquirer"], route["brand"], route["priority"]) == (acquirer["id"], "unionpay", 7)
        assert not (home / "postgres").exists(), "SWITCH_DATABASE_URL turns the embedded database off"
        server = Process(tmp_path, "serve", (*SWITCH, "serve"), environment(home, SWITCH_DATABASE_URL=url))
        try:
            base = server.first_line()["base_url"]
            sold = await sells(base, keys["terminal"])
            assert sold["status"] == "approved" and sold["acquirer"] == acquirer["id"]
            at = ("--url", base, "--key", keys["operator"])
            assert f"first                up           127.0.0.1:{port}" in run(home, "links", *at).out
            assert "was approved" in run(home, "story", sold["id"], *at).out.splitlines()[0]
            await _rules(here, do, home, url, at, sold)
        finally:
            server.stop()
        assert server.popen.returncode == 0 and "Traceback" not in server.err


async def _rules(here: Any, do: Any, home: Path, url: str, at: tuple[str, ...], sold: dict[str, Any]) -> None:
    """`switch route`: a draft is added, tried, switched on, explained, switched off."""
    draft = await do("route", "add", "--acquirer", "first", "--brand", "unionpay", "--bin-low", "621234", "--bin-high", "621299", "--currencies", "CNY",
                     "--amount-max", "999999", "--weekdays", "1,2,3,4,5,6,7", "--time-from", "00:00", "--time-until", "23:59", "--weight", "70",
                     "--name", "By the command line", "--draft", "--by", "Li Wei", "--priority", "1")
    assert (draft["state"], draft["created_by"], draft["weekdays"], draft["currencies"]) == ("draft", "Li Wei", [1, 2, 3, 4, 5, 6, 7], ["CNY"])
    refused = await here(home, url, "route", "add", "--acquirer", "first", "--weekdays", "monday")
    assert refused.code == 2 and "weekdays: 1 to 100 of 1 (Monday) to 7" in refused.err

    async def ask(*arguments: str) -> str:
        ended = await here(home, None, "route", *arguments, *at)
        assert ended.code == 0, ended.err
        return str(ended.out)

    async with processes.within(5, "the draft is not known"):
        while draft["id"] not in (said := await ask("explain", sold["id"])):
            await asyncio.sleep(0.1)
    assert f"-  {draft['id']} By the command line priority 1: it is a draft" in said and "recorded: attempt 1" in said and "as the rules of then say" in said
    tried = await ask("try", "--activate", draft["id"], "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
    assert tried.startswith("1 sales: 0 would move, 0.00 %") and f"{draft['id']} By the command line" in tried
    listed = await ask("list", "--state", "draft")
    assert listed.startswith(f"{draft['id']}  draft   priority 1") and "bin_low 621234" in listed and "created by Li Wei" in listed
    assert (await ask("activate", draft["id"])).startswith(f"{draft['id']}  active ")
    sale = ("--terminal", await shown_terminal(at, sold), "--bin", "62123456", "--amount", "10000", "--currency", "CNY")
    async with processes.within(5, "the rule is not in force"):
        while f"1. first  by {draft['id']}" not in (said := await ask("explain", *sale)):
            await asyncio.sleep(0.1)
    assert "line up, answered 1 of 1" in said and "card numbers 621234 to 621299" in said
    assert (await ask("retire", draft["id"])).startswith(f"{draft['id']}  retired")
    again = await here(home, None, "route", "activate", draft["id"], *at)
    assert again.code == 2 and "refused with 409" in again.err


async def shown_terminal(at: tuple[str, ...], sold: dict[str, Any]) -> str:
    answer = await processes.ask(at[1], "GET", f"/v1/transactions/{sold['id']}", at[3])
    return str(answer.body["terminal"])


async def test_commands_beside_a_running_demo_reach_its_embedded_database(tmp_path: Path, here: Any) -> None:
    home = tmp_path / "home"
    with Demo(home) as demo, processes.stub(tmp_path) as (port, _):
        async def do(*arguments: str) -> dict[str, Any]:
            return made(await here(home, None, *arguments))

        keys = await onboard_all(do)
        demo_sale = await sells(demo.base, keys["terminal"])
        made(run(home, "acquirer", "add", "second", "--host", "127.0.0.1", "--port", f"{port}", "--message-mode", "dual", "--answer-timeout", "3"))
        silent = made(run(home, "acquirer", "add", "third", "--host", "127.0.0.1", "--port", "1", "--numbers-come"))
        terminals = (await ask(demo.base, "GET", "/v1/terminals", demo.handover["operator_key"])).body["items"]
        numbered = {each["acquirer"] for terminal in terminals for each in terminal["numbers"]}
        assert len(numbered) == 2 and silent["id"] not in numbered, "it gives its numbers itself"
        made(run(home, "acquirer", "change", "third", "--status", "down"))
        await do("route", "add", "--acquirer", "second", "--merchant", merchant_of(await shown(demo, keys)), "--priority", "1")
        assert await do("migrate") == {"schema": head()}
        async with processes.within(10, "the new route is not taken"):
            amount = 10_000
            while (sold := await sells(demo.base, keys["terminal"], amount := amount + 100))["acquirer"] == demo_sale["acquirer"]:
                await asyncio.sleep(0.1)
        lines = run(home, "links").out.splitlines()
        lines = [line for line in lines if not line.startswith("third")]
        assert len(lines) == 2 and all(" up " in line and line.split()[-1].startswith("acq_") for line in lines)
        assert [line.split()[0] for line in run(home, "links", "list").out.splitlines()] == ["demo", "second", "third"]
        for words in (("webhooks", "list"), ("alerts", "list", "--standing")):
            empty = run(home, *words)
            assert (empty.code, empty.out, empty.err) == (0, "", "nothing is there by what was asked\n"), words
        story = run(home, "story", sold["id"])
        assert story.code == 0 and "sent to second" in story.out and "outcome written: approved" in story.out
        assert processes.CARD["pan"] not in story.out
        refused = run(home, "postgres")
        assert (refused.code, len(refused.err.splitlines())) == (2, 1) and str(demo.pid) in refused.err
        await a_line_is_taken_down_and_up_again(home, lines, here)
        await what_a_running_switch_refuses_is_one_line(home, demo, here)
        nobody_knows_the_keys(home, keys)
        assert demo.stop() == 0


async def what_a_running_switch_refuses_is_one_line(home: Path, demo: Demo, here: Any) -> None:
    for arguments, named in ((("story", "txn_00000000-0000-7000-8000-000000000000"), "refused with 404"),
                             (("story", "../../../readyz?"), "refused with 404"), (("links", "--key", demo.key), "refused with 403"),
                             (("links", "--url", demo.handover["stub_control_url"], "--key", "k"), "refused with 404")):
        refused = await here(home, None, *arguments)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1), refused.err
        assert named in refused.err


async def shown(demo: Demo, keys: dict[str, str]) -> list[dict[str, Any]]:
    return list((await ask(demo.base, "GET", "/v1/merchants", demo.handover["operator_key"])).body["items"])


def merchant_of(merchants: list[dict[str, Any]]) -> str:
    return next(merchant["id"] for merchant in merchants if merchant["name"] == "Noodles")


async def a_line_is_taken_down_and_up_again(home: Path, lines: list[str], here: Any) -> None:
    name, acquirer = next((line.split()[0], line.split()[-1]) for line in lines if line.startswith("second"))
    for action, said, states in (("down", acquirer, {"down"}), ("up", name, {"connecting", "disconnected", "signing_on", "up"})):
        done = await here(home, None, "links", action, said)
        assert done.code == 0 and done.out.split()[0] == name and done.out.split()[1] in states, done


def nobody_knows_the_keys(home: Path, keys: dict[str, str]) -> None:
    """A key's text is printed once, and stands nowhere."""
    for path in (home / "postgres" / "postgres.log", *home.parent.glob("demo-*")):
        assert not any(key.partition(".")[2] in path.read_text(errors="replace") for key in keys.values())


MISTAKES: list[tuple[tuple[str, ...], str]] = [  # in the order of the commands, with what the one line must name
    (("onboard", "organisation", "--name", ""), "name: 1 to 120"),
    (("onboard", "organisation", "--name", "a\nb"), "name: 1 to 120"),
    (("onboard", "merchant", "--organisation", "org_1", "--name", "M", "--mcc", "5812"), "org_1 is not the id of an organisation"),
    (("onboard", "merchant", "--organisation", "org_00000000-0000-7000-8000-000000000000", "--name", "M", "--mcc", "5812"), "no such object"),
    (("onboard", "terminal", "--store", "mer_00000000-0000-7000-8000-000000000000", "--name", "T"), "is not the id of a store"),
    (("acquirer", "add", "Upper", "--host", "h h", "--port", "70000"), "port: a whole number"),
    (("acquirer", "add", "other", "--host", "h", "--port", "1", "--dialect", "../../etc/passwd"), "dialect"),
    (("acquirer", "add", "slow", "--host", "h", "--port", "1", "--answer-timeout", "121"), "answer_timeout_ms"),
    (("acquirer", "add", "slow", "--host", "h", "--port", "1", "--institution-code", "12A"), "institution_code: 1 to 11 digits"),
    (("acquirer", "add", "slow", "--host", "h", "--port", "1", "--time-zone", "Mars/Base"), "time_zone"),
    (("route", "add", "--acquirer", "nobody"), "`switch acquirer list` shows"), (("acquirer", "show", "nobody"), "`switch acquirer list` shows"),
    (("acquirer", "account", "other", "--secret-file", "no/such/file"), "No such file or directory"),
    (("article", "write", "paper", "--file", "no/such/file"), "No such file or directory"),
    (("article", "write", "paper", "--file", "pyproject.toml"), "it is no JSON"),
    (("terminal", "parameters", "default", "--set", "no/such/file", "--reason", "A trial"), "No such file or directory"),
    (("payouts", "run", "--person", " "), "no space at either end"), (("payouts", "run", "--person", "x" * 10_000), "1 to 120"),
    (("clearing", "load", "pyproject.toml", "--person", "a\tb"), "printable"),
    (("links",), "no demo runs in"),
    (("links", "drain", "--url", "http://127.0.0.1:1", "--key", "k"), "needs the acquirer of the line"),
    (("links", "--url", "http://127.0.0.1:1", "--key", "k"), "Connection refused"),
    (("links", "--url", "http://no.such.host.invalid", "--key", "k"), "cannot be reached"),
    (("links", "--url", "http://127.0.0.1:99999", "--key", "k"), "cannot be reached"),
    (("links", "--url", "127.0.0.1:8000", "--key", "k"), "check --url"),
    (("links", "--url", "file:///etc/passwd", "--key", "k"), "check --url"),
    (("story", "txn_1 ä/../..", "--url", "http://127.0.0.1:1", "--key", "k"), "Connection refused"),
    (("story", "txn_1", "--url", "http://127.0.0.1:1", "--key", "two\r\nX: lines"), "cannot be reached"),
]


@pytest.fixture(scope="module")
async def external(cluster_url: str) -> str:
    return await empty_database(cluster_url)


async def test_acquirers_are_listed_and_shown_without_their_secrets(external: str, tmp_path: Path, here: Any) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (tmp_path / "secret").write_text("the-secret-word-of-the-wallet\n")
    made_ = made(await here(home, external, "acquirer", "add", "wallet-of-ours", "--dialect", "qr_wallet", "--host", "pay.example", "--port", "8443"))
    account = made(await here(home, external, "acquirer", "account", "wallet-of-ours", "--option", "client=shop", "--option", "scheme=https",
                              "--secret-file", str(tmp_path / "secret")))
    shown_ = await here(home, external, "acquirer", "show", "wallet-of-ours")
    assert made(shown_) == made_ | {"options": {"client": "shop", "scheme": "https"}, "secret_at": account["secret_at"]} and account["secret_at"]
    listed = await here(home, external, "acquirer", "list")
    (line,) = [line for line in listed.out.splitlines() if line.startswith("wallet-of-ours ")]
    assert line.startswith(f"wallet-of-ours  {made_['id']}  active  qr_wallet single  pay.example:8443  business date ")
    assert "the-secret" not in shown_.out + listed.out


@pytest.mark.parametrize(("arguments", "named"), MISTAKES)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(
        arguments: tuple[str, ...], named: str, external: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SWITCH_DATABASE_URL", external)
    monkeypatch.setenv("SWITCH_HOME", str(tmp_path / "home"))
    code = main(list(arguments))
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("{") and not line.startswith("migrating")]
    assert (code, said.out, len(lines)) == (2, "", 1), said.err
    assert lines[0].startswith("switch: ") and named in lines[0], lines


def test_a_mistake_of_each_kind_is_one_line_in_a_real_process_too(tmp_path: Path) -> None:
    for arguments, url, named in (
            (("onboard", "organisation", "--name", "A"), "postgresql://switch:secret-word@127.0.0.1:1/x", "the database cannot be reached"),
            (("serve",), "postgresql://[secret-word", "the database cannot be reached")):
        refused = run(tmp_path / "home", *arguments, SWITCH_DATABASE_URL=url)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1), refused.err
        assert named in refused.err and "secret-word" not in refused.err


SLOW = ("acquirer", "add", "x", "--host", "h", "--port", "1", "--answer-timeout")


def test_a_word_that_is_no_command_shows_the_usage_and_ends_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["pay"], ["onboard"], ["onboard", "key"], ["onboard", "key", "--terminal", "a", "--merchant", "b"],
                      ["acquirer", "add", "x", "--host", "h", "--port", "y"], [*SLOW, "inf"], [*SLOW, "nan"], ["links", "explode", "acq_1"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and capfd.readouterr().err.startswith("usage: ")


async def test_the_stub_as_a_command_takes_its_own_options_and_signals(tmp_path: Path) -> None:
    stub = Process(tmp_path, "stub", (*SWITCH, "stub", "--port", "0", "--book", str(tmp_path / "book.jsonl")), environment(tmp_path / "home"))
    try:
        line = await asyncio.to_thread(stub.first_line)
        assert (await ask(line["control_url"], "GET", "/stats", "")).body["lines"] == 0
    finally:
        stub.stop()
    assert stub.popen.returncode == 0 and not (tmp_path / "home").exists()


@pytest.mark.parametrize("met", [b"schema_version", b"INSERT INTO worker", b"directory_terminal"])
async def test_a_database_that_goes_away_during_the_start_is_one_line_too(tmp_path: Path, database_url: str, met: bytes) -> None:
    proxy = Proxy(database_url)
    await proxy.start()
    try:
        proxy.arm("before", lambda kind, body: kind == b"P" and met in body)  # the statement never arrives, and the connection ends
        done = await asyncio.to_thread(run, tmp_path / "home", "serve", SWITCH_DATABASE_URL=proxy.url)
        assert proxy.fired.is_set()
    finally:
        await proxy.stop()
    told = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert (done.code, done.out) == (2, "") and told == [
        "switch: the database went away during the start (ConnectionDoesNotExistError); start again when it answers"]


async def test_postgres_alone_serves_until_it_is_told_to_stop_and_keeps_its_data_for_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for number in (signal.SIGINT, signal.SIGTERM):
        server = Process(tmp_path, "postgres", (*SWITCH, "postgres"), environment(home))
        try:
            line = await asyncio.to_thread(server.first_line)
            connection = await asyncpg.connect(line["database_url"])
            await connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS one")
            assert await connection.fetchval("SELECT one FROM kept") == 1 and processes.alive(line["pid"])
            await connection.close()
        finally:
            assert server.stop(number) == 0
        assert not processes.alive(line["pid"]) and "Traceback" not in server.err
    alone = made(run(home, "onboard", "organisation", "--name", "With nobody there"))
    assert json.dumps(alone) and not any(processes.alive(pid) for pid in postmasters(home)), "what a command starts it stops"


def postmasters(home: Path) -> list[int]:
    path = home / "postgres" / "cluster" / "postmaster.pid"
    return [int(path.read_text().splitlines()[0])] if path.exists() else []
