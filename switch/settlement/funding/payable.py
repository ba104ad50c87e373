"""What a merchant may be paid now, and what is kept back. Pure."""

from typing import NamedTuple

BASIS = 10_000


class Payable(NamedTuple):
    """`amount`: to be paid now; `reason`: why it is nothing, else empty."""

    amount: int
    reason: str = ""


def payable(balance: int, not_due: int, minimum: int, held: bool) -> Payable:
    """`balance` of the merchant's account; `not_due`: what of it is settled but due later; `held`: a person keeps all payouts back.

    What is negative is carried until later sales cover it, and what is below the minimum until it has grown.
    """
    free = balance - max(0, not_due)
    if held:
        return Payable(0, "on_hold")
    if free < 0:
        return Payable(0, "negative_carried")
    if free == 0:
        return Payable(0, "nothing_due")
    if free < minimum:
        return Payable(0, "below_minimum")
    return Payable(free)


# Why nothing, or not all, is paid; the last three are of the way, not of the money.
WORDS = {
    "": "paid", "on_hold": "all payouts are on hold until a person releases them", "negative_carried": "more is owed than was earned; it is carried",
    "nothing_due": "nothing is due today", "below_minimum": "less than the minimum payout; it is carried until it has grown",
    "no_business_day": "it is no business day of the merchant's calendar; it is paid on the next one",
    "no_bank_account": "no bank account is agreed for this currency", "account_suspended": "a payout to this bank account came back; agree it anew",
}


class Shares(NamedTuple):
    """Of what is due today: `paid` and `carried` are together `due`, which may be negative."""

    due: int
    paid: int
    carried: int
    reason: str


def why_not(found: Payable, account: str | None) -> str:
    """Why nothing of it is paid out, or empty. `account`: the state of the bank account, None without one."""
    if not found.amount or account == "active":
        return found.reason
    return "no_bank_account" if account is None else "account_suspended"


def shares(balance: int, not_due: int, minimum: int, held: bool, account: str | None, works: bool = True) -> Shares:
    """What `payable` says, when there is where to, on a business day of the merchant's (`works`)."""
    due, found = balance - max(0, not_due), payable(balance, not_due, minimum, held)
    reason = why_not(found, account) or ("" if works else "no_business_day")
    paid = 0 if reason else found.amount
    return Shares(due, paid, due - paid, reason)


def half_even(amount: int, basis_points: int) -> int:
    """A part of an amount, rounded half to even."""
    whole, rest = divmod(amount * basis_points, BASIS)
    return whole + (2 * rest > BASIS or (2 * rest == BASIS and whole % 2 == 1))


def reserved(sales: int, net: int, basis_points: int) -> int:
    """What is held of a settlement as rolling reserve: a part of its sales, never more than is left of it."""
    return max(0, min(half_even(sales, basis_points), net))
