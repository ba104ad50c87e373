"""The wallet stub's rules, and its book after a restart."""

from pathlib import Path

import pytest

from acquirer_stubs.book import BookError
from acquirer_stubs.wallet import Asked, Decision, Wallet
from acquirer_stubs.wallet_host import WalletBook
from tests.processes import ask, stub_book
from tests.wallets import wallet

ORDER, OTHER, PART = "a" * 32, "b" * 32, "c" * 32


def pay(amount: int, order: str = ORDER, token: str = "t1") -> Asked:
    return Asked("pay", order, "", amount, "CNY", "T1", "M1", token)


def booked(host: Wallet, asked: Asked, at: float = 100.0) -> Decision:
    decision = host.decide(asked, at)
    if host.changes(decision):
        host.apply(decision)
    return decision


def say(verb: str, amount: int, part: str = "", order: str = ORDER) -> Asked:
    return Asked(verb, order, part, amount, "CNY")


def test_an_order_is_paid_once_and_a_code_used_once() -> None:
    host = Wallet()
    assert booked(host, pay(1000)).word == booked(host, pay(1000)).word == "paid"
    assert host.net["CNY"] == 1000
    assert booked(host, pay(1000, OTHER)).reason == "code_invalid"
    assert booked(host, pay(1001)).word == "declined"  # the same order with another amount
    assert host.orders[ORDER].word == "paid" and host.net["CNY"] == 1000


@pytest.mark.parametrize(("ending", "word"), [(0, "paid"), (5, "declined"), (51, "declined"), (8, "pending"), (9, "pending")])
def test_the_amount_decides(ending: int, word: str) -> None:
    assert booked(Wallet(), pay(1000 + ending)).word == word


def test_what_pays_later_is_paid_in_its_time() -> None:
    host = Wallet(pays_after=2.0)
    booked(host, pay(1009))
    assert booked(host, say("query", 1009), 101.0).word == "pending"
    assert booked(host, say("query", 1009), 102.5).word == "paid" and host.net["CNY"] == 1009


def test_a_closed_order_is_never_paid() -> None:
    host = Wallet()
    booked(host, pay(1008))
    assert booked(host, say("close", 1008)).word == "closed"
    assert host.person(ORDER, "paid") is None and booked(host, pay(1008)).word == "closed" and host.net["CNY"] == 0


def test_a_paid_order_is_not_closed() -> None:
    host = Wallet()
    booked(host, pay(1000))
    assert booked(host, say("close", 1000)).word == "paid" and host.net["CNY"] == 1000


def test_a_cancellation_gives_back_what_was_paid_and_not_refunded() -> None:
    host = Wallet()
    booked(host, pay(1000))
    assert booked(host, say("refund", 300, PART)).word == "done" and host.net["CNY"] == 700
    assert booked(host, say("cancel", 1000)).word == booked(host, say("cancel", 1000)).word == "cancelled" and host.net["CNY"] == 0


def test_an_order_that_was_cancelled_before_it_came_is_refused() -> None:
    host = Wallet()
    assert booked(host, say("cancel", 1000)).word == "cancelled"
    assert booked(host, pay(1000)).word == "closed" and host.net["CNY"] == 0


def test_refunds_end_at_what_was_paid() -> None:
    host = Wallet()
    booked(host, pay(1000))
    assert booked(host, say("refund", 900, PART)).word == booked(host, say("refund", 900, PART)).word == "done"
    assert booked(host, say("refund", 101, "d" * 32)).reason == "not_refundable" and host.net["CNY"] == 100
    assert booked(host, say("cancel", 900, PART)).word == "cancelled" and host.net["CNY"] == 1000
    assert booked(host, say("query", 0, "e" * 32)).word == "unknown_order" == booked(host, say("query", 0, order=OTHER)).word


async def test_the_book_is_read_back_and_held_by_one(tmp_path: Path) -> None:
    host, path = Wallet(), tmp_path / "book.jsonl"
    book = WalletBook(path, fast=True)
    book.open(host)
    for asked in (pay(1000), pay(1008, OTHER, "t2"), say("refund", 300, PART)):
        decision = host.decide(asked, 100.0)
        host.apply(decision)
        await book.write({"kind": "decision", **decision._asdict()})
    with pytest.raises(BookError, match="another host"):
        WalletBook(path, fast=True).open(Wallet())
    book.close()
    with path.open("ab") as torn:
        torn.write(b'{"seq": 4, "kind"')
    again, reopened = Wallet(), WalletBook(path, fast=True)
    reopened.open(again)
    assert (again.net, again.orders, again.used) == (host.net, host.orders, host.used) and reopened.seq == 3
    reopened.close()


async def test_unsigned_requests_are_booked_nowhere(tmp_path: Path) -> None:
    with wallet(tmp_path) as (port, control):
        answer = await ask(f"http://127.0.0.1:{port}", "POST", "/orders", "", {"order": ORDER, "amount": 1000, "currency": "CNY", "code": "1" * 18})
        assert answer.status == 401
        assert await stub_book(control) == []
        refused = await ask(control, "POST", "/faults", "", {"match": "any", "action": "explode"})
        assert refused.status == 400
