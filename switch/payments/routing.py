"""Which acquirers may serve a sale, in order. Pure, over the directory's records."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from switch.directory import Acquirer, Route, Terminal

ANY = "*"  # as a brand: whatever the card
# How payment codes begin, as their schemes publish it (UnionPay 19 digits, WeChat Pay 18, Alipay 16 to 24).
CODE_BRANDS: Mapping[str, str] = MappingProxyType({
    "62": "unionpay", **{f"{start}": "wechat" for start in range(10, 16)}, **{f"{start}": "alipay" for start in range(25, 31)},
})
WALLET = "wallet"  # every other payment code


def choose(routes: Sequence[Route], acquirers: dict[UUID, Acquirer], terminal: Terminal, brand: str) -> list[Acquirer]:
    """The acquirers whose route fits and that know this terminal by number; best first, each once.

    `routes` come ordered by priority, then the more particular ones first.
    """
    found: dict[UUID, Acquirer] = {}
    for route in routes:
        if route.merchant_id not in (None, terminal.merchant_id) or (route.brand not in (None, brand) and brand != ANY):
            continue
        if route.acquirer_id in terminal.numbers and route.acquirer_id in acquirers:
            found.setdefault(route.acquirer_id, acquirers[route.acquirer_id])
    return list(found.values())


def brand_of_code(start: str) -> str:
    """The brand of a payment code, by its first two digits."""
    return CODE_BRANDS.get(start, WALLET)
