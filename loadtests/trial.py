"""What a device does in its acceptance test, and its cardholder's signature: payments, undoing them, paper. HTTP only."""

import contextlib
import http.client
import struct
import time
import zlib
from typing import Any

from loadtests.chip import ChipCard
from loadtests.terminal import CONNECT_TIMEOUT, Receipt, Terminal, read

CARD = {"entry_mode": "chip", "pan": "6212345678900000003", "expiry": "3012"}
MODES = {"chip": "chip", "swipe": "magstripe", "contactless": "contactless", "manual": "manual"}
DECLINED = 51  # an amount that ends so is declined by the test host
PATIENCE_S = 60.0  # until a reversal is acknowledged


class Trial:
    """One run of a test. Amounts in minor units; `silent_amount`: a sale that the test host does not answer, None when it has none."""

    def __init__(self, terminal: Terminal, till: str, currency: str, silent_amount: int | None, chip: ChipCard | None = None) -> None:
        self.terminal, self.till, self.currency, self.silent_amount, self.chip = terminal, till, currency, silent_amount, chip
        self.sales: list[str] = []  # what must not stand in the end
        self.amount = 5000

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        outcome, answer, _ = self.terminal.exchange(method, path, body, None)
        status = outcome.split(" ")[0]
        return int(status) if status.isdigit() else 0, answer

    def run(self) -> dict[str, Any]:
        """Shows every missing step that it can. What of each step was found; `skipped`: what a person must do."""
        status, test = self.ask("GET", f"/v1/terminals/{self.till}/acceptance-test")
        if status != 200:
            return {"running": False}
        shown: dict[str, list[str]] = {}
        skipped = []
        for step in dict.fromkeys(each["step"] for each in test["missing"]):
            found = self.transaction(step)
            if found is None:
                skipped.append(step)
                continue
            body = {"step": step, "transaction": found} | ({"printed": self.paper(found)} if step == "receipt" else {})
            status, answer = self.ask("POST", f"/v1/acceptance-tests/{test['id']}/showings", body)
            shown[step] = answer["findings"] if status == 201 else [answer.get("code", "no answer")]
        left = [each for each in self.sales if not self.terminal.follow("voids", each, {}).sold]
        _, after = self.ask("GET", f"/v1/terminals/{self.till}/acceptance-test")
        return {"running": True, "test": test["id"], "shown": shown, "skipped": skipped, "not_voided": left,
                "missing": after.get("missing"), "standing": after.get("standing")}

    def transaction(self, step: str) -> str | None:
        """A transaction that should show the step."""
        if step in MODES:
            return self.sale(MODES[step])
        match step:
            case "receipt":
                return self.sale("chip")
            case "decline":
                return self.sale("chip", 7000 + DECLINED)
            case "timeout" if self.silent_amount is not None:
                return self.reversed(self.pay("chip", self.silent_amount).id)
            case "cancellation":
                made = self.pay("chip", self.next_amount())
                self.terminal.undo(made.key)
                return self.reversed(made.id)
            case "preauthorization":
                return self.sale("chip", kind="preauthorization")
            case "capture":
                held = self.pay("chip", self.next_amount(), "preauthorization").id
                return None if held is None else self.kept(held, self.terminal.follow("captures", held, {}).id)
            case "void" | "refund":
                sold = self.pay("chip", self.next_amount()).id
                return None if sold is None else self.terminal.follow(f"{step}s", sold, {}).id
        return None

    def next_amount(self) -> int:
        """Each another one, so that none is taken for a repeat; the test host approves them."""
        self.amount += 100
        return self.amount

    def pay(self, entry_mode: str, amount: int, kind: str = "purchase") -> Receipt:
        if entry_mode == "chip" and self.chip is not None:
            card = self.chip.ask(amount, self.currency)
            return self.terminal.pay({"type": kind, "amount": amount, "currency": self.currency, "card": card}, self.chip.takes)
        return self.terminal.pay({"type": kind, "amount": amount, "currency": self.currency, "card": CARD | {"entry_mode": entry_mode}})

    def sale(self, entry_mode: str, amount: int | None = None, kind: str = "purchase") -> str | None:
        made = self.pay(entry_mode, self.next_amount() if amount is None else amount, kind)
        return self.kept(made.id, made.id) if made.sold else made.id

    def kept(self, sale: str | None, shown: str | None) -> str | None:
        """Remembers what must be undone."""
        if sale is not None:
            self.sales.append(sale)
        return shown

    def reversed(self, transaction: str | None) -> str | None:
        """When its reversal is acknowledged, or patience ends."""
        end = time.monotonic() + PATIENCE_S
        while transaction is not None and time.monotonic() < end:
            if self.ask("GET", f"/v1/authorizations/{transaction}")[1].get("status") == "reversed":
                break
            time.sleep(0.2)
        return transaction

    def paper(self, transaction: str) -> dict[str, Any]:
        """What the printer puts on the paper: the fields of the receipt that this device prints."""
        _, receipt = self.ask("GET", f"/v1/transactions/{transaction}/receipt?language=en")
        names = ("masked_pan", "amount", "currency", "rrn", "approval_code", "stan")
        return {name: receipt[name] for name in names if receipt.get(name) is not None}


def drawn(width: int = 240, height: int = 80) -> bytes:
    """A signature as the screen gives it: a grey PNG."""
    lines = [bytearray([0] + [255] * width) for _ in range(height)]
    for x in range(10, width - 10):
        for y in range(3):
            lines[height // 4 + (x * 7 % (height // 2)) + y][1 + x] = 0

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b""))


def sign(terminal: Terminal, transaction: str, picture: bytes) -> tuple[str, dict[str, Any]]:
    """Uploads a signature; it may be sent again: the same bytes are the same signature."""
    kind = http.client.HTTPSConnection if terminal.url.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(terminal.url.hostname or "", terminal.url.port, timeout=CONNECT_TIMEOUT)) as connection:
        try:
            connection.request("POST", f"/v1/authorizations/{transaction}/signature", picture,
                               {"Authorization": f"Bearer {terminal.key}", "Content-Type": "image/png"})
            response = connection.getresponse()
            return read(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, {}
