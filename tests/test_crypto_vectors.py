"""Published MACs, PIN blocks, check values, key downloads, DUKPT keys, cryptograms and SM4 values through our own code. VECTORS=<folder> for others."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from switch.security import cryptograms, dukpt, tracks
from switch.security.ciphers import ClearKey, CryptoError, check_kcv, decrypt, encrypt
from switch.security.hsm import Handle
from switch.security.macs import folded, iso9797_1, iso9797_3, unionpay_ecb
from switch.security.pan import Pan, PanError, Secret
from switch.security.pinblocks import _digits, clear_block, translate
from switch.security.software_hsm import SoftwareHsm
from switch.security.vault import Keyring

OWN = Path(__file__).parent / "vectors"
FOLDER = Path(os.environ.get("VECTORS") or OWN)
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in map(json.loads, (FOLDER / "crypto.jsonl").read_text().splitlines())}
HSM = SoftwareHsm(Keyring("k1", "t1", {"k1": bytes(32), "t1": bytes(range(32))}))
ID = UUID(int=1)

Inputs = Mapping[str, Any]


def tdes(text: str) -> ClearKey:
    return ClearKey("des" if len(text) == 16 else "tdes", bytes.fromhex(text))


def shown(octets: bytes) -> str:
    return octets.hex().upper()


def none(_: int) -> bytes:
    raise AssertionError("nothing is drawn here")


def fold(inputs: Inputs) -> str:
    return shown(shown(folded(bytes.fromhex(inputs["mab"]), 8)).encode())


def mac_cup(inputs: Inputs) -> str:
    return shown(unionpay_ecb(tdes(inputs["mak"]), bytes.fromhex(inputs["mab"])))


def mac_1(inputs: Inputs) -> str:
    return shown(iso9797_1(tdes(inputs["key"]), bytes.fromhex(inputs["data"]), inputs["padding"]))


def mac_3(inputs: Inputs) -> str:
    return shown(iso9797_3(tdes(inputs["key"]), bytes.fromhex(inputs["data"]), inputs["padding"]))


def encrypted(inputs: Inputs) -> str:
    return shown(encrypt(tdes(inputs["key"]), bytes.fromhex(inputs["data"])))


def random_fill(inputs: Inputs) -> str:
    """A block that the standard does not know: no PIN is read out of it. (Its card number has a wrong check digit, so it never gets as far.)"""
    block = decrypt(tdes(inputs["key"]), bytes.fromhex(inputs["cipher"]))
    assert _digits(block, "iso0", inputs["pan"]) is None
    with pytest.raises(PanError):
        Pan(inputs["pan"])
    assert _digits(clear_block(inputs["pin"], "iso0", inputs["pan"], none), "iso0", inputs["pan"]) == inputs["pin"]
    return shown(block)


def iso2(inputs: Inputs) -> str:
    """Between a card and its reader only: never translated."""
    with pytest.raises(CryptoError) as caught:
        translate(bytes(8), Pan("4111111111111111"), "iso2", tdes(inputs["key"]), "iso0", tdes(inputs["key"]), none)
    assert caught.value.code == "pin_pair"
    return shown(encrypt(tdes(inputs["key"]), bytes.fromhex(f"2{len(inputs['pin'])}{inputs['pin']}".ljust(16, "F"))))


def check_value(inputs: Inputs) -> str:
    expected = next(vector["expected"] for vector in VECTORS.values() if vector["inputs"] is inputs)
    check_kcv(tdes(inputs["key"]), expected)
    with pytest.raises(CryptoError):
        check_kcv(tdes(inputs["key"]), "0" * len(expected))
    return str(expected)


def master_key() -> Handle:
    """The key of two components, as the module makes it from what people key in."""
    first, second = VECTORS["ajsgn-pik-kcv"]["inputs"]["zmk_parts"]
    parts = [HSM.component(ID, "tdes", Secret(text), VECTORS[name]["expected"])
             for text, name in ((first, "ajsgn-zmk-kcv1"), (second, "ajsgn-zmk-kcv2"))]
    with pytest.raises(CryptoError):
        HSM.combined(ID, "tmk", parts, "000000")
    whole = ClearKey("tdes", bytes(one ^ other for one, other in zip(bytes.fromhex(first), bytes.fromhex(second), strict=True)))
    return HSM.combined(ID, "tmk", parts, shown(encrypt(whole, bytes(8)))[:6])


def downloaded(inputs: Inputs) -> str:
    expected = next(vector["expected"] for vector in VECTORS.values() if vector["inputs"] is inputs)
    key = HSM.downloaded(ID, "pin", "tdes", bytes.fromhex(inputs["enc"]), master_key(), expected)
    assert key.kcv == expected[:6]
    with pytest.raises(CryptoError):
        HSM.downloaded(ID, "pin", "tdes", bytes.fromhex(inputs["enc"]), master_key(), "00" + expected[2:])
    return str(expected)


def mac_of_reversal(inputs: Inputs) -> str:
    key = HSM.downloaded(ID, "mac", "tdes", bytes.fromhex(inputs["mak_enc"]), master_key(), VECTORS["ajsgn-mak-kcv"]["expected"])
    return shown(HSM.mac(key, "iso9797_3", bytes.fromhex(inputs["mab"])))


def clear(inputs: Inputs) -> str:
    return shown(clear_block(inputs["pin"], "iso0", inputs["pan"], none))


def under_zpk(inputs: Inputs) -> str:
    return shown(encrypt(tdes(inputs["key"]), clear_block(inputs["pin"], "iso0", inputs["pan"], none)))


def wrapped(inputs: Inputs) -> str:
    return shown(encrypt(tdes(inputs["kek"]), bytes.fromhex(inputs["key"])))


def cvv(inputs: Inputs) -> str:
    return cryptograms.verification_value(tdes(inputs["cvk"]), inputs["pan"], inputs["exp"], inputs["service_code"])


def card_of(inputs: Inputs) -> ClearKey:
    return cryptograms.card_key(tdes(inputs["imk"]), inputs["pan"], inputs["psn"])


def session_of(inputs: Inputs, kind: str) -> ClearKey:
    card, data = card_of(inputs), inputs["data"]
    counter, unpredictable = inputs.get("atc", data[62:66]), inputs.get("un", data[50:58])
    return {"none": card, "mchip": cryptograms.mchip_session_key(card, counter, unpredictable),
            "common": cryptograms.common_session_key(card, counter)}[kind]


def cryptogram(kind: str, method: int, of_issuer: slice) -> Callable[[Inputs], str]:
    """`of_issuer`: hex digits of the issuer's data that the card adds to what it was given."""
    return lambda inputs: shown(cryptograms.cryptogram(
        session_of(inputs, kind), bytes.fromhex(inputs["data"] + inputs.get("iad", "")[of_issuer]), method))


