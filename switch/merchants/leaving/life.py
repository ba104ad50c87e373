"""How a merchant leaves, and for how long what is kept. Pure: all that changes its state is in LIFE; the database holds the same steps (r0029)."""

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from switch.life import Life

NOTICED, STOPPED, RETURNED, SETTLED, CLOSED, WITHDRAWN = "noticed", "stopped", "returned", "settled", "closed", "withdrawn"

# (state, event) -> state. `stop`: no sales any more; `return`: devices are back, keys ended; `settle`: nothing is open; `close`: for good.
LIFE = Life("A leaving", "leaving_step", {
    (NOTICED, "stop"): STOPPED, (STOPPED, "return"): RETURNED, (RETURNED, "settle"): SETTLED, (SETTLED, "close"): CLOSED,
    (NOTICED, "withdraw"): WITHDRAWN, (STOPPED, "withdraw"): WITHDRAWN,
})
# Kinds of open items (moving/owed.py) that must be gone before a step.
BEFORE_STOP = frozenset({"preauthorizations"})  # nobody could capture or void them after it
BEFORE_SETTLED = frozenset({"in_flight", "reversals", "preauthorizations", "disputes", "unsettled", "unpaid", "reserves", "payouts"})


class Kept(NamedTuple):
    """What is kept for so many years after the end. `country`: None is every other. `source`: the law that says so."""

    what: str
    country: str | None
    years: int
    source: str


# As published; the older five years of the People's Bank's orders [2007] No. 2 and 2013 No. 9 are within the ten of the law.
AML_CN = "Anti-Money Laundering Law of 8 November 2024 (Presidential Decree No. 38), article 34"
AML_EU = "Directive (EU) 2015/849 (OJ L 141, 5.6.2015, p. 73), article 40"
RETENTION: Sequence[Kept] = (
    Kept("identity", "CN", 10, AML_CN),
    Kept("identity", None, 5, AML_EU),
    Kept("transactions", "CN", 10, AML_CN),
    Kept("transactions", None, 5, AML_EU),
    Kept("accounts", "CN", 30, "Measures for the Administration of Accounting Archives of 11 December 2015 (Order No. 79), annex 1"),
    Kept("accounts", None, 10, "section 147 of the German Fiscal Code, as the longest of those that are known"),
)


class Until(NamedTuple):
    what: str
    until: date
    source: str


def kept(country: str, ended: date) -> list[Until]:
    """Until when what is kept: the country's own rule, else the one for every other."""
    found = []
    for what in dict.fromkeys(each.what for each in RETENTION):
        rule = next((each for each in RETENTION if each.what == what and each.country == country),
                    next(each for each in RETENTION if each.what == what and each.country is None))
        year = ended.year + rule.years
        leap = (ended.month, ended.day) == (2, 29) and (year % 4 or (year % 100 == 0 and year % 400))
        found.append(Until(what, date(year, 3, 1) if leap else ended.replace(year=year), rule.source))
    return found
