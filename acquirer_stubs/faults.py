"""Misbehaviour on request: what a fault matches and what it does to an answer.

    delay VALUE s (1)    late VALUE s (8)       answer later; the decision is taken at once
    silence              decided and booked, never answered
    duplicate            answered twice
    wrong DE ("11")      that element of the answer is changed ("0" = MTI), or left out when written "-DE"
    garbage              undecodable bytes in a sound frame; value "frame": a header that announces more than any message has
    cut                  booked, then the connection is closed instead of an answer; value "before": closed without booking, "middle": after
                         half of the answer
    half_open            booked, then the line is neither read nor answered but stays open; value "before": without booking
    code CODE            answered with that DE39; money moves only for 00 and 10
    mac ("wrong")        the answer's DE64 is wrong; "missing": it has none; "former": made with the key before
    keys ("kcv")         of a sign-in (match {"0": "0800"}): a check value in DE62 is wrong; "none": no DE62; or one of keys.LAYOUTS
    arpc ("wrong")       an approval's ARPC (tag 91) is one that no card takes; "missing": it has none    } with an issuer (--imk), and of what
    script ("72")        an approval carries an issuer script in that tag, 71 or 72                       } came with a right ARQC

"any" matches every message but network management (0800), which has to be named by its MTI under "0" or by an element.
"""
import os
from dataclasses import dataclass, field
from typing import Any

from acquirer_stubs.codec import FIELDS, Message
from acquirer_stubs.keys import LAYOUTS

ACTIONS = frozenset(("delay", "silence", "late", "duplicate", "wrong", "garbage", "cut", "half_open", "code", "mac", "keys", "arpc", "script"))
DEFAULTS: dict[str, float | str] = {"delay": 1.0, "late": 8.0, "wrong": "11", "mac": "wrong", "keys": "kcv", "arpc": "wrong", "script": "72"}
KEYED = {"mac": ("wrong", "missing", "former"), "keys": ("kcv", "none", *LAYOUTS)}
OF_CHIPS = {"arpc": ("wrong", "missing"), "script": ("71", "72")}
ELEMENTS = frozenset(map(str, FIELDS))
SECONDS_MAX = 3600
FAULTS_MAX = 1000


class BadFault(ValueError):
    """An order that cannot be carried out; the text says what is wrong with it."""


@dataclass(slots=True)
class Fault:
    """One order; `left` None = until deleted, `match` None = any."""
    match: dict[int, str] | None
    action: str
    value: float | str | None
    left: int | None

    def matches(self, message: Message) -> bool:
        """Trailing spaces of DE41 and DE42 need not be written."""
        if self.match is None:
            return message[0][1] != "8"
        return all(message.get(de, "").rstrip() == value for de, value in self.match.items())


@dataclass(slots=True)
class Faults:
    """The orders in the sequence they came; the first that matches is used."""
    ordered: list[Fault] = field(default_factory=list)

    def take(self, message: Message) -> Fault | None:
        for fault in self.ordered:
            if fault.matches(message):
                if fault.left is not None:
                    fault.left -= 1
                    if fault.left == 0:
                        self.ordered.remove(fault)
                return fault
        return None


def parse(order: Any) -> Fault:
    """A fault from the JSON body of POST /faults. Raises BadFault."""
    if not isinstance(order, dict) or not order.keys() <= {"match", "action", "value", "count"}:
        raise BadFault("an object with match, action, value and count is expected")
    count = order.get("count", 1)
    if count is not None and (type(count) is not int or count < 1):
        raise BadFault("count: a whole number from 1, or null")
    action = order.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise BadFault(f"action: one of {' '.join(sorted(ACTIONS))}")
    value = order.get("value")
    value = DEFAULTS.get(action) if value is None else value
    if not _value_fits(action, value):
        raise BadFault(f"value: does not fit {action}")
    return Fault(_match(order.get("match")), action, value, count)


def _value_fits(action: str, value: Any) -> bool:
    if action in ("delay", "late"):
        return type(value) in (int, float) and 0 <= value <= SECONDS_MAX
    if action == "wrong":
        return isinstance(value, str) and (value == "0" or value.removeprefix("-") in ELEMENTS)
    if words := (KEYED | OF_CHIPS).get(action):
        return value in words
    if action == "code":
        return isinstance(value, str) and len(value) == 2 and value.isascii() and value.isalnum()
    return value is None or (action == "garbage" and value == "frame") or (action in ("cut", "half_open") and value == "before") \
        or (action == "cut" and value == "middle")


def _match(match: Any) -> dict[int, str] | None:
    if match == "any":
        return None
    if not isinstance(match, dict) or not match:
        raise BadFault('match: "any" or an object {DE: value}')
    found = {}
    for de, value in match.items():
        if not ((de == "0" or de in ELEMENTS) and isinstance(value, str)):
            raise BadFault('match: keys are element numbers ("0" is the MTI), values are strings')
        found[int(de)] = value.rstrip()
    return found


def corrupted(reply: Message, value: str) -> Message:
    """The answer with one element changed to another value of the same form, or left out for "-DE"."""
    de = int(value.lstrip("-"))
    if value.startswith("-"):
        return {key: held for key, held in reply.items() if key != de}
    if de not in reply:
        return reply
    last = reply[de].rstrip()[-1:]
    changed = str((int(last) + 1) % 10) if last.isdigit() else "Y" if last == "X" else "X"
    kept = len(reply[de].rstrip()[:-1])
    return reply | {de: reply[de][:kept] + changed + reply[de][kept + 1:]}


def garbage(fault: Fault, size: int) -> bytes:
    """Bytes with the framing around them; the first one is never a digit of an MTI."""
    body = b"\xff" + os.urandom(size - 1)
    header = b"\xff\xff" if fault.value == "frame" else size.to_bytes(2, "big")
    return header + body