def response(kind: str) -> Callable[[Inputs], str]:
    return lambda inputs: shown(cryptograms.response(session_of(inputs, kind), bytes.fromhex(inputs["arqc"]), bytes.fromhex(inputs["arc"])))


def status_response(inputs: Inputs) -> str:
    return shown(cryptograms.status_response(session_of(inputs, "common"), bytes.fromhex(inputs["arqc"]), bytes.fromhex(inputs["csu"])))


def dukpt_tdes(inputs: Inputs) -> str:
    base, serial = tdes(inputs["bdk"]), dukpt.ksn(inputs["ksn"])
    for use, name in (("mac_request", "mac_request"), ("mac_response", "mac_response")):
        if name in inputs:
            assert shown(iso9797_3(dukpt.derived(base, serial, use), inputs["mac_data"].encode()))[:8] == inputs[name]  # type: ignore[arg-type]
    if "pin" in inputs:
        assert shown(clear_block(inputs["pin"], "iso0", inputs["pan"], none)) == inputs["clear_pinblock"]
    return shown(encrypt(dukpt.derived(base, serial, "pin"), bytes.fromhex(inputs["clear_pinblock"])))


def sm4(inputs: Inputs) -> str:
    return shown(encrypt(ClearKey("sm4", bytes.fromhex(inputs["key"])), bytes.fromhex(inputs["data"])))


