"""Activation codes: how they are made, read and hashed, and whose failures are counted together."""

from ipaddress import ip_network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.terminals.guesses import ALPHABET, FAILURES_OF_A_CODE, LENGTH, LIMITS, client_of, code_of, hashed, read, subject_of, written

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@given(st.binary(min_size=5, max_size=5))
def test_a_code_is_read_back_as_a_person_writes_it(randomness: bytes) -> None:
    code = code_of(randomness)
    assert len(code) == LENGTH and set(code) <= set(ALPHABET)
    shown = written(code)
    assert {read(each) for each in (code, shown, shown.lower(), shown.replace("-", " "), f" {shown} ", shown.replace("1", "l").replace("0", "O"))} == {code}


def test_all_forty_bits_are_in_the_code() -> None:
    assert len({code_of(number.to_bytes(5, "big")) for bit in range(40) for number in [1 << bit]}) == 40
    assert code_of(bytes(5)) == "0" * 8 and code_of(b"\xff" * 5) == "Z" * 8


@pytest.mark.parametrize("text", ["", "7K2M9QX", "7K2M9QXD1", "7K2M-9QXU", "7K2M\n9QXD", "７K2M9QXD", "7K2M_9QXD"])
def test_what_is_no_code_is_none(text: str) -> None:
    assert read(text) is None


def test_a_code_is_of_one_device() -> None:
    assert hashed(UUID(int=1), "00000000") != hashed(UUID(int=2), "00000000")


def test_a_guess_at_a_known_serial_number_is_hopeless() -> None:
    tries = FAILURES_OF_A_CODE * (1 + LIMITS["terminal"].failures)
    assert tries / 32**LENGTH < 1e-9


@pytest.mark.parametrize(("host", "subject"), [
    ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
    ("2001:db8:1:3::1", "2001:db8:1:3::/64"), ("fe80::1%eth0", "fe80::/64"), (None, "unknown"), ("", "unknown"), ("x" * 500, "unknown"),
])
def test_failures_are_counted_by_line(host: str | None, subject: str) -> None:
    assert subject_of(host) == subject and len(subject) <= 64


@pytest.mark.parametrize(("peer", "forwarded", "client"), [
    ("192.0.2.7", "198.51.100.1", "192.0.2.7"),  # nobody's proxy: what it says of others is not believed
    ("10.1.2.3", "198.51.100.1", "198.51.100.1"), ("10.1.2.3", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
    ("10.1.2.3", "203.0.113.9, 198.51.100.1, 10.9.9.9", "198.51.100.1"), ("fd00::1", "2001:db8::5", "2001:db8::5"), ("10.1.2.3", "", "10.1.2.3"),
    ("10.1.2.3", "not an address", "not an address"), (None, "198.51.100.1", None),
])
def test_only_trusted_proxies_say_who_asks(peer: str | None, forwarded: str, client: str | None) -> None:
    assert client_of(peer, forwarded, PROXIES) == client
