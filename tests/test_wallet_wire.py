"""What a wallet is asked and what its answers mean, byte by byte."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.plug_ins import Answer, Asked, Unknown
from switch.wallets.wire import BODY_MAX, Call, Reply, answer, call, headers, signature

SECRET, ORDER, PART = b"sixteen letters!", "0192f0c47c1e7aaa8bbb1234567890ab", "0192f0c47c1e7aaa8bbb1234567890ac"


def asked(verb: str = "query", part: str | None = None, **changed: Any) -> Asked:
    return Asked(**{"verb": verb, "order": ORDER, "part": part, "amount": 1250, "currency": "CNY", "merchant": "M1", "terminal": "T1", **changed})


def replied(body: bytes | dict[str, Any], status: int = 200, nonce: str = "n1", secret: bytes = SECRET) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {"wallet-signature": signature(secret, str(status), nonce, content)}, content)


SOUND = {"order": ORDER, "status": "paid", "amount": 1250, "currency": "CNY", "reference": "W1"}


@pytest.mark.parametrize(("question", "method", "target", "members"), [
    (asked("pay", code="134567890123456782", limit_s=90), "POST", "/orders",
     {"order": ORDER, "amount": 1250, "currency": "CNY", "code": "134567890123456782", "merchant": "M1", "terminal": "T1", "expires_in": 90}),
    (asked("query"), "GET", f"/orders/{ORDER}", None), (asked("query", PART), "GET", f"/orders/{ORDER}/refunds/{PART}", None),
    (asked("close"), "POST", f"/orders/{ORDER}/close", {"amount": 1250, "currency": "CNY"}),
    (asked("cancel"), "POST", f"/orders/{ORDER}/cancel", {"amount": 1250, "currency": "CNY"}),
    (asked("refund", PART), "POST", f"/orders/{ORDER}/refunds", {"refund": PART, "amount": 1250, "currency": "CNY"}),
    (asked("void", PART), "POST", f"/orders/{ORDER}/refunds", {"refund": PART, "amount": 1250, "currency": "CNY"}),
    (asked("cancel", PART), "POST", f"/orders/{ORDER}/refunds/{PART}/cancel", {"amount": 1250, "currency": "CNY"}),
])
def test_each_question_is_one_request(question: Asked, method: str, target: str, members: dict[str, Any] | None) -> None:
    made = call(question)
    assert (made.method, made.target) == (method, target)
    assert (json.loads(made.body) if made.body else None) == members


def test_a_request_is_signed_over_all_that_it_says() -> None:
    said = headers(SECRET, "shop", Call("POST", "/orders", b"{}"), 1764121500, "n1")
    text = f"POST\n/orders\nshop\n1764121500\nn1\n{hashlib.sha256(b'{}').hexdigest()}"
    assert said == {"wallet-client": "shop", "wallet-timestamp": "1764121500", "wallet-nonce": "n1",
                    "wallet-signature": hmac.new(SECRET, text.encode(), "sha256").hexdigest()}


def test_a_code_is_not_shown_by_what_carries_it() -> None:
    question = asked("pay", code="134567890123456782", limit_s=90)
    assert "134567890123456782" not in repr(question) + repr(call(question))


def test_a_sound_answer_is_taken() -> None:
    assert answer(asked(), SECRET, "n1", replied(SOUND)) == Answer("paid", ORDER, None, 1250, "CNY", "", "W1")


def test_a_decline_with_a_reason_of_its_own_is_a_refusal() -> None:
    said = answer(asked(), SECRET, "n1", replied({**SOUND, "status": "declined", "reason": "moon phase"}))
    assert isinstance(said, Answer) and said.reason == "refused"


@pytest.mark.parametrize(("reply", "reason", "field"), [
    (replied(SOUND, secret=b"another secret!!"), "not_authentic", "wallet-signature"), (replied(SOUND, nonce="n0"), "not_authentic", "wallet-signature"),
    (Reply(200, {}, json.dumps(SOUND).encode()), "not_authentic", "wallet-signature"), (replied(SOUND)._replace(status=201), "not_authentic", "wallet-signature"),
    (replied(SOUND)._replace(body=json.dumps({**SOUND, "status": "declined"}).encode()), "not_authentic", "wallet-signature"),
    (replied(SOUND, status=500), "unreadable", "status"), (replied(b""), "unreadable", "body"), (replied(b"[1]"), "unreadable", "body"), (replied(b"\xff"), "unreadable", "body"),
    (replied(b"[" * 30_000), "unreadable", "body"), (replied(json.dumps(SOUND).encode()[:-1] + b',"amount":1}'), "unreadable", "body"),
    (replied({**SOUND, "amount": "1250"}), "unreadable", "amount"), (replied({**SOUND, "amount": True}), "unreadable", "amount"), (replied({**SOUND, "amount": 1250.0}), "unreadable", "amount"),
    (replied({**SOUND, "status": "delighted"}), "unreadable", "status"), (replied({**SOUND, "reference": "x" * 65}), "unreadable", "reference"),
    (replied({**SOUND, "refund": 7}), "unreadable", "refund"), (replied({key: value for key, value in SOUND.items() if key != "order"}), "unreadable", "order"),
])
def test_what_cannot_be_believed_is_unknown_and_says_where(reply: Reply, reason: str, field: str) -> None:
    said = answer(asked(), SECRET, "n1", reply)
    assert isinstance(said, Unknown) and (said.reason, said.field) == (reason, field)


@given(st.integers(100, 599), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_answer_or_unknown(status: int, body: bytes, signed: bool) -> None:
    reply = replied(body, status) if signed else Reply(status, {"wallet-signature": "é"}, body)
    assert isinstance(answer(asked(), SECRET, "n1", reply), Answer | Unknown)
    assert len(body) < BODY_MAX