def track(inputs: Inputs) -> str:
    return tracks.block(inputs["track2"])


ALL, NO = slice(None), slice(0)
COMPUTED: dict[str, Callable[[Inputs], str]] = {
    "cup-ecb-fold-hmsmock": fold, "solo123-cup-ecb": mac_cup, "solo123-emak": encrypted,
    **{f"rkbalgi-cbc-{at}": mac_1 for at in range(4)}, **{f"rkbalgi-retail-{at}": mac_3 for at in range(3)}, "rkbalgi-msgmac": mac_3,
    "rkbalgi-pin": random_fill, "rkbalgi-pin-iso2": iso2,
    **dict.fromkeys(("ajsgn-zmk-kcv1", "ajsgn-zmk-kcv2", "jmeter-kcv-des", "jpos-kcv"), check_value),
    **dict.fromkeys(("ajsgn-pik-kcv", "ajsgn-mak-kcv"), downloaded), "ajsgn-x919": mac_of_reversal,
    **dict.fromkeys(("chanjet-pin-5678", "chanjet-pin-3456", "hmsmock-pin-kcv"), clear), "jpos-pin-zpk": under_zpk, "jmeter-enckey": wrapped,
    **dict.fromkeys(("jmeter-cvv-101", "jmeter-cvv-000", "jmeter-cvv-999"), cvv),
    "jmeter-arqc-cvn10": cryptogram("none", 1, slice(6, 14)), "jmeter-arqc-cvn18": cryptogram("common", 2, ALL),
    "jmeter-arqc-mchip16": cryptogram("mchip", 2, slice(4, 16)), "jmeter-arqc-mchip22": cryptogram("common", 2, slice(4, 16)),
    "jpos-ac-vsdc-p00": cryptogram("none", 1, NO), "jpos-ac-vsdc-p80": cryptogram("none", 2, NO),
    "jpos-ac-mchip-p00": cryptogram("mchip", 1, NO), "jpos-ac-mchip-p80": cryptogram("mchip", 2, NO),
    "jpos-ac-cskd-p00": cryptogram("common", 1, NO), "jpos-ac-cskd-p80": cryptogram("common", 2, NO),
    "jpos-arpc-vsdc-m1": response("none"), "jpos-arpc-mchip-m1": response("none"), "jpos-arpc-cskd-m1": response("common"),
    "jpos-arpc-cskd-m2": status_response,
    **{f"dukpt-tdes-{at:02d}": dukpt_tdes for at in range(1, 22, 2)}, "jpos-dukpt-FFC00": dukpt_tdes, "jmeter-dukpt": dukpt_tdes,
    "sm4-gbt32907": sm4, "chanjet-tdb2": track,
}


@pytest.mark.parametrize("vector", VECTORS.values(), ids=lambda vector: vector["id"])
def test_a_published_value_is_what_we_compute(vector: dict[str, Any]) -> None:
    assert COMPUTED[vector["id"]](vector["inputs"]) == vector["expected"].upper()


def test_every_published_value_is_run() -> None:
    assert VECTORS.keys() == COMPUTED.keys()


@pytest.mark.parametrize("vector", [v for v in VECTORS.values() if v["kind"].startswith(("mac/iso", "mac/X9.19 over"))], ids=lambda v: v["id"])
def test_a_mac_moves_with_every_byte_of_what_it_is_over(vector: dict[str, Any]) -> None:
    inputs = vector["inputs"]
    data, right = bytes.fromhex(inputs["data"]), vector["expected"]
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
        assert COMPUTED[vector["id"]]({**inputs, "data": changed.hex()}) != right
