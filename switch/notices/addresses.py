"""Where webhooks may go: the form of an address, and which IP addresses are public. Nothing is looked up here."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

URL_MAX = 500
LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII)
VISIBLE = re.compile(r"[!-~]+", re.ASCII)

# IANA's special-purpose registries (RFC 6890 and what came after), multicast and reserved space: none is a merchant's public address.
NOT_PUBLIC = tuple(map(ip_network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    # of the metadata services of clouds those that lie in public space
    "168.63.129.16/32", "100.100.100.200/32",
    # within 2000::/3: protocol assignments with Teredo, documentation, 6to4 and what else carries an IPv4 address
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)))
PUBLIC6 = ip_network("2000::/3")  # everything else of IPv6: loopback, mapped, NAT64, local, link-local, multicast


class Address(NamedTuple):
    """A checked URL in parts. `target`: what stands in the request line; `host`: as Host and SNI say it."""

    secure: bool
    host: str
    port: int
    target: str

    @property
    def header(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


class Refused(ValueError):
    """An address that no webhook goes to; the text says the rule and not the address."""


def public(address: str) -> bool:
    """Whether an IP address, as text, is one that anybody may reach."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and (found.scope_id is not None or found not in PUBLIC6):
        return False
    return found.is_global and not found.is_multicast and not any(found in network for network in NOT_PUBLIC if network.version == found.version)


def parsed(url: str, anywhere: bool) -> Address:
    """The parts of an address to save. `anywhere`: plain http and addresses that are not public are taken, for a demo. Raises Refused."""
    if len(url) > URL_MAX or not VISIBLE.fullmatch(url) or "\\" in url or "#" in url:
        raise Refused(f"It must be at most {URL_MAX} visible ASCII characters, without a fragment or backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("It must be an absolute URL with a sound host and port") from None
    if parts.scheme != "https" and not (anywhere and parts.scheme == "http"):
        raise Refused("It must start with https://")
    if parts.username is not None or parts.password is not None:
        raise Refused("It must not hold a user or password")
    host, secure = parts.hostname or "", parts.scheme == "https"
    if port == 0:
        raise Refused("The port must be from 1 to 65535")
    _check_host(host, anywhere)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(secure, host, port or (443 if secure else 80), target)


def _check_host(host: str, anywhere: bool) -> None:
    """A name with a dot whose last label is no number (so that 127.1 and 0x7f000001 are no names), or an IP address in its usual form."""
    try:
        ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        named = all(LABEL.fullmatch(label) for label in labels) and len(host) <= 253 and labels[-1][:1].isalpha()
        if not named or (len(labels) < 2 and not anywhere):
            raise Refused("The host must be a full domain name or an IP address") from None
        return
    if not anywhere and not public(host):
        raise Refused("The host must be a public address: not private, loopback, link-local or reserved")


def checked(resolved: list[str], anywhere: bool) -> list[str]:
    """What a name was resolved to, all of it public. One address that is not refuses the whole. Raises Refused."""
    if not resolved:
        raise Refused("The name has no address")
    if not anywhere and not all(public(each) for each in resolved):
        raise Refused("The name leads to an address that is not public")
    return resolved
