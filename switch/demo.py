"""`switch demo`: everything on one machine, with one authorization to see. Keys and books stay in the home folder between runs."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from switch import database, logs
from switch.app import Switch
from switch.database import Pool
from switch.errors import StartError
from switch.inquiry import call
from switch.merchants.onboarding import Onboarding
from switch.payments.timers import Limits
from switch.serve import SAY, base_url, home_lock, listen, run_lock, serving, stop_event
from switch.serve import database as database_of
from switch.settings import Settings

ACQUIRER = "demo"
ANSWER_TIMEOUT_MS, REVERSAL_GRACE_MS = 3000, 1000
STUB_START_S = 10
ADMINISTRATOR = "Demo administrator"
SAMPLE = {
    "type": "purchase", "amount": 10000, "currency": "CNY", "terminal_trace": "000001", "reference": "demo sale",
    "card": {"entry_mode": "chip", "pan": "6212345678900000003", "expiry": "3012"},
}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Atomically, mode 0600."""
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


@asynccontextmanager
async def stub(settings: Settings) -> AsyncIterator[tuple[str, int, str]]:
    """The acquirer stub as a child process: host, port, control URL. Its book stays in the home folder."""
    book = settings.home / "stub" / "book.jsonl"
    book.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "acquirer_stubs", "--port", "0", "--control-port", "0", "--book", str(book), "--die-with-parent",
        stdout=subprocess.PIPE, start_new_session=True)  # Ctrl-C reaches us first: the stub goes after the drain
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(STUB_START_S):
                line = await process.stdout.readline()
            ready = json.loads(line)
        except (TimeoutError, ValueError):
            raise StartError(f"the acquirer stub did not start; try: {sys.executable} -m acquirer_stubs --book {book}") from None
        yield "127.0.0.1", ready["port"], ready["control_url"]
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def prepare(settings: Settings, url: str, host: str, port: int) -> dict[str, str]:
    """Onboards what the demo needs, once, and points its acquirer's line to `host:port`. Returns the keys."""
    await database.migrate(url)
    pool = await database.pool(url, "switch_writer", 2)
    try:
        onboarding = Onboarding(pool, Limits(settings.commit_budget_s, settings.http_deadline_s))
        found = await pool.fetchval("SELECT acquirer_id FROM acquirer WHERE name = $1", ACQUIRER)
        if found is None:
            await onboarding.install_bins()
            acquirer = await onboarding.acquirer(ACQUIRER, "iso87_ascii", host, port, message_mode="single",
                                                 answer_timeout_ms=ANSWER_TIMEOUT_MS, reversal_grace_ms=REVERSAL_GRACE_MS)
            await onboarding.route(acquirer.acquirer_id)
        else:
            await onboarding.change_acquirer(found, host=host, port=port)
        return await _keys(settings, pool, onboarding)
    finally:
        await pool.close()


async def _keys(settings: Settings, pool: Pool, onboarding: Onboarding) -> dict[str, str]:
    """The demo's keys: the same ones as long as the home folder and the database live, so that a terminal may retry after a restart."""
    path = settings.home / "demo-keys.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept: dict[str, str] = json.loads(path.read_text())
        if await pool.fetchval("SELECT true FROM api_key WHERE key_id = $1", kept["terminal_key"].partition("_")[2].partition(".")[0]):
            if "administrator_key" not in kept:  # of a home that an earlier release has made
                kept["administrator_key"] = (await onboarding.key("administrator", person=ADMINISTRATOR)).text
                _write(path, kept)
            return kept
    organisation = await onboarding.organisation("Demo organisation")
    merchant = await onboarding.merchant(organisation.organisation_id, "Demo merchant", "5812", "Asia/Shanghai")
    stores = [await onboarding.store(merchant.merchant_id, name, city="Shanghai", country="CN") for name in ("First store", "Second store")]
    terminals = [await onboarding.terminal(store.store_id, "Till 1") for store in stores]
    keys = {
        "terminal_key": await onboarding.key("terminal", terminal_id=terminals[0].terminal_id),
        "second_terminal_key": await onboarding.key("terminal", terminal_id=terminals[1].terminal_id),
        "merchant_key": await onboarding.key("merchant", merchant_id=merchant.merchant_id),
        "operator_key": await onboarding.key("operator", person="Demo operator"),
        "second_operator_key": await onboarding.key("operator", person="Second operator"),
        "administrator_key": await onboarding.key("administrator", person=ADMINISTRATOR),
    }
    texts = {name: key.text for name, key in keys.items()}
    _write(path, texts)
    return texts


