"""`python -m loadtests.terminal FOLDER VERB`: one simulated device whose memory is FOLDER, or its whole day."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from loadtests.chip import ChipCard
from loadtests.day import of_options
from loadtests.device import Device, Refused, lose_power
from loadtests.trial import CARD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m loadtests.terminal", description="One simulated device; its memory is a folder.")
    parser.add_argument("folder", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    activate = verbs.add_parser("activate", help="by the code that an operator issued")
    activate.add_argument("serial_number")
    activate.add_argument("code")
    activate.add_argument("--url", required=True)
    verbs.add_parser("sign-in", help="new working keys; their check values are shown")
    verbs.add_parser("parameters", help="fetch them if they are new")
    beat = verbs.add_parser("heartbeat", help="say how it is, and do what it is told")
    beat.add_argument("--battery", type=int, dest="battery_percent")
    beat.add_argument("--paper", choices=("ok", "low", "out"))
    beat.add_argument("--position", nargs=2, type=float, metavar=("LATITUDE", "LONGITUDE"), help="degrees")
    beat.add_argument("--tamper", action="store_true", help="its case was opened: it erases its keys")
    sell = verbs.add_parser("sell", help="authorize a payment")
    lost = verbs.add_parser("power-loss", help="begin a payment, lose power before the answer is kept, start again and close it")
    offline = verbs.add_parser("offline", help="approve a sale without the switch, and queue it")
    for each in (sell, lost, offline):
        each.add_argument("amount", type=int, metavar="MINOR_UNITS")
        each.add_argument("--currency", default="CNY")
    sell.add_argument("--pin", metavar="DIGITS", help="of a test card, under the PIN key of the last sign-in")
    sell.add_argument("--imk", metavar="HEX", help="issuer master key of a test, as the stub's: the chip signs, and judges the answer")
    verbs.add_parser("sync", help="send what was approved offline")
    verbs.add_parser("close", help="close the batch")
    accept = verbs.add_parser("accept", help="do the acceptance test that is running at its till")
    accept.add_argument("--silent-amount", type=int, metavar="MINOR_UNITS", help="of a sale that the test host does not answer, for the step timeout")
    signed = verbs.add_parser("sign", help="upload the cardholder's signature of a payment")
    signed.add_argument("transaction", help="txn_...")
    signed.add_argument("--file", type=Path, help="a PNG; default: one that is drawn")
    whole = verbs.add_parser("day", help="all of it, with an operator: installed, live, sales, a kill, offline, an update, closed")
    whole.add_argument("--url", help="the switch; default: the demo's")
    whole.add_argument("--operator-key", help="default: the demo's")
    whole.add_argument("--store", metavar="sto_...", help="whose till it becomes; default: the newest")
    return parser


def _act(device: Device, options: argparse.Namespace) -> Any:
    match options.verb:
        case "activate":
            return device.activate(options.url, options.serial_number, options.code)
        case "sign-in":
            return device.sign_in()
        case "parameters":
            return {"new": device.fetch_parameters(), "version": device.memory["parameters_version"], "values": device.memory["parameters"]}
        case "heartbeat":
            known = {name: value for name in ("battery_percent", "paper") if (value := getattr(options, name)) is not None}
            if options.position is not None:
                known["position"] = dict(zip(("latitude_e6", "longitude_e6"), (round(each * 1_000_000) for each in options.position), strict=True))
            return device.heartbeat(tamper=options.tamper, **known)
        case "sell":
            chip = ChipCard(options.imk, CARD["pan"], CARD["expiry"]) if options.imk else None
            return device.sell(options.amount, options.currency, chip, options.pin)._asdict()
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
        case "day":
            return of_options(device, options.url, options.operator_key, options.store)
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
        if options.verb not in ("activate", "day") and "url" not in device.memory:
            raise Refused("activate it first")
        print(json.dumps(_act(device, options)))
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 1
    finally:
        device.close()
    return 0
