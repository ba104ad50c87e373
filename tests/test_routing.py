"""Routing: which acquirers may serve a sale, in order."""

from datetime import date
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from messages.dialect import load
from switch.directory import Acquirer, Directory, Route, Terminal
from switch.payments.routing import choose

MERCHANT, OTHER = UUID(int=1), UUID(int=2)
A, B, C = UUID(int=10), UUID(int=11), UUID(int=12)
NUMBERS = ("T0000001", "M00000000000001")


def acquirer(acquirer_id: UUID) -> Acquirer:
    return Acquirer(acquirer_id, f"bank-{acquirer_id.int}", load("iso87_ascii"), "single", "active", None, ZoneInfo("UTC"), 30.0, 5.0, 100, (),
                    date(2026, 11, 23))


ACQUIRERS = {acquirer_id: acquirer(acquirer_id) for acquirer_id in (A, B, C)}


def chosen(routes: list[tuple[UUID, UUID | None, str | None, int]], known_to: tuple[UUID, ...] = (A, B, C), brand: str = "visa",
           acquirers: dict[UUID, Acquirer] = ACQUIRERS) -> list[UUID]:
    """Routes as (acquirer, merchant, brand, priority), ordered as the directory orders them."""
    directory = Directory()
    directory.routes = {UUID(int=number): Route(UUID(int=number), *route) for number, route in enumerate(routes, 1)}
    directory._reorder()
    terminal = Terminal(UUID(int=5), MERCHANT, UUID(int=6), "till", "active", dict.fromkeys(known_to, NUMBERS))
    return [found.acquirer_id for found in choose(directory.ordered_routes, acquirers, terminal, brand)]


@pytest.mark.parametrize(("routes", "found"), [
    ([], []),
    ([(A, None, None, 100)], [A]),
    ([(A, OTHER, None, 1), (B, None, None, 100)], [B]),
    ([(A, None, "unionpay", 1), (B, None, None, 100)], [B]),
    ([(A, None, None, 100), (B, None, None, 50)], [B, A]),
    ([(A, None, None, 100), (B, MERCHANT, None, 100)], [B, A]),
    ([(A, None, None, 100), (B, None, "visa", 100)], [B, A]),
    ([(A, None, "visa", 100), (B, MERCHANT, None, 100)], [B, A]),
    ([(A, MERCHANT, None, 100), (B, MERCHANT, "visa", 100), (C, None, None, 1)], [C, B, A]),
    ([(A, None, None, 100), (A, MERCHANT, "visa", 1), (B, None, None, 50)], [A, B]),
    ([(A, None, None, 100), (B, None, None, 100)], [A, B]),
])
def test_the_fitting_routes_come_by_priority_then_the_more_particular_first(
        routes: list[tuple[UUID, UUID | None, str | None, int]], found: list[UUID]) -> None:
    assert chosen(routes) == found


def test_an_acquirer_that_does_not_know_the_terminal_by_number_is_left_out() -> None:
    assert chosen([(A, None, None, 1), (B, None, None, 2)], known_to=(B,)) == [B]


def test_an_acquirer_without_a_record_is_left_out() -> None:
    assert chosen([(A, None, None, 1), (B, None, None, 2)], acquirers={B: ACQUIRERS[B]}) == [B]


def test_a_card_of_no_known_brand_takes_the_routes_for_all_brands() -> None:
    assert chosen([(A, None, "visa", 1), (B, None, None, 2)], brand="unknown") == [B]
