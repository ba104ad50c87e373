"""Card numbers at rest: what the vault seals only the right row, day and key open."""

import datetime
import json
import multiprocessing
import os
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from switch.security import vault
from switch.security.pan import Pan
from switch.security.vault import SEALED_BYTES, Keyring, Vault, VaultError

PAN, OTHER = Pan("4111111111111111"), Pan("5555555555554444")
ROW, OTHER_ROW = bytes(range(16)), bytes(range(1, 17))
DAY, NEXT_DAY = datetime.date(2026, 11, 23), datetime.date(2026, 11, 24)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring.json"


@pytest.fixture
def safe(path: Path) -> Vault:
    return Vault(Keyring.create(path))


def code(call: object, *given: object) -> str:
    with pytest.raises(VaultError) as caught:
        call(*given)  # type: ignore[operator]
    assert str(caught.value) == caught.value.code
    return caught.value.code


# Seals


@pytest.mark.parametrize("digits", ["4111111111111111", "378282246310005", "4222222222222", "6212345678901230009", "500000000009"])
@pytest.mark.parametrize("expiry", ["2812", ""])
def test_a_sealed_card_opens_to_the_same_card_and_all_blobs_are_of_one_length(safe: Vault, digits: str, expiry: str) -> None:
    pan = luhn(digits)
    key_id, blob = safe.seal(pan, expiry, ROW, DAY)
    assert safe.open(key_id, blob, ROW, DAY) == (pan, expiry)
    assert len(blob) == SEALED_BYTES and pan.reveal().encode() not in blob


def luhn(digits: str) -> Pan:
    for last in range(10):
        try:
            return Pan(digits[:-1] + str(last))
        except ValueError:
            continue
    raise AssertionError


def altered(blob: bytes, place: int) -> bytes:
    return blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1:]


def test_a_seal_opens_only_in_its_own_place_and_every_refusal_has_its_name(safe: Vault) -> None:
    key_id, blob = safe.seal(PAN, "2812", ROW, DAY)
    _, other = safe.seal(OTHER, "2812", OTHER_ROW, DAY)
    assert code(safe.open, key_id, other, ROW, DAY) == "seal_broken"  # two rows swapped
    assert code(safe.open, key_id, blob, OTHER_ROW, DAY) == "seal_broken"
    assert code(safe.open, key_id, blob, ROW, NEXT_DAY) == "seal_day"
    assert code(safe.open, "k9", blob, ROW, DAY) == "key_unknown"
    assert code(safe.open, safe.token_key_id, blob, ROW, DAY) == "key_unknown"
    for length in (0, 3, 20, SEALED_BYTES - 1):
        assert code(safe.open, key_id, blob[:length], ROW, DAY) == "seal_truncated"
    assert code(safe.open, key_id, blob + b"\0", ROW, DAY) == "seal_truncated"


@pytest.mark.parametrize("place", range(SEALED_BYTES))
def test_no_byte_of_a_blob_can_be_altered(safe: Vault, place: int) -> None:
    key_id, blob = safe.seal(PAN, "2812", ROW, DAY)
    assert code(safe.open, key_id, altered(blob, place), ROW, DAY) == ("seal_day" if place < 4 else "seal_broken")


def test_the_day_in_a_blob_cannot_be_moved(safe: Vault) -> None:
    key_id, blob = safe.seal(PAN, "2812", ROW, DAY)
    _, later = safe.seal(PAN, "2812", ROW, NEXT_DAY)
    assert code(safe.open, key_id, later[:4] + blob[4:], ROW, NEXT_DAY) == "seal_broken"


def test_every_day_and_key_id_has_a_data_key_of_its_own(path: Path, safe: Vault) -> None:
    rotated, nonce = Vault(Keyring.rotate(path)), bytes(12)
    made = {rotated._day_key(key_id, day).cipher.encrypt(nonce, b"the same text", b"") for key_id in ("k1", "k2") for day in (DAY, NEXT_DAY)}
    assert len(made) == 4 and safe._day_key("k1", DAY).cipher.encrypt(nonce, b"the same text", b"") in made


def test_the_same_card_never_seals_to_the_same_blob(safe: Vault) -> None:
    blobs = {safe.seal(PAN, "2812", ROW, DAY)[1] for _ in range(2000)}
    assert len(blobs) == 2000 and len({blob[4:16] for blob in blobs}) == 2000
    counts = Counter(byte for blob in blobs for byte in blob[4:16])
    assert len(counts) == 256 and max(counts.values()) < 250  # 24,000 random bytes: about 94 of each


def test_an_expiry_that_would_not_fit_is_refused(safe: Vault) -> None:
    with pytest.raises(ValueError, match="expiry"):
        safe.seal(PAN, "202812", ROW, DAY)


def test_the_cache_of_day_keys_is_bounded_and_forgotten_days_still_open(safe: Vault) -> None:
    key_id, blob = safe.seal(PAN, "2812", ROW, DAY)
    for number in range(1, 3 * vault.DAY_KEYS_MAX):
        safe.seal(PAN, "2812", ROW, DAY + datetime.timedelta(number))
    assert safe._day_key.cache_info().currsize == vault.DAY_KEYS_MAX
    assert safe.open(key_id, blob, ROW, DAY) == (PAN, "2812")


# Tokens and fingerprints


def test_a_token_finds_the_same_card_after_restart_and_rotation_and_no_other_card(path: Path, safe: Vault) -> None:
    token = safe.token(PAN)
    assert len(token) == 32 and token == safe.token(Pan("4111111111111111")) != safe.token(OTHER)
    assert Vault(Keyring.read(path)).token(PAN) == token
    rotated = Vault(Keyring.rotate(path))
    assert (rotated.token(PAN), rotated.token_key_id) == (token, safe.token_key_id)
    assert rotated.fingerprint(b"body") == safe.fingerprint(b"body") != safe.fingerprint(b"bodies")


