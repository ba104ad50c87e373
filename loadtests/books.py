"""Three books side by side: what terminals were told, what the switch shows over HTTP, what the acquirer stub wrote down."""
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from loadtests.processes import call

NUMERIC = {"CNY": "156"}  # ISO 4217, for DE49
SOLD = ("approved",)
OPEN = ("pending", "reversing")


class Told(NamedTuple):
    """The last thing a terminal was told about one key. status: of the answer's body, or the HTTP status if it had none."""

    key: str
    merchant: str
    http: int
    status: str
    id: str | None
    amount: int
    approval_code: str | None


def effects(control_url: str) -> dict[tuple[str, str], int]:
    """(DE37, currency number) -> net minor units posted or held, over every decision in the stub's book; zero effects included."""
    net: defaultdict[tuple[str, str], int] = defaultdict(int)
    after: int | None = 0
    while after is not None:
        page = call("GET", f"{control_url}/book?after={after}")
        for line in page["items"]:
            if line["kind"] == "decision" and line["rrn"] and line["reason"] != "duplicate":
                net[line["rrn"], line["currency"]] += line["net"] + line["held"]
        after = page["next"]
    return dict(net)


def totals(control_url: str) -> tuple[int, int]:
    """Number and sum of the transactions that stand in the stub's book."""
    standing = [value for value in effects(control_url).values() if value]
    return len(standing), sum(standing)


def transactions(base_url: str, key: str, **filters: str) -> Iterator[dict[str, Any]]:
    """All transactions a merchant key may see, page by page, newest first."""
    after: str | None = ""
    while after is not None:
        query = urllib.parse.urlencode({"limit": "200"} | filters | ({"after": after} if after else {}))
        page = call("GET", f"{base_url}/v1/transactions?{query}", key=key)
        yield from page["items"]
        after = page["next"]


def unfinished(base_url: str, keys: Iterable[str]) -> int:
    return sum(1 for key in keys for status in OPEN for _ in transactions(base_url, key, status=status))


def compare(told: Iterable[Told], booked: Mapping[str, dict[str, Any]], net: Mapping[tuple[str, str], int]) -> Counter[str]:
    """Differences by kind; all must be 0.

    booked: id -> transaction as the switch shows it; net: `effects` of the stub. A standing sale has one amount in all three books. A
    terminal may have been told "not sold" of what was approved and then undone, never "approved" of what does not stand. Rows with an
    original (captures the switch owes by itself) are told to nobody.
    """
    found: Counter[str] = Counter({name: 0 for name in (
        "told_approved_not_booked", "told_other_amount", "told_other_approval_code", "booked_approved_not_told",
        "one_sale_told_for_two_keys", "switch_and_stub_differ", "stub_alone", "still_open")})
    sales: dict[str, Told] = {}
    for answer in told:
        if answer.http == 201 and answer.status in SOLD and answer.id is not None:
            found["one_sale_told_for_two_keys"] += answer.id in sales
            sales[answer.id] = answer
    for id, sale in sales.items():
        row = booked.get(id)
        if row is None or row["status"] not in SOLD:
            found["told_approved_not_booked"] += 1
            continue
        found["told_other_amount"] += row["approved_amount"] != sale.amount
        found["told_other_approval_code"] += row["approval_code"] != sale.approval_code
    left = dict(net)
    for id, row in booked.items():
        sold = row["status"] in SOLD
        found["still_open"] += row["status"] in OPEN
        found["booked_approved_not_told"] += sold and id not in sales and "original" not in row
        sign = -1 if row["type"] in ("refund", "void") else 1
        found["switch_and_stub_differ"] += left.pop((row["rrn"], NUMERIC[row["currency"]]), 0) != (sign * row["approved_amount"] if sold else 0)
    found["stub_alone"] = sum(value != 0 for value in left.values())
    return found
