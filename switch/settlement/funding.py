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


def half_even(amount: int, basis_points: int) -> int:
    """A part of an amount, rounded half to even."""
    whole, rest = divmod(amount * basis_points, BASIS)
    return whole + (2 * rest > BASIS or (2 * rest == BASIS and whole % 2 == 1))


def reserved(sales: int, net: int, basis_points: int) -> int:
    """What is held of a settlement as rolling reserve: a part of its sales, never more than is left of it."""
    return max(0, min(half_even(sales, basis_points), net))
