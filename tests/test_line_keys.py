"""An acquirer's keys in memory: what is in force, how long the one before is believed, what a sign-on brings."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from messages.dialect import LITERALS, build, load
from switch.ids import uuid7
from switch.security.ciphers import ClearKey, encrypt, kcv
from switch.security.hsm import Handle
from switch.security.keystore import FORMER_MAX, Held, KeyStore
from switch.security.line_keys import AcquirerKeys
from switch.security.pan import Secret
from switch.security.software_hsm import SoftwareHsm
from switch.security.vault import Keyring

START = datetime(2026, 3, 1, tzinfo=UTC)
ACQUIRER, OTHER = UUID(int=1), UUID(int=2)
MASTER = ClearKey("tdes", bytes.fromhex("13579BDF02468ACE1122334455667788"))
CUP = load("unionpay_pos")


class Bench:
    """A store with an invented clock, a module, and what the line's keys told."""

    def __init__(self, master: bool = True, grace_s: float = 60.0) -> None:
        self.now, self.made = START, 0
        self.store, self.hsm = KeyStore(lambda: self.now), SoftwareHsm(Keyring("k1", "t1", {"k1": bytes(32), "t1": bytes(range(32))}))
        self.installed: list[list[Handle]] = []
        self.refused: list[str] = []
        self.keys = AcquirerKeys(ACQUIRER, CUP, self.store, self.hsm, self.installed.append, self.refused.append, grace_s)
        if master:
            identity = self.new_id()
            parts = [self.hsm.component(identity, "tdes", Secret(octets.hex()), kcv(ClearKey("tdes", octets)))
                     for octets in (MASTER.reveal()[::-1], bytes(a ^ b for a, b in zip(MASTER.reveal(), MASTER.reveal()[::-1], strict=True)))]
            self.adopt(self.hsm.combined(identity, "tmk", parts, kcv(MASTER)))

    def new_id(self) -> UUID:
        self.made += 1
        return uuid7(1_700_000_000_000 + self.made, bytes(10))

    def adopt(self, key: Handle, owner: UUID = ACQUIRER) -> None:
        self.store.adopt(Held((owner, key.purpose, ""), key))

    def download(self, *keys: bytes, length: int = 4) -> str:
        data = b""
        for octets in keys:
            check = encrypt(ClearKey("des" if len(octets) == 8 else "tdes", octets), bytes(8))[:length]
            data += encrypt(MASTER, octets) + check
        return data.hex().upper()


def octets() -> bytes:
    return os.urandom(16)


def test_without_a_master_key_nothing_is_required() -> None:
    bench = Bench(master=False)
    assert not bench.keys.required() and bench.keys.ready() and bench.keys.signed_in("") is None
    assert bench.refused == bench.installed == []


def test_a_hosts_key_change_brings_keys_by_the_rules_of_a_sign_in() -> None:
    bench = Bench()
    assert bench.keys.changed({"0": "0800", "62": bench.download(octets(), octets())}) and bench.keys.ready()
    (before,) = bench.installed
    right = bench.download(octets(), octets())
    assert not bench.keys.changed({"0": "0800", "62": right[:-1] + format(int(right[-1], 16) ^ 1, "X")}) and not bench.keys.changed({"0": "0800"})
    assert bench.installed == [before] and len(bench.refused) == 2, "what was refused installs nothing, and says so"


def test_a_hosts_key_change_without_a_master_key_installs_nothing() -> None:
    bench = Bench(master=False)
    assert not bench.keys.changed({"0": "0800", "62": bench.download(octets(), octets())})
    assert bench.installed == []


@pytest.mark.parametrize(("count", "size", "length"), [(2, 16, 4), (2, 8, 4), (3, 16, 4), (3, 16, 3)], ids=["40", "24", "60", "57"])
def test_the_layouts_of_a_sign_in_are_told_by_their_length(count: int, size: int, length: int) -> None:
    bench = Bench()
    clear = [os.urandom(size) for _ in range(count)]
    assert bench.keys.required() and not bench.keys.ready()
    assert bench.keys.signed_in(bench.download(*clear, length=length)) is None
    assert bench.keys.ready()
    assert [key.purpose for key in bench.installed[0]] == ["pin", "mac", "track"][:count]
    assert {key.algorithm for key in bench.installed[0]} == {"des" if size == 8 else "tdes"}
    assert bench.keys.right(b"data", bench.keys.mac(b"data"))