def _sample(base: str, key: str, say: SAY) -> bool:
    """Sends one authorization and prints its story."""
    status, sold = call(base, "POST", "/v1/authorizations", key, {**SAMPLE, "terminal_trace": secrets.token_hex(3)},
                        **{"Idempotency-Key": secrets.token_hex(16)})
    if status not in (201, 202):
        say(f"the sample was refused: {status} {sold}")
        return False
    _, told = call(base, "GET", f"/v1/transactions/{sold['id']}/story", key)
    say(f"\n{told['in_short']}")
    for step in told["steps"]:
        say(f"  {step['after_ms']:>8.1f} ms  {step['what']}")
        if isinstance(step["detail"], dict) and "0" in step["detail"]:
            say("               " + " ".join(f"{number}={value.strip()}" for number, value in step["detail"].items()))
    return status == 201 and sold["status"] == "approved"


def _invitation(base: str, key: str, stubbed: bool) -> str:
    body = json.dumps(SAMPLE | {"amount": 2500})
    rule = " (amounts ending in 05, 51, 54 ... are declined)" if stubbed else ""
    return (f"\nTry it{rule}:\n  curl -s {base}/v1/authorizations -H 'Authorization: Bearer {key}' \\\n"
            f"    -H 'Content-Type: application/json' -H \"Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)\" \\\n    -d '{body}'\n"
            f"API: {base}/docs   state: {base}/readyz   metrics: {base}/metrics   stop: Ctrl-C\n")


async def demo(settings: Settings, say: SAY, acquirer: tuple[str, int] | None, once: bool) -> int:
    """Runs until SIGINT or SIGTERM; `once` ends after the sample. Returns the exit code: 0, or 1 when the sample was not approved."""
    stop = stop_event()
    handover = settings.home / "demo.json"
    async with home_lock(settings), run_lock(settings):
        handover.unlink(missing_ok=True)
        listening = listen(settings)
        say(f"home: {settings.home}")
        if sys.stderr.isatty():  # a person is watching: the story stays readable, the log goes to a file
            logs.configure((settings.home / "switch.log").open("a"), settings.log_level)
            say(f"log: {settings.home / 'switch.log'}")
        async with database_of(settings, say) as (url, alone), _host(settings, acquirer) as (host, port, control):
            say(f"acquirer: {host}:{port}" + (" (the stub)" if control else ""))
            keys = await prepare(settings, url, host, port)
            # a receiver on this machine is what one tries first
            switch = Switch(replace(settings, webhooks_anywhere=True, hsm="software", rehearsal=True), url, alone=alone)
            await switch.start()
            base = base_url(listening)
            async with serving(switch, listening, settings):
                if not await switch.lines.up(settings.sign_on_wait_s):
                    say("the acquirer's line is not up yet; payments get 503 until it is")
                _write(handover, {"base_url": base, "database_url": url, **keys, "stub_control_url": control})
                say(f"serving on {base}; keys in {handover}")
                try:
                    approved = await asyncio.to_thread(_sample, base, keys["terminal_key"], say)
                    if not once:
                        say(_invitation(base, keys["terminal_key"], control is not None))
                        await stop.wait()
                        say("draining")
                finally:
                    handover.unlink(missing_ok=True)
    return 0 if approved or not once else 1


@asynccontextmanager
async def _host(settings: Settings, acquirer: tuple[str, int] | None) -> AsyncIterator[tuple[str, int, str | None]]:
    if acquirer is not None:
        yield (*acquirer, None)
        return
    async with stub(settings) as (host, port, control):
        yield host, port, control