def test_every_purpose_key_and_keyring_has_its_own_values(tmp_path: Path, safe: Vault) -> None:
    elsewhere = Vault(Keyring.create(tmp_path / "other.json"))
    digits = PAN.reveal().encode()
    assert len({safe.token(PAN), elsewhere.token(PAN), safe.fingerprint(digits), elsewhere.fingerprint(digits)}) == 4
    derived = {safe.keyring.derive(purpose, key_id, info) for purpose in ("token", "seal", "fingerprint", "api")
               for key_id in ("k1", "t1") for info in ("", "k1|2026-11-23")}
    assert len(derived) == 16


# Keys


def test_rotation_seals_anew_reads_the_old_and_a_retired_key_reads_no_more(path: Path, safe: Vault) -> None:
    old_id, old = safe.seal(PAN, "2812", ROW, DAY)
    rotated = Vault(Keyring.rotate(path))
    new_id, new = rotated.seal(PAN, "2812", ROW, DAY)
    assert new_id != old_id and rotated.open(old_id, old, ROW, DAY) == rotated.open(new_id, new, ROW, DAY) == (PAN, "2812")
    assert code(rotated.open, new_id, old, ROW, DAY) == "seal_broken"
    assert code(safe.open, new_id, new, ROW, DAY) == "key_unknown"  # a worker that has not read the new keyring
    left = Vault(Keyring.retire(path, old_id))
    assert code(left.open, old_id, old, ROW, DAY) == "key_unknown" and left.open(new_id, new, ROW, DAY) == (PAN, "2812")


def test_no_key_id_is_ever_used_twice(path: Path, safe: Vault) -> None:
    seen = [safe.keyring.current]
    for _ in range(4):
        seen.append(Keyring.rotate(path).current)
        Keyring.retire(path, seen[-2])
    assert len(set(seen)) == 5


@pytest.mark.parametrize(("key_id", "refusal"), [("k1", "key_in_use"), ("t1", "key_in_use"), ("k2", "key_unknown")])
def test_a_key_in_use_cannot_be_retired(path: Path, safe: Vault, key_id: str, refusal: str) -> None:
    before = path.read_bytes()
    assert code(Keyring.retire, path, key_id) == refusal and path.read_bytes() == before


# The file


def test_a_keyring_is_created_once_for_its_owner_only_and_leaves_nothing_else(path: Path) -> None:
    created = Keyring.create(path)
    content = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600 and os.listdir(path.parent) == [path.name]
    assert Keyring.create(path).key_ids == created.key_ids and path.read_bytes() == content
    Keyring.rotate(path)
    assert path.stat().st_mode & 0o777 == 0o600 and os.listdir(path.parent) == [path.name]


def current_of(path: Path) -> str:
    return Keyring.create(path).derive("token", "t1").hex()


def rotated_to(path: Path) -> str:
    return Keyring.rotate(path).current


def test_processes_that_start_at_once_share_one_keyring_and_rotations_at_once_lose_no_key(path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(current_of, [path] * 16, chunksize=1))) == 1
        made = pool.map(rotated_to, [path] * 16, chunksize=1)
    assert Keyring.read(path).key_ids == {"k1", "t1", *made} and len(set(made)) == 16


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_keyring_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    Keyring.create(path)
    path.chmod(mode)
    assert code(Keyring.read, path) == "keyring_mode"


KEY = "ab" * 32


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '"k1"', "[" * 100_000, '{"current": "k1"}',
    json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": KEY}}),
    json.dumps({"current": "k2", "token_key": "t1", "keys": {"k1": KEY, "t1": KEY}}),
    json.dumps({"current": "k1", "token_key": "k1", "keys": {"k1": KEY}}),
    json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": KEY[:-2], "t1": KEY}}),
    json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": KEY.upper(), "t1": KEY}}),
    json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": 1, "t1": KEY}}),
    json.dumps({"current": "k1", "token_key": "t1", "keys": ["k1", "t1"]}),
    json.dumps({"current": ["k1"], "token_key": "t1", "keys": {"k1": KEY, "t1": KEY}}),
    json.dumps({"current": "k|", "token_key": "t1", "keys": {"k|": KEY, "t1": KEY}}),
    json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": KEY, "t1": KEY}, "more": 1}),
])
def test_a_keyring_that_is_not_whole_is_refused(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    assert code(Keyring.read, path) == "keyring_malformed"


def test_an_absent_keyring_is_named_as_such(path: Path) -> None:
    assert code(Keyring.read, path) == "keyring_missing"


def test_neither_texts_nor_tracebacks_with_locals_show_a_key(path: Path, safe: Vault) -> None:
    assert repr(safe.keyring) == str(safe.keyring) == "<Keyring current=k1 of ['k1', 't1']>"
    path.write_text(json.dumps({"current": "k1", "token_key": "t1", "keys": {"k1": KEY, "t1": KEY + "0"}}))
    for mode in (0o600, 0o644):
        path.chmod(mode)
        with pytest.raises(VaultError) as caught:
            Keyring.read(path)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert KEY not in shown and "read(" in shown and caught.value.__context__ is None


def test_token_and_seal_stay_cheap_on_the_hot_path(safe: Vault) -> None:
    best = min(timed(safe) for _ in range(20))
    assert best < 40  # microseconds; the budget is 12 on a quiet machine


def timed(safe: Vault) -> float:
    began = time.perf_counter()
    for _ in range(100):
        safe.token(PAN)
        safe.seal(PAN, "2812", ROW, DAY)
    return (time.perf_counter() - began) * 1e4