def test_a_short_mac_is_right_by_its_left_bytes_and_never_by_fewer() -> None:
    bench = Bench()
    assert bench.keys.signed_in(bench.download(octets(), octets())) is None
    mac = bench.keys.mac(b"data")
    assert bench.keys.right(b"data", mac) and not any(bench.keys.right(b"data", mac[:count]) for count in range(8))
    bench.keys.dialect = build({**LITERALS["unionpay_pos"], "mac": ("64", "unionpay_ecb", ("2",), "A0", 4)})
    assert bench.keys.mac(b"data") == mac
    assert [count for count in range(9) if bench.keys.right(b"data", mac[:count])] == [4]
    assert not bench.keys.right(b"data", mac[:3] + bytes([mac[3] ^ 1])) and not bench.keys.right(b"Data", mac[:4])
    (key,) = (key for key in bench.installed[0] if key.purpose == "mac")
    assert [count for count in range(9) if bench.hsm.mac_right(key, "unionpay_ecb", b"data", mac[:count])] == [4, 5, 6, 7, 8]


def test_a_key_that_is_marked_as_another_one_is_refused_with_all_that_came_with_it() -> None:
    """Records of a mark, a key and its whole check value, as some hosts give them; and 84 bytes, which nobody here can cut."""
    bench, clear = Bench(), [octets(), octets()]
    parts = tuple((purpose, "tdes", 16, 8, mark) for purpose, mark in (("mac", "01"), ("pin", "02")))
    bench.keys.dialect = build({**LITERALS["unionpay_pos"], "key_exchange": ("62", {50: parts}, {})})
    records = [bench.download(each, length=8) for each in clear]
    assert bench.keys.signed_in(f"02{records[1]}01{records[0]}") == "a key is marked as another one"
    assert bench.keys.signed_in(f"01{records[0]}03{records[1]}") == "a key is marked as another one" and bench.installed == []
    assert bench.keys.signed_in("AB" * 84) == "84 bytes are no layout that is known"
    assert bench.keys.signed_in(f"01{records[0]}02{records[1]}") is None
    assert [key.purpose for key in bench.installed[0]] == ["mac", "pin"]


def test_in_the_older_form_the_track_key_has_no_check_value() -> None:
    bench, clear = Bench(), [os.urandom(16) for _ in range(3)]
    content = bench.download(*clear)[:-8]
    assert len(content) == 2 * 56 and bench.keys.signed_in(content) is None
    assert [(key.purpose, key.kcv) for key in bench.installed[0]] == [
        (purpose, kcv(ClearKey("tdes", octets))) for purpose, octets in zip(("pin", "mac", "track"), clear, strict=True)]
    with pytest.raises(ValueError, match="kcv"):
        bench.hsm.downloaded(UUID(int=9), "mac", "tdes", bytes(16), bench.store.find(ACQUIRER, "tmk"), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "size", "length"), [(2, 8, 4), (2, 16, 4), (3, 16, 4), (3, 16, 3)], ids=["24", "40", "60", "57"])
def test_each_check_value_of_each_layout_is_looked_at_and_one_wrong_takes_none(count: int, size: int, length: int) -> None:
    bench = Bench()
    sound = bytes.fromhex(bench.download(*(os.urandom(size) for _ in range(count)), length=length))
    for part in range(count):
        at = part * (size + length) + size
        assert bench.keys.signed_in((sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1:]).hex()) == "a check value differs"
    assert bench.installed == [] and len(bench.refused) == count and bench.store.find(ACQUIRER, "mac") is None


def test_a_published_download_of_a_double_and_a_single_key() -> None:
    """A worked example of a terminal's working keys, with its master key and the clear keys (code456.com, article 3026509)."""
    master = ClearKey("tdes", bytes.fromhex("CA5D92598DCA48CE8A4C76361A9269E9"))
    bench = Bench(master=False)
    identity, filled = bench.new_id(), bytes(15) + b"\1"
    parts = [bench.hsm.component(identity, "tdes", Secret(octets.hex()), kcv(ClearKey("tdes", octets)))
             for octets in (filled, bytes(a ^ b for a, b in zip(master.reveal(), filled, strict=True)))]
    bench.adopt(bench.hsm.combined(identity, "tmk", parts, kcv(master)))
    said = "6701EAD6A9AD51E51AA406E2C27FCFA98D0A74B8" "B651F9E9BACE9AE10000000000000000AB7153CA"
    assert bench.keys.signed_in(said) is None
    assert [bench.hsm._opened(key).reveal().hex().upper() for key in bench.installed[0]] == ["807A23AD32B36D457AE91FDF927570EA", "5BB5C72CD00B7338"]


