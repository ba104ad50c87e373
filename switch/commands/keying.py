"""The command `switch crypto-keys list | load | component | block | ask | retire`: at a running switch with an operator's key.

Components and key blocks come from the terminal without an echo, or from standard input; never from an argument, which others of the machine see.
"""

import argparse
import getpass
import sys
from collections.abc import Callable, Iterator
from typing import Any

from switch.commands.inquiries import Question, asking, put, quoted
from switch.settings import Settings

PURPOSES = ("kek", "tmk", "pin", "mac", "track", "bdk")
ALGORITHMS = ("des", "tdes", "aes", "sm4")


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("crypto-keys", help="cryptographic keys by their check values: list, load by two people").add_subparsers(
        dest="kind", required=True)
    asking(kinds.add_parser("list", help="newest first; no key is ever shown")).add_argument("--owner", help="acq_..., trm_... or mer_...")
    for kind, text in (("load", "the first of two or three components, read from the terminal"), ("block", "a TR-31 block, read from there")):
        made = asking(kinds.add_parser(kind, help=text))
        made.add_argument("--owner", required=True, help="acq_..., trm_... or mer_...")
        made.add_argument("--purpose", required=True, choices=PURPOSES)
        made.add_argument("--name", default="", help="of a terminal's pin key: its key_id; of a bdk: the start of its serial numbers")
        made.add_argument("--algorithm", default="tdes", choices=ALGORITHMS)
        made.add_argument("--kcv", required=True, help="check value of the whole key, 6 hex characters")
        made.add_argument("--reason", required=True, help="what you have and from whom; it stays with the approval")
        if kind == "load":
            made.add_argument("--components", type=int, default=2, choices=(2, 3))
            made.add_argument("--component-kcv", required=True, help="check value of this component")
        else:
            made.add_argument("--under", required=True, help="cky_... of the key encryption key")
    given = asking(kinds.add_parser("component", help="the next component, by another person"))
    given.add_argument("crypto_key", help="cky_...")
    given.add_argument("--component-kcv", required=True, help="check value of this component")
    given.add_argument("--reason", required=True)
    for kind, text in (("ask", "ask again for the second person of a key that is whole"), ("retire", "ask a second person to take a key out of use")):
        asked = asking(kinds.add_parser(kind, help=text))
        asked.add_argument("crypto_key", help="cky_...")
        asked.add_argument("--reason", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options, _secret), options, settings, say)


def _secret(what: str) -> str:
    return getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline().strip()


def _question(options: argparse.Namespace, secret: Callable[[str], str]) -> Question:
    match options.kind:
        case "list":
            owner = f"&owner={quoted(options.owner)}" if options.owner else ""
            return Question("GET", f"/v1/crypto-keys?limit=200{owner}", None, lambda body: map(_key, body["items"]))
        case "component":
            body = {"component": secret("component"), "kcv": options.component_kcv, "reason": options.reason}
            return Question("POST", f"/v1/crypto-keys/{quoted(options.crypto_key)}/components", body, _told)
        case "ask" | "retire":
            path = "approval" if options.kind == "ask" else "retirement"
            return Question("POST", f"/v1/crypto-keys/{quoted(options.crypto_key)}/{path}", {"reason": options.reason}, _told)
    wanted = {name: getattr(options, name) for name in ("owner", "purpose", "name", "algorithm", "kcv", "reason")}
    if options.kind == "block":
        return Question("POST", "/v1/crypto-keys", wanted | {"key_block": {"block": secret("key block"), "under": options.under}}, _told)
    first = {"count": options.components, "component": secret("component"), "kcv": options.component_kcv}
    return Question("POST", "/v1/crypto-keys", wanted | {"components": first}, _told)


def _told(body: Any) -> Iterator[str]:
    if "payload" in body:
        yield f"{body['payload']['key']}  kcv {body['payload']['kcv']}  waits: another person runs `switch approvals approve {body['id']}`"
    else:
        yield f"{_key(body)}  component {body['entered']} of {body['components']}: another person runs `switch crypto-keys component {body['id']}`"


def _key(row: Any) -> str:
    name = f" {row['name']}" if row["name"] else ""
    return f"{row['id']}  {row['state']:<10} {row['purpose']}{name}  {row['algorithm']}  kcv {row['kcv']}  {row['source']}  {row['owner']}"
