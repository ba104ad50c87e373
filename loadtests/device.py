"""A device around the terminal: activated by a code, with parameters and heartbeats, an offline queue and a chip card. HTTP only.

`python -m loadtests.terminal FOLDER activate | parameters | heartbeat | sell | power-loss | offline | sync | close | accept | sign` acts as one
device whose memory is FOLDER.
"""

import argparse
import contextlib
import http.client
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from loadtests import trial
from loadtests.chip import ChipCard
from loadtests.terminal import CONNECT_TIMEOUT, Receipt, Terminal, read
from loadtests.trial import CARD, Trial

FACTORY = {"software_version": "1.0.0", "parameters": {}, "etag": None, "queue": [], "tampered": False}


class Refused(Exception):
    """The switch said no; the text is what it said."""


class Device:
    """One device: `memory` is what it would keep in flash, the terminal's journal beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "device.json"
        self.memory: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._terminal: Terminal | None = None

    def keep(self, **changed: Any) -> None:
        """Durable when it returns: a power loss leaves the old memory or the new one."""
        self.memory |= changed
        new = self.file.with_suffix(".new")
        with open(new, "w") as file:
            os.fchmod(file.fileno(), 0o600)  # it holds the key
            json.dump(self.memory, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.file)

    @property
    def terminal(self) -> Terminal:
        if "key" not in self.memory:
            raise Refused("this device has no key: activate it")
        if self._terminal is None:
            self._terminal = Terminal(self.memory["url"], self.memory["key"], self.folder / "journal")
        return self._terminal

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.journal.file.close()
        self._terminal = None

    def power_loss(self) -> None:
        """What is not on disk is gone."""
        self.close()
        self.memory = json.loads(self.file.read_text()) if self.file.exists() else {}

    def activate(self, url: str, serial_number: str, code: str) -> dict[str, Any]:
        """The key is on disk before anything else happens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        asking = Terminal(url, "", self.folder / "journal")
        outcome, answer, _ = asking.exchange("POST", "/v1/activations", {"serial_number": serial_number, "code": code}, None)
        asking.journal.file.close()
        if not outcome.startswith("201"):
            raise Refused(outcome)
        self.keep(**FACTORY | {"url": url, "serial_number": serial_number, "key": answer["key"], "terminal": answer["terminal"]})
        return {name: value for name, value in answer.items() if name != "key"}

    def fetch_parameters(self) -> bool:
        """Whether they were new. What it has is asked for by its ETag."""
        url, path = self.terminal.url, f"/v1/terminals/{self.memory['terminal']}/parameters"
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"Authorization": f"Bearer {self.memory['key']}", **({"If-None-Match": self.memory["etag"]} if self.memory["etag"] else {})}
        with contextlib.closing(kind(url.hostname or "", url.port, timeout=CONNECT_TIMEOUT)) as connection:
            try:
                connection.request("GET", path, None, headers)
                response = connection.getresponse()
                raw = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Refused(type(error).__name__) from None
        if response.status == 304:
            return False
        outcome, answer = read(response.status, raw)
        if response.status != 200:
            raise Refused(outcome)
        self.keep(parameters=answer["values"], parameters_version=answer["version"], etag=response.getheader("ETag"))
        return True

    def heartbeat(self, **health: Any) -> dict[str, Any]:
        """Says how it is and does what it is told: erases keys, fetches parameters, installs software between batches."""
        tamper = bool(health.pop("tamper", False)) or self.memory["tampered"]
        if tamper:
            self.keep(tampered=True)  # first: a power loss does not heal it
        version = self.memory.get("parameters_version")
        body = {"serial_number": self.memory["serial_number"], "software_version": self.memory["software_version"], "tamper": tamper,
                "batch_open": self.batch_open, "queued_offline": len(self.memory["queue"]), **({"parameters_version": version} if version else {}),
                **health}
        outcome, answer, _ = self.terminal.exchange("POST", f"/v1/terminals/{self.memory['terminal']}/heartbeats", body, None)
        if tamper and (outcome.startswith(("200", "401"))):
            self.erase()
            return answer
        if not outcome.startswith("200"):
            raise Refused(outcome)
        if answer["erase_keys"]:
            self.erase()
            return answer
        if answer["parameters_version"] != version:
            self.fetch_parameters()
        if answer["software"]["install"] == "now" and not self.batch_open:  # a sale may have come in between
            self.keep(software_version=answer["software"]["version"])
        return answer

    def erase(self) -> None:
        """No key is left; the journal stays, since a person may have to settle what is open."""
        self.power_loss()
        self.memory.pop("key", None)
        self.keep(queue=self.memory["queue"])

    @property
    def batch_open(self) -> bool:
        """Whether something was sold since the last close."""
        entries = list(self.terminal.journal.entries.values())
        closed = [at for at, entry in enumerate(entries) if entry.get("batch") == "closed"]
        return any(entry.get("sold") for entry in entries[closed[-1] + 1 if closed else 0:]) or bool(self.memory["queue"])

    def sell(self, amount: int, currency: str = "CNY", chip: ChipCard | None = None) -> Receipt:
        """With a chip that signs the request and may refuse the answer, or as a card that does neither."""
        if chip is not None:
            return self.terminal.pay({"type": "purchase", "amount": amount, "currency": currency, "card": chip.ask(amount, currency)}, chip.takes)
        return self.terminal.pay({"type": "purchase", "amount": amount, "currency": currency, "card": CARD})

    def sell_offline(self, amount: int, currency: str = "CNY") -> dict[str, Any]:
        """Approved by the chip within the limits of its parameters, and queued on disk before the customer sees it."""
        allowed = self.memory["parameters"]
        if not allowed.get("offline_allowed") or amount > allowed.get("offline_amount_max", 0) or \
                len(self.memory["queue"]) >= allowed.get("offline_count_max", 0):
            raise Refused("offline sales are not allowed, or not so large or so many")
        sale = {"key": secrets.token_hex(16), "body": {"amount": amount, "currency": currency, "card": CARD, "approval_code": "Y1"}}
        self.keep(queue=[*self.memory["queue"], sale])
        return sale

    def sync(self) -> int:
        """Sends the queue in its order; what is not acknowledged stays. Returns how many were taken."""
        taken = 0
        while self.memory["queue"]:
            sale = self.memory["queue"][0]
            outcome, answer, _ = self.terminal.exchange("POST", "/v1/advices", sale["body"], sale["key"])
            if not outcome.startswith("201"):
                break
            self.terminal.journal.write({"key": sale["key"], "amount": sale["body"]["amount"], "currency": sale["body"]["currency"], "sold": True,
                                         "status": answer["status"], "id": answer["id"], "approval_code": answer["approval_code"], "advice": None})
            self.keep(queue=self.memory["queue"][1:])
            taken += 1
        return taken


    def accept(self, silent_amount: int | None = None, currency: str = "CNY", chip: ChipCard | None = None) -> dict[str, Any]:
        """Does the acceptance test that is running at its till, and undoes what it sold."""
        return Trial(self.terminal, self.memory["terminal"], currency, silent_amount, chip).run()

    def sign(self, transaction: str, picture: bytes | None = None) -> dict[str, Any]:
        """The cardholder's signature of a payment."""
        outcome, answer = trial.sign(self.terminal, transaction, picture or trial.drawn())
        if not outcome.startswith(("200", "201")):
            raise Refused(outcome)
        return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m loadtests.terminal", description="One simulated device; its memory is a folder.")
    parser.add_argument("folder", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    activate = verbs.add_parser("activate", help="by the code that an operator issued")
    activate.add_argument("serial_number")
    activate.add_argument("code")
    activate.add_argument("--url", required=True)
    verbs.add_parser("parameters", help="fetch them if they are new")
    beat = verbs.add_parser("heartbeat", help="say how it is, and do what it is told")
    beat.add_argument("--battery", type=int, dest="battery_percent")
    beat.add_argument("--paper", choices=("ok", "low", "out"))
    beat.add_argument("--tamper", action="store_true", help="its case was opened: it erases its keys")
    sell = verbs.add_parser("sell", help="authorize a payment")
    lost = verbs.add_parser("power-loss", help="begin a payment, lose power before the answer is kept, start again and close it")
    offline = verbs.add_parser("offline", help="approve a sale without the switch, and queue it")
    for each in (sell, lost, offline):
        each.add_argument("amount", type=int, metavar="MINOR_UNITS")
        each.add_argument("--currency", default="CNY")
    sell.add_argument("--imk", metavar="HEX", help="issuer master key of a test, as the stub's: the chip signs, and judges the answer")
    verbs.add_parser("sync", help="send what was approved offline")
    verbs.add_parser("close", help="close the batch")
    accept = verbs.add_parser("accept", help="do the acceptance test that is running at its till")
    accept.add_argument("--silent-amount", type=int, metavar="MINOR_UNITS", help="of a sale that the test host does not answer, for the step timeout")
    signed = verbs.add_parser("sign", help="upload the cardholder's signature of a payment")
    signed.add_argument("transaction", help="txn_...")
    signed.add_argument("--file", type=Path, help="a PNG; default: one that is drawn")
    return parser


def lose_power(device: Device, amount: int, currency: str) -> list[Receipt]:
    """The request leaves and its answer is never kept; after the start the journal's open key is asked for and cancelled."""
    device.terminal.journal.write({"key": (key := secrets.token_hex(16)), "amount": amount, "currency": currency, "held": False})
    device.terminal.exchange("POST", "/v1/authorizations", {"type": "purchase", "amount": amount, "currency": currency, "card": CARD}, key)
    device.power_loss()
    return device.terminal.resume()


def _act(device: Device, options: argparse.Namespace) -> Any:
    match options.verb:
        case "activate":
            return device.activate(options.url, options.serial_number, options.code)
        case "parameters":
            return {"new": device.fetch_parameters(), "version": device.memory["parameters_version"], "values": device.memory["parameters"]}
        case "heartbeat":
            known = {name: value for name in ("battery_percent", "paper") if (value := getattr(options, name)) is not None}
            return device.heartbeat(tamper=options.tamper, **known)
        case "sell":
            chip = ChipCard(options.imk, CARD["pan"], CARD["expiry"]) if options.imk else None
            return device.sell(options.amount, options.currency, chip)._asdict()
        case "power-loss":
            return [each._asdict() for each in lose_power(device, options.amount, options.currency)]
        case "offline":
            return {"queued": len(device.memory["queue"]), "key": device.sell_offline(options.amount, options.currency)["key"]}
        case "sync":
            return {"taken": device.sync(), "left": len(device.memory["queue"])}
        case "accept":
            return device.accept(options.silent_amount)
        case "sign":
            return device.sign(options.transaction, _picture(options.file))
    return device.terminal.close_batch(device.memory["terminal"])


def _picture(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise Refused(f"the picture cannot be read ({type(error).__name__})") from None


def main(arguments: list[str] | None = None) -> int:
    """0 when it was done; what was refused is one line on stderr and 1."""
    options = _parser().parse_args(arguments)
    device = Device(options.folder)
    try:
        if options.verb != "activate" and "url" not in device.memory:
            raise Refused("activate it first")
        print(json.dumps(_act(device, options)))
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 1
    finally:
        device.close()
    return 0
