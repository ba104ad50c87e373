"""Ten thousand inputs of the fuzzer; and each reader once broken, since a fuzzer that cannot find anything proves nothing."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from messages.framing import Deframer
from switch.api.edge import EdgeProtocol
from switch.links.protocol import LinkProtocol
from tests import fuzz


def test_ten_thousand_inputs_find_nothing() -> None:
    result = fuzz.fuzz(10_000, 8583)
    assert result["found"] == []
    assert min(result["inputs"].values()) >= 900


def test_an_input_is_named_by_seed_reader_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz.strict, "parse", json.loads)
    first = fuzz.fuzz(400, 7)["found"][0]
    again = fuzz.fuzz(1, 7, first["reader"], first["number"])["found"]
    assert [(each["reader"], each["number"], each["error"]) for each in again] == [(first["reader"], first["number"], first["error"])]


def no_limit(self: Any, data: bytes) -> list[bytes]:
    """A deframer that takes any length, and waits for it."""
    self._max_length = 1 << 16
    return FEED(self, data)


def trusting(self: Any, message: dict[str, str], *rest: Any) -> None:
    """A link that believes that an answer carries what it must."""
    assert message["39"] and message["37"]
    RECEIVE(self, message, *rest)


def forgetful(self: Any, message: dict[str, str], *rest: Any) -> None:
    """A link that stops listening after an answer that it does not know."""
    if self._exchanges.get("x") is None and message.get("39") != "00":
        self._exchanges.clear()
    RECEIVE(self, message, *rest)


def unread(self: Any, name: bytes, value: bytes) -> None:
    """An edge that reads a header as text."""
    value.decode("ascii")
    HEADER(self, name, value)
    if name.lower() == b"content-length":
        self.transport.write(b"HTTP/1.1 500 \r\n\r\n")


FEED, RECEIVE, HEADER = Deframer.feed, LinkProtocol._receive_answer, EdgeProtocol.on_header
BROKEN: list[tuple[str, object, str, Callable[..., Any]]] = [
    ("framing", Deframer, "feed", no_limit), ("link", LinkProtocol, "_receive_answer", trusting), ("link", LinkProtocol, "_receive_answer", forgetful),
    ("edge", EdgeProtocol, "on_header", unread), ("json", fuzz.strict, "parse", json.loads),
    ("codec", fuzz, "reference_decode", lambda dialect, data: {}), ("codec_out", fuzz, "encode", lambda dialect, message: b"0200"),
    ("tlv", fuzz, "keep", lambda text, tags: text.upper()),
]


@pytest.mark.parametrize(("reader", "owner", "name", "broken"), BROKEN, ids=[f"{reader}-{name}" for reader, _, name, _ in BROKEN])
def test_a_broken_reader_is_found(monkeypatch: pytest.MonkeyPatch, reader: str, owner: object, name: str, broken: Callable[..., Any]) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert fuzz.fuzz(3_000, 1, reader)["found"]
