"""`switch demo` as a person runs it: what it prints, what it hands over, how it stops and starts again, and what a start refuses."""

import asyncio
import json
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from switch import database, demo
from switch.errors import SettingsError
from switch.merchants.onboarding import Onboarding
from switch.settings import VARIABLES, load
from tests import processes
from tests.processes import Demo, ask, run

HANDOVER = {"base_url", "database_url", "terminal_key", "second_terminal_key", "merchant_key", "operator_key", "second_operator_key", "administrator_key",
            "stub_control_url"}
KEYS = sorted(name for name in HANDOVER if name.endswith("_key"))
WARM_START_S = 10.0  # of two cores that other tests use too; 1.4 s on an idle machine, where 5 s are allowed


class Watcher(threading.Thread):
    """Reads a file as often as it can: whoever writes it in place is caught with half of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.stop, self.reads, self.torn, self.modes = path, threading.Event(), 0, [], set()

    def run(self) -> None:
        while not self.stop.wait(0.001):
            try:
                mode, text = stat.S_IMODE(self.path.stat().st_mode), self.path.read_text()
            except OSError:
                continue
            self.reads += 1
            self.modes.add(mode)
            try:
                json.loads(text)
            except ValueError:
                self.torn.append(text)


async def test_the_demo_tells_what_it_does_hands_its_keys_over_and_keeps_them_for_the_next_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    watcher = Watcher(home / "demo.json")
    watcher.start()
    with Demo(home) as demo:
        first = demo.handover
        processes.wait(lambda: "stop: Ctrl-C" in demo.out, "the invitation is not printed")
        watcher.stop.set()
        watcher.join()
        assert watcher.reads > 0 and not watcher.torn and watcher.modes == {0o600}
        assert set(first) == HANDOVER and all(isinstance(value, str) and value for value in first.values())
        for said in ("home: ", "creating a PostgreSQL", "is ready on port", "acquirer: 127.0.0.1:", "(the stub)", f"serving on {demo.base}",
                     "purchase of 100.00 CNY on 62123456*******0003 was approved", "written down, before anything was sent", "sent to demo",
                     "0=0200", "answered with code 00", "0=0210", "outcome written: approved", f"curl -s {demo.base}/v1/authorizations"):
            assert said in demo.out, said
        assert processes.CARD["pan"] not in demo.out.split("curl -s")[0] + demo.err
        paid = await demo.pay("first-sale-000001", 4_200)
        assert (paid.status, paid.body["status"]) == (201, "approved")
        await every_key_is_what_it_is_called(first)
        database = postmaster = processes.postmaster(home)
        assert demo.stop(signal.SIGINT) == 0
        assert demo.out.rstrip().endswith("draining") and "Traceback" not in demo.err
        assert not demo.handover_path.exists()
        assert not processes.alive(postmaster), f"PostgreSQL {database} outlives the demo"

    with Demo(home) as demo:
        print(f"warm start: {demo.start_s:.2f} s")
        assert demo.start_s < WARM_START_S
        assert {name: demo.handover[name] for name in KEYS} == {name: first[name] for name in KEYS}
        again = await demo.pay("first-sale-000001", 4_200)
        assert (again.status, again.raw, again.headers.get("idempotent-replayed")) == (201, paid.raw, "true")
        assert demo.stop(signal.SIGTERM) == 0
        assert not demo.handover_path.exists() and "Traceback" not in demo.err


async def every_key_is_what_it_is_called(handover: dict[str, Any]) -> None:
    base = handover["base_url"]
    second = await ask(base, "POST", "/v1/authorizations", handover["second_terminal_key"], processes.sale(900), Idempotency_Key="second-till-00001")
    assert second.status == 201
    sold = (await ask(base, "GET", "/v1/transactions", handover["merchant_key"])).body["items"]
    assert len({row["store"] for row in sold}) == 2, "each terminal is in a store of its own"
    for key in ("operator_key", "second_operator_key"):
        assert (await ask(base, "GET", "/v1/links", handover[key])).body["items"][0]["state"] == "up"
        assert (await ask(base, "POST", "/v1/authorizations", handover[key], processes.sale(900), Idempotency_Key="an-operator-00001")).status == 403
    assert (await ask(base, "GET", "/v1/links", handover["merchant_key"])).status == 403
    assert (await ask(handover["stub_control_url"], "GET", "/stats", "")).body["signed_on_lines"] == 1
    connection = await asyncpg.connect(handover["database_url"])
    try:
        assert await connection.fetchval("SELECT count(*) FROM transaction WHERE state = 'APPROVED'") == 3
    finally:
        await connection.close()


def test_once_ends_with_0_after_the_sample_and_with_1_when_it_cannot_be_approved(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = run(home, "demo", "--once")
    assert (done.code, "was approved" in done.out, "Try it" in done.out) == (0, True, False), done.out + done.err
    assert not (home / "demo.json").exists()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listening
        failed = run(home, "demo", "--once", "--acquirer", f"127.0.0.1:{nobody.getsockname()[1]}", SWITCH_SIGN_ON_WAIT="0.2")
    assert failed.code == 1 and "the sample was refused: 503" in failed.out, failed.out + failed.err
    assert "Traceback" not in failed.err and not (home / "demo.json").exists()


async def test_a_second_demo_on_the_same_home_and_one_on_a_taken_port_are_refused_with_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Demo(home) as demo:
        port = demo.base.rpartition(":")[2]
        for arguments, where, said in ((("--once",), home, f"another demo (pid {demo.pid})"),
                                       ((), tmp_path / "other", f"cannot listen on 127.0.0.1 port {port}")):
            refused = await asyncio.to_thread(run, where, "demo", *arguments, seconds=10, SWITCH_PORT=port)
            assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
            assert said in refused.err
        assert json.loads(demo.handover_path.read_text()) == demo.handover, "who was refused leaves the handover alone"
        assert (await demo.pay("still-serving-01", 500)).status == 201
        assert not (tmp_path / "other" / "postgres").exists(), "nothing is created for a start that cannot listen"


def test_a_signal_while_it_starts_ends_a_demo_cleanly_and_the_next_one_works(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for number, said in ((signal.SIGTERM, "creating a PostgreSQL"), (signal.SIGINT, "home: ")):
        demo = Demo(home, ready=False)
        processes.wait(lambda demo=demo, said=said: said in demo.out, "it does not begin")
        code = demo.stop(number)
        assert (code, "Traceback" in demo.err, demo.handover_path.exists()) == (0, False, False), demo.out + demo.err
        assert "was approved" in demo.out, "the second start, on what the first one left, works too"


BAD = {
    "SWITCH_PORT": ["eight", "-1", "65536", "8000.0", "٨٠٠٠"],
    "SWITCH_DATABASE_URL": ["mysql://root@127.0.0.1/x", "postgres:secret"],
    "SWITCH_LOG_LEVEL": ["loud", "INFO "],
    "SWITCH_POSTGRES_BIN": ["/nowhere"],
    "SWITCH_MAX_CONNECTIONS": ["0", "9", "1e3", "100001"],
    "SWITCH_COMMIT_BUDGET": ["0", "nan", "inf", "61", "three"],
    "SWITCH_SIGN_ON_WAIT": ["-1", "601"],
    "SWITCH_HOME": [__file__],
    "SWITCH_KEYFILE": ["a typing error"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_setting_is_one_line_that_names_it_and_does_not_repeat_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({name: value})
    assert len(str(refused.value).splitlines()) == 1 and str(refused.value).startswith(name)
    assert value.isdigit() or value not in str(refused.value)


def test_a_start_with_several_bad_settings_says_one_line_for_each_and_ends_with_2(tmp_path: Path) -> None:
    bad = {name: values[0] for name, values in BAD.items() if name != "SWITCH_HOME"}
    for verb in ("demo", "serve"):
        refused = run(tmp_path / "home", verb, **bad)
        lines = refused.err.splitlines()
        assert refused.code == 2 and len(lines) == len(bad), refused.err
        assert all(any(name in line for line in lines) for name in bad)
        assert "secret" not in refused.err and not (tmp_path / "home").exists()
    assert bad.keys() - {"SWITCH_KEYFILE"} <= VARIABLES.keys()


def test_an_acquirer_that_is_no_address_is_refused_with_one_line(tmp_path: Path) -> None:
    refused = run(tmp_path / "home", "demo", "--acquirer", "127.0.0.1:65536")
    assert (refused.code, refused.err) == (2, "switch: --acquirer must be HOST:PORT\n")


def test_a_home_that_may_not_be_made_or_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run(tmp_path / "x", "demo", SWITCH_HOME=str(tmp_path / "file" / "home"))
    assert (refused.code, len(refused.err.splitlines())) == (2, 1) and "SWITCH_HOME" in refused.err, refused.err


async def test_a_home_of_an_earlier_release_gets_the_administrators_key_and_keeps_the_others(database_url: str, tmp_path: Path) -> None:
    settings, pool = load({"SWITCH_HOME": str(tmp_path), "SWITCH_DATABASE_URL": database_url}), await database.pool(database_url, "switch_writer", 2)
    try:
        office = Onboarding(pool)
        made = await demo._keys(settings, pool, office)
        path = tmp_path / "demo-keys.json"
        path.write_text(json.dumps({name: text for name, text in made.items() if name != "administrator_key"}))
        again = await demo._keys(settings, pool, office)
        assert again.keys() == made.keys() and {name for name in made if again[name] != made[name]} == {"administrator_key"}
        assert await demo._keys(settings, pool, office) == again and stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        await pool.close()
