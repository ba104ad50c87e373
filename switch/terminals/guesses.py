"""Activation codes and how often one may be wrong. Pure.

A code is eight characters of an alphabet without look-alikes, 40 bits. Five wrong tries end it, so a guess at a known serial number hits with
5 in 2**40; the limits of address and till keep whoever tries many serial numbers, or has codes issued again and again, from going on.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from uuid import UUID

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
LENGTH = 8
LIVES = timedelta(hours=24)
FAILURES_OF_A_CODE = 5


class Limit(NamedTuple):
    """So many failures in `within`, then nothing is tried for `locked`."""

    failures: int
    within: timedelta
    locked: timedelta


LIMITS = {
    "address": Limit(20, timedelta(minutes=15), timedelta(minutes=15)),
    "terminal": Limit(10, timedelta(hours=24), timedelta(hours=1)),
}
_LOOKS_LIKE = str.maketrans("ILO", "110")
_CODE = re.compile(f"[{ALPHABET}]{{{LENGTH}}}", re.ASCII)


def code_of(randomness: bytes) -> str:
    """The code behind five random bytes, 40 bits."""
    value = int.from_bytes(randomness[:5], "big")
    return "".join(ALPHABET[value >> 5 * at & 31] for at in range(LENGTH))


def written(code: str) -> str:
    """As people read it: 7K2M-9QXD."""
    return f"{code[:4]}-{code[4:]}"


def read(text: str) -> str | None:
    """The code behind what a person typed, None when it is none."""
    plain = re.sub("[ -]", "", text).upper().translate(_LOOKS_LIKE)
    return plain if _CODE.fullmatch(plain) else None


def hashed(device_id: UUID, code: str) -> bytes:
    """What is hashed with the vault's key: a code is of one device only."""
    return b"activation|" + device_id.bytes + code.encode()


def client_of(peer: str | None, forwarded: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str | None:
    """Who asks: the peer, or what trusted proxies say of it, read from the end. What came before an untrusted address anybody can write."""
    named = [each.strip() for each in forwarded.split(",") if each.strip()]
    client = peer
    while named and _within(client, trusted):
        client = named.pop()
    return client


def _within(host: str | None, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        address = ip_address(host or "")
    except ValueError:
        return False
    return any(address in network for network in networks)


def subject_of(host: str | None) -> str:
    """Whose failures are counted together: an IPv4 address, or the /64 of an IPv6 one, which a single line has whole."""
    try:
        address: IPv4Address | IPv6Address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
