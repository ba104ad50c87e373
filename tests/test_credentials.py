"""API keys: only the exact text of an issued key opens, and a refusal tells nothing about why."""

import hashlib
import re
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.security.credentials import Credential, Role, authenticate, digest, issue, matches, split

ROLES: tuple[Role, ...] = ("terminal", "merchant", "operator")


@pytest.fixture(scope="module", params=ROLES)
def key(request: pytest.FixtureRequest) -> Credential:
    return issue(request.param)


@pytest.mark.parametrize(("role", "prefix"), [("terminal", "tk_"), ("merchant", "mk_"), ("operator", "ok_")])
def test_an_issued_key_names_its_role_and_stores_only_a_digest(role: Role, prefix: str) -> None:
    key = issue(role)
    assert re.fullmatch(prefix + r"[a-z0-9]{16}\.[A-Za-z0-9_-]{43}", key.text)
    secret = key.text.partition(".")[2]
    assert key.digest == hashlib.sha256(secret.encode()).digest() == digest(secret)
    assert split(key.text) == split(key.text.encode()) == (key.key_id, secret) and len(key.key_id) == 16
    assert matches(secret, key.digest) and not matches(secret[:-1], key.digest)


def test_no_two_keys_share_an_id_or_a_secret() -> None:
    keys = [issue("terminal") for _ in range(2000)]
    assert len({key.key_id for key in keys}) == len({key.digest for key in keys}) == 2000


def spoilt(text: str) -> dict[str, str | bytes]:
    prefix, rest = text.split("_", 1)
    key_id, secret = rest.split(".")
    others = {"tk": "mk", "mk": "ok", "ok": "tk"}
    return {
        "empty": "", "spaces": "   ", "prefix alone": f"{prefix}_", "no dot": text.replace(".", ""), "two dots": text.replace(".", ".."),
        "another role's prefix": f"{others[prefix]}_{rest}", "unknown prefix": f"zz_{rest}", "upper case": text.upper(),
        "prefix in capitals": f"{prefix.upper()}_{rest}", "space in front": f" {text}", "space behind": f"{text} ",
        "line behind": f"{text}\n",
        "NUL behind": f"{text}\0", "secret cut": text[:-1], "secret longer": f"{text}A", "id cut": f"{prefix}_{key_id[1:]}.{secret}",
        "not ASCII": f"{text[:-1]}é", "full-width": f"{text[:-1]}Ａ", "half a pair": f"{text[:-1]}\ud800",
        "bytes not ASCII": text.encode()[:-1] + b"\xff",
        "padding": f"{text}=", "plus": f"{text[:-1]}+", "very long": text * 10_000, "very long bytes": b"a" * 1_000_000,
        "with scheme": f"Bearer {text}", "doubled": text + text,
    }


@pytest.mark.parametrize("name", spoilt(issue("terminal").text))
def test_a_malformed_key_is_nobody(key: Credential, name: str) -> None:
    text = spoilt(key.text)[name]
    assert split(text) is None and authenticate(text, lambda _: key.digest) is None


@given(st.text() | st.binary())
def test_no_text_makes_it_raise(text: str | bytes) -> None:
    assert split(text) is None and authenticate(text, lambda _: None) is None


def test_the_right_secret_gives_the_key_id_and_every_other_one_nobody(key: Credential) -> None:
    stored = {key.key_id: key.digest}
    assert authenticate(key.text, stored.get) == authenticate(key.text.encode(), stored.get) == key.key_id
    first = key.text.index(".") + 1
    for place in range(first, len(key.text)):
        wrong = key.text[:place] + ("A" if key.text[place] != "A" else "B") + key.text[place + 1:]
        assert authenticate(wrong, stored.get) is None
    assert authenticate(key.text, {}.get) is None
    assert authenticate(key.text, lambda _: b"") is None
    assert authenticate(key.text, lambda _: key.digest[:31]) is None


def test_a_key_opens_under_its_own_id_only(key: Credential) -> None:
    other = issue("terminal")
    stored = {key.key_id: key.digest, other.key_id: other.digest}
    crossed = other.text.partition(".")[0] + "." + key.text.partition(".")[2]
    assert authenticate(crossed, stored.get) is None


def work(text: str, stored: dict[str, bytes]) -> list[str]:
    """The built-in functions that a refusal runs through."""
    called: list[str] = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            called.append(function.__name__)

    sys.setprofile(note)
    try:
        assert authenticate(text, stored.get) is None
    finally:
        sys.setprofile(None)
    return [name for name in called if name != "setprofile"]


def test_a_wrong_secret_an_unknown_id_and_a_malformed_key_do_the_same_work(key: Credential) -> None:
    stored = {key.key_id: key.digest}
    wrong = work(key.text[:-2] + "__", stored)
    assert wrong.count("compare_digest") == 1 and "openssl_sha256" in wrong
    assert work(issue("terminal").text, stored) == wrong == work(key.text[:-1], stored)
