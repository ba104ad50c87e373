"""A device around the terminal: activated by a code, with parameters and heartbeats, an offline queue and a chip card. HTTP only."""

import contextlib
import http.client
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests import trial
from loadtests.chip import ChipCard
from loadtests.keying import Transport, WrongKey, opened, pin_block
from loadtests.terminal import CONNECT_TIMEOUT, Receipt, Terminal, read
from loadtests.trial import CARD, Trial

FACTORY = {"software_version": "1.0.0", "parameters": {}, "etag": None, "queue": [], "tampered": False}
SECRET = frozenset({"key", "tmk", "master_key"})


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
        asking, transport = Terminal(url, "", self.folder / "journal"), Transport()
        body = {"serial_number": serial_number, "code": code}
        outcome, answer, _ = asking.exchange("POST", "/v1/activations", body | {"transport_key": transport.point.hex()}, None)
        if outcome == "422 not_supported":  # a switch without a security module; the code is as good as before
            outcome, answer, _ = asking.exchange("POST", "/v1/activations", body, None)
        asking.journal.file.close()
        if not outcome.startswith("201"):
            raise Refused(outcome)
        master = self._right(lambda: transport.master(serial_number, answer["master_key"])) if answer["master_key"] else None
        self.keep(**FACTORY | {"url": url, "serial_number": serial_number, "key": answer["key"], "terminal": answer["terminal"], "tmk": master,
                               "working": {}})
        return {name: value for name, value in answer.items() if name not in SECRET}

    def sign_in(self) -> dict[str, str]:
        """New working keys, all or none: each of its usage and with its check value, which is all that is returned."""
        if not self.memory.get("tmk"):
            raise Refused("this device has no master key: activate it at a switch with a security module")
        outcome, answer, _ = self.terminal.exchange("POST", f"/v1/terminals/{self.memory['terminal']}/key-sign-ins", {}, None)
        if not outcome.startswith("201"):
            raise Refused(outcome)
        return self.take_keys(answer["keys"])

    def take_keys(self, given: list[dict[str, Any]]) -> dict[str, str]:
        under = bytes.fromhex(self.memory["tmk"])
        keys = self._right(lambda: {each["purpose"]: {"key": opened(each["purpose"], under, each), "key_id": each["key_id"]} for each in given})
        self.keep(working=keys)
        return {each["purpose"]: each["kcv"] for each in given}

    @staticmethod
    def _right(open_it: Callable[[], Any]) -> Any:
        try:
            return open_it()
        except WrongKey as error:
            raise Refused(str(error)) from None

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
        for name in SECRET | {"working"}:
            self.memory.pop(name, None)
        self.keep(queue=self.memory["queue"])

    @property
    def batch_open(self) -> bool:
        """Whether something was sold since the last close."""
        entries = list(self.terminal.journal.entries.values())
        closed = [at for at, entry in enumerate(entries) if entry.get("batch") == "closed"]
        return any(entry.get("sold") for entry in entries[closed[-1] + 1 if closed else 0:]) or bool(self.memory["queue"])

    def sell(self, amount: int, currency: str = "CNY", chip: ChipCard | None = None, pin: str | None = None) -> Receipt:
        """With a chip that signs the request and may refuse the answer, or as a card that does neither; with a PIN under the working key."""
        if chip is not None:
            return self.terminal.pay({"type": "purchase", "amount": amount, "currency": currency, "card": chip.ask(amount, currency)}, chip.takes)
        return self.terminal.pay({"type": "purchase", "amount": amount, "currency": currency, "card": CARD | self.with_pin(pin)})

    def with_pin(self, pin: str | None) -> dict[str, Any]:
        if pin is None:
            return {}
        if "pin" not in self.memory.get("working", {}):
            raise Refused("this device has no PIN key: sign in")
        key = self.memory["working"]["pin"]
        return {"pin": pin_block(pin, CARD["pan"], key["key"]) | {"key_id": key["key_id"]}}

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


def lose_power(device: Device, amount: int, currency: str) -> list[Receipt]:
    """The request leaves and its answer is never kept; after the start the journal's open key is asked for and cancelled."""
    device.terminal.journal.write({"key": (key := secrets.token_hex(16)), "amount": amount, "currency": currency, "held": False})
    device.terminal.exchange("POST", "/v1/authorizations", {"type": "purchase", "amount": amount, "currency": currency, "card": CARD}, key)
    device.power_loss()
    return device.terminal.resume()