def test_a_mac_key_that_makes_no_macs_of_its_dialect_is_refused_with_all_that_came_with_it() -> None:
    bench, single = Bench(), os.urandom(8)
    bench.keys.dialect = load("iso93_ascii")
    whole = bytes.fromhex(bench.download(octets())) + encrypt(MASTER, single) + bytes(8) + encrypt(ClearKey("des", single), bytes(8))[:4]
    assert bench.keys.signed_in(whole.hex()) == "key_length"
    assert bench.installed == [] and bench.store.find(ACQUIRER, "pin") is None


def test_a_mac_key_of_8_bytes_in_a_place_for_16_is_single_des() -> None:
    bench, mac_key = Bench(), os.urandom(8)
    whole = bytes.fromhex(bench.download(octets())) + encrypt(MASTER, mac_key) + bytes(8) + encrypt(ClearKey("des", mac_key), bytes(8))[:4]
    assert bench.keys.signed_in(whole.hex()) is None
    assert [key.algorithm for key in bench.installed[0]] == ["tdes", "des"]


@pytest.mark.parametrize("fault", ["", "00" * 40, "AB" * 41, "kcv of the first", "kcv of the last"])
def test_working_keys_that_cannot_be_used_are_refused_whole_and_those_before_stay(fault: str) -> None:
    bench = Bench()
    assert bench.keys.signed_in(bench.download(octets(), octets())) is None
    before, sound = bench.store.find(ACQUIRER, "mac"), bench.download(octets(), octets())
    at = {"kcv of the first": 33, "kcv of the last": 73}.get(fault)
    content = fault if at is None else sound[:at] + ("0" if sound[at] != "0" else "1") + sound[at + 1:]
    assert bench.keys.signed_in(content)
    assert len(bench.refused) == 1 and len(bench.installed) == 1
    assert bench.store.find(ACQUIRER, "mac") is before


def test_the_key_before_is_believed_for_its_grace_and_not_a_moment_longer() -> None:
    bench = Bench(grace_s=60.0)
    bench.keys.signed_in(bench.download(octets(), octets()))
    old = bench.keys.mac(b"data")
    bench.now += timedelta(hours=1)
    bench.keys.signed_in(bench.download(octets(), octets()))
    assert bench.keys.mac(b"data") != old
    bench.now += timedelta(seconds=59.9)
    assert bench.keys.right(b"data", old)
    bench.now += timedelta(seconds=0.1)
    assert not bench.keys.right(b"data", old)
    assert bench.keys.right(b"data", bench.keys.mac(b"data"))


def test_only_so_many_keys_are_remembered() -> None:
    bench, macs = Bench(), []
    for _ in range(FORMER_MAX + 3):
        bench.keys.signed_in(bench.download(octets(), octets()))
        macs.append(bench.keys.mac(b"data"))
    assert [bench.keys.right(b"data", mac) for mac in macs] == [False, False] + [True] * (FORMER_MAX + 1)


def test_a_key_is_used_for_its_purpose_and_for_nothing_else() -> None:
    bench = Bench()
    bench.keys.signed_in(bench.download(octets(), octets()))
    pin_key = bench.store.find(ACQUIRER, "pin")
    assert pin_key is not None
    with pytest.raises(ValueError, match="key_purpose"):
        bench.hsm.mac(pin_key, "unionpay_ecb", b"data")
    changes: tuple[dict[str, Any], ...] = ({"purpose": "mac"}, {"algorithm": "aes"}, {"kcv": "000000"}, {"key_id": UUID(int=9)}, {"storage_key": "k9"},
                                           {"wrapped": bytes(len(pin_key.wrapped))}, {"wrapped": b""})
    for changed in changes:
        with pytest.raises(ValueError, match="wrapped_broken"):
            bench.hsm._opened(replace(pin_key, **changed))


def test_nothing_about_a_handle_or_a_module_shows_a_key() -> None:
    bench = Bench()
    bench.keys.signed_in(bench.download(MASTER.reveal(), octets()))
    for shown in (repr(bench.installed), repr(bench.hsm), repr(bench.store.current), str(vars(bench.hsm))):
        assert MASTER.reveal().hex() not in shown.lower() and repr(MASTER.reveal())[2:-1] not in shown


def test_what_is_newer_stays_whoever_comes_later() -> None:
    bench = Bench()
    bench.keys.signed_in(bench.download(octets(), octets()))
    older = bench.installed[0]
    bench.keys.signed_in(bench.download(octets(), octets()))
    newest = bench.store.find(ACQUIRER, "mac")
    bench.adopt(next(key for key in older if key.purpose == "mac"))
    assert bench.store.find(ACQUIRER, "mac") is newest
    assert bench.store.find(OTHER, "mac") is None
