"""Dialects that cannot say what they must: no line hangs, no byte of a host raises, and whoever looks is told which field it is."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import rows
from test_translation import order

from messages.codec import decode, encode
from messages.dialect import Dialect, answer_fault, load, minor_units
from messages.framing import frame
from switch.links import Bounced, KeyChange, LineClosed, LinkSettings, Unmatched
from switch.links.connection import LineConnection
from switch.links.protocol import LinkProtocol
from switch.payments import translation
from switch.payments.transaction import Event

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
PLAIN = load("iso87_ascii")
CUP = load("unionpay_pos")
MUTE = replace(PLAIN, network_rule=PLAIN.network_rule._replace(composed={"7": "{stan}", "11": "{stan}", "70": "{code}"}))
REQUEST = {
    "0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000001000", "7": "0229235950", "11": "000101", "12": "235950", "13": "0229", "14": "3012",
    "18": "5411", "22": "051", "25": "00", "37": "406000000101", "41": "TERM0001", "42": "MERCHANT0000001", "49": "840"}


def protocol(dialect: Dialect, **more: Any) -> LinkProtocol:
    stans = iter(f"{n:06d}" for n in range(900001, 999999))
    return LinkProtocol("acq", dialect, LinkSettings("host.test", 5000), next_stan=lambda: next(stans), draw=lambda: 1.0, **more)


def test_a_sign_on_that_cannot_be_said_gives_the_line_up_and_names_the_field() -> None:
    line = protocol(MUTE)
    line.connected(0.0, START)
    assert (line.phase, line.take_output()) == ("closed", b"")
    assert line.take_events() == [LineClosed(line.last_error or "")] and "sign_on cannot be said: field 7" in str(line.last_error)


def signed_on(dialect: Dialect, **more: Any) -> LinkProtocol:
    line = protocol(dialect, **more)
    line.connected(0.0, START)
    line._up(0.0)
    line.take_events()
    line.take_output()
    return line


def test_an_answer_that_cannot_be_said_costs_the_host_its_answer_and_nobody_the_line() -> None:
    line = signed_on(replace(PLAIN, network_rule=PLAIN.network_rule._replace(refused="0030")))
    line.receive(frame(PLAIN.framing, encode(PLAIN, {"0": "0800", "7": "0229120000", "11": "000777", "70": "777"})), 1.0, START)
    told = [event for event in line.take_events() if isinstance(event, Unmatched)]
    assert (line.phase, line.take_output()) == ("up", b"")
    assert told[-1].fault is not None and told[-1].fault.startswith("its answer cannot be said: field 39")


@pytest.mark.parametrize(("keyed", "keys", "told"), [
    (True, "01" * 40, [KeyChange]), (False, "01" * 40, [Unmatched]), (True, None, [])], ids=["taken", "nobody takes them", "none"])
def test_keys_that_a_host_brings_unasked_with_a_sign_on_are_a_key_change(keyed: bool, keys: str | None, told: list[type]) -> None:
    """unionpay_pos, 0800/003 with DE62: answered "yes" and dropped, the next MAC would be wrong."""
    line = signed_on(CUP, keyed=keyed)
    message = {"0": "0800", "11": "000001", "41": "00000001", "42": "000000000000001", "60": "00000001003"} | ({} if keys is None else {"62": keys})
    line.receive(frame(CUP.framing, encode(CUP, message)), 1.0, START)
    assert [type(event) for event in line.take_events()] == told
    answer = line.take_output()
    assert (answer == b"") is (told == [KeyChange]), "whoever installs them answers"
    if answer:
        assert decode(CUP, answer[2:])["39"] == ("00" if keys is None else "30")


def test_a_request_that_cannot_be_said_is_bounced_and_the_line_says_which_field() -> None:
    line = signed_on(PLAIN)
    assert line.request({**REQUEST, "41": "TOO LONG A NUMBER"}, "token", 0.0, START, 2.0, 30.0) == Bounced("not_encodable")
    assert "field 41" in str(line.last_error) and "TOO LONG" not in str(line.last_error)


@pytest.mark.parametrize(("amount", "units"), [
    ("000000001000", 1000), ("C000000001000", 1000), ("1562000000001000", 1000), ("", 0), ("D00000000100X", 0), ("１２３４５６７８９０１２", 0)])
def test_an_amount_is_its_last_twelve_digits(amount: str, units: int) -> None:
    assert minor_units(amount) == units


@pytest.mark.parametrize(("amount", "field"), [
    ("C000000000500", None), ("D000000000500", None), ("000000000000", "4"), ("C000000001001", "4"), ("X", "4"), ("", "4")])
def test_a_part_with_a_sign_is_a_part_and_what_is_none_is_no_answer(amount: str, field: str | None) -> None:
    request = {**REQUEST, "4": "C000000001000"}
    answer = {"0": "0210", **{number: request[number] for number in ("3", "7", "11", "37", "41", "42", "49")}, "38": "123456", "39": "10", "4": amount}
    assert answer_fault(PLAIN, request, answer) == field


@pytest.mark.parametrize(("amount", "event", "approved"), [
    ("1562000000000500", Event.APPROVE, 500), ("1562000000001000", Event.DOUBT, 0), ("9999999999999999", Event.DOUBT, 0), ("156200000000000X", Event.DOUBT, 0)])
def test_a_partial_approval_is_less_than_was_asked_or_in_doubt(amount: str, event: Event, approved: int) -> None:
    asked = rows.transaction(amount=1000, partial_approval="accept")
    verdict = translation.verdict(asked, PLAIN, {"0": "0210", "39": "10", "38": "123456", "4": amount})
    assert (verdict.event, verdict.approved_amount) == (event, approved)


@pytest.fixture
def transport() -> Iterator[Any]:
    class Socket:
        def setsockopt(self, *_: Any) -> None: ...

    class Transport(asyncio.Transport):
        closed = False

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return Socket()

        def is_closing(self) -> bool:
            return self.closed

        def write(self, data: Any) -> None: ...

        def close(self) -> None:
            self.closed = True

        def abort(self) -> None:
            self.closed = True

    yield Transport()


@pytest.mark.parametrize("step", ["connected", "receive", "tick"])
async def test_a_fault_of_our_own_gives_up_its_line_alone(transport: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw: the line is closed and made anew, instead of standing half open for ever."""
    made = protocol(PLAIN)

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(made, step, fails)
    line = LineConnection(made, on_record=lambda *_: None, on_change=lambda *_: None, may_write=lambda: True)
    line.connection_made(transport)
    if step == "receive":
        line.data_received(b"\x00\x01x")
    elif step == "tick":
        line._tick()
    assert made.phase == "closed" and transport.closed and "ZeroDivisionError" in str(made.last_error)
    line.connection_lost(None)


def test_a_tip_and_cash_back_in_one_sale_are_refused_where_one_amount_fits() -> None:
    for dialect, refused in ((CUP, True), (PLAIN, False)):
        assert ("tip and cash back" in str(translation.fault(order(tip_amount=100, cashback_amount=100), dialect, "single"))) is refused
        assert translation.fault(order(tip_amount=100), dialect, "single") is None
