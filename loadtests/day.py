"""A device's whole day, from the warehouse to a closed batch, with the people around it. HTTP only.

`python -m loadtests.terminal FOLDER day`, while `switch demo` runs: an operator registers and installs the device; it activates itself, fetches its
parameters, says how it is, sells, is killed in the middle of a sale, sells without a network, updates its software and closes its batch.
"""
import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.device import Device, Refused

MODEL, OLD, NEW = "SIM", "1.0.0", "1.1.0"
OFFLINE = {"offline_allowed": True, "offline_amount_max": 20_000, "offline_count_max": 5}
WAIT_S, AGAIN_S, TIMEOUT_S = 20.0, 0.1, 20.0
ROOT = Path(__file__).resolve().parent.parent
Say = Callable[[str], None]


def demo_of(home: Path) -> tuple[str, str]:
    """URL and operator's key of the demo that runs there. Raises Refused."""
    try:
        told = json.loads((home / "demo.json").read_text())
    except (OSError, ValueError):
        raise Refused(f"no demo runs in {home}: start `switch demo`, or say --url and --operator-key") from None
    return str(told["base_url"]), str(told["operator_key"])


class Office:
    """What the operator does. Raises Refused with what the switch said."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> Any:
        url = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"Authorization": f"Bearer {key or self.key}", **({"Content-Type": "application/json"} if body is not None else {})}
        with contextlib.closing(kind(url.hostname or "", url.port, timeout=TIMEOUT_S)) as connection:
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                raw = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Refused(f"{method} {path}: {type(error).__name__}") from None
        if response.status >= 300:
            raise Refused(f"{method} {path}: {response.status} {raw[:300].decode(errors='replace')}")
        return json.loads(raw) if response.getheader("Content-Type", "").startswith("application/json") else raw.decode()

    def installed(self, store: str | None) -> tuple[str, str, str]:
        """A new device at a new till of the store, else of the newest one: (id, serial number, till)."""
        store = store or str(self.ask("GET", "/v1/stores?limit=1")["items"][0]["id"])
        till = str(self.ask("POST", "/v1/terminals", {"store": store, "name": "Simulated till"})["id"])
        serial = f"SIM-{secrets.token_hex(6).upper()}"
        ident = str(self.ask("POST", "/v1/devices", {"serial_number": serial, "model": MODEL, "reason": "simulated"})["id"])
        for event, more in (("order", {"store": store}), ("ship", {}), ("install", {"terminal": till})):
            self.move(ident, event, **more)
        return ident, serial, till

    def move(self, ident: str, event: str, **more: str) -> None:
        self.ask("POST", f"/v1/devices/{ident}/moves", {"event": event, "reason": "simulated", **more})

    def rolled_out(self, till: str) -> None:
        """The next version for this store's devices; what an earlier day has left goes on."""
        for version in (OLD, NEW):
            with contextlib.suppress(Refused):  # it is there already
                self.ask("POST", "/v1/releases", {"model": MODEL, "version": version, "url": "https://files.example/sim", "sha256": "0" * 64,
                                                  "size": 1})
        with contextlib.suppress(Refused):  # one runs already
            self.ask("POST", "/v1/rollouts", {"model": MODEL, "version": NEW, "back_to": OLD, "percent": 100, "reason": "simulated"})


def eventually(reached: Callable[[], bool], complaint: str) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        if time.monotonic() > end:
            raise Refused(complaint)
        time.sleep(AGAIN_S)


def killed(device: Device, amount: int) -> list[Any]:
    """A process of its own sells with this memory and is killed once its key is on disk; the device starts again and closes what is open."""
    journal = device.folder / "journal"
    device.close()
    before = journal.stat().st_size
    command = [sys.executable, "-m", "loadtests.terminal", str(device.folder), "sell", str(amount)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: journal.stat().st_size > before or process.poll() is not None, "the process that sells does not begin")
    process.send_signal(signal.SIGKILL)
    process.wait()
    device.power_loss()
    return device.terminal.resume()


def day(device: Device, url: str, operator_key: str, say: Say, store: str | None = None) -> dict[str, Any]:
    """All of it in order; raises Refused at the first step that does not go as it should."""
    office = Office(url, operator_key)
    ident, serial, till = office.installed(store)
    code = office.ask("POST", f"/v1/devices/{ident}/activation-codes", {})["code"]
    device.activate(url, serial, code)
    say(f"{serial} is activated by its code")
    office.move(ident, "go_live")
    office.ask("PUT", f"/v1/parameters/{till}", {"values": OFFLINE, "reason": "simulated"})
    eventually(lambda: bool(device.heartbeat(battery_percent=90, paper="ok")["sells"]), "the till does not come to sell")
    if device.fetch_parameters() or device.memory["parameters"].get("offline_count_max") != OFFLINE["offline_count_max"]:
        raise Refused("the parameters are not what was set, or came twice")
    say(f"live, with parameters {device.memory['parameters_version']}")
    sold = [device.sell(amount) for amount in (12_300, 4_500)]
    for receipt in sold:
        if not receipt.sold:
            raise Refused(f"a sale is {receipt.status}: the store's merchant needs a route to an acquirer that is up")
        say(office.ask("GET", f"/v1/transactions/{receipt.id}/receipt?format=text", key=device.memory["key"]))
    lost = killed(device, 7_000)
    say(f"killed in a sale and started again: {', '.join(f'{each.status}, sold: {each.sold}' for each in lost) or 'its answer was kept'}")
    for amount in (5_000, 6_000):
        device.sell_offline(amount)
    device.power_loss()
    taken = device.sync()
    say(f"{taken} sales of the time without a network are in")
    office.rolled_out(till)
    waits = device.heartbeat()["software"]["install"]
    closed = device.terminal.close_batch(device.memory["terminal"])
    device.heartbeat()
    say(f"batch closed, in balance: {closed.get('in_balance')}; software {device.memory['software_version']}")
    found = {"device": ident, "terminal": till, "sold": sum(each.sold for each in sold), "lost": [each.status for each in lost], "offline": taken,
             "update": waits, "software": device.memory["software_version"], "in_balance": closed.get("in_balance")}
    if (found["sold"], found["offline"], found["in_balance"], device.memory["queue"]) != (2, 2, True, []):
        raise Refused(f"the day did not end as it should: {json.dumps(found)}")
    return found


def of_options(device: Device, url: str | None, operator_key: str | None, store: str | None) -> dict[str, Any]:
    if url is None or operator_key is None:
        told = demo_of(Path(os.environ.get("SWITCH_HOME") or ".switch"))
        url, operator_key = url or told[0], operator_key or told[1]
    return day(device, url, operator_key, lambda text: print(text, file=sys.stderr, flush=True), store)
