"""`python -m tests.crypto_bench`: what keys add to a payment: a message with its MAC made and checked, a PIN block translated, DUKPT, key blocks.

Through the software module, as the switch asks it, so unwrapping is in it the first time only. The best of several rounds counts. The last line is
one JSON object of microseconds.
"""

import json
import os
import sys
import timeit
from collections.abc import Callable
from typing import get_args
from uuid import UUID

from messages.codec import decode, encode
from messages.dialect import load
from messages.mac import NONE, covered, placed
from switch.security import dukpt
from switch.security.ciphers import Algorithm, ClearKey, encrypt, kcv, xor
from switch.security.hsm import Handle, Purpose
from switch.security.keyblocks import Header, unwrap, wrap
from switch.security.macs import MACS
from switch.security.pan import Pan, Secret
from switch.security.pinblocks import clear_block
from switch.security.software_hsm import SoftwareHsm
from switch.security.vault import Keyring

CUP = load("unionpay_pos")
REQUEST = {"0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000012500", "11": "000123", "14": "2812", "22": "051", "25": "00", "26": "12",
           "41": "TERM0001", "42": "MERCHANT0000001", "49": "156", "52": "0123456789ABCDEF", "53": "2600000000000000", "60": "2226112600060", "64": NONE}
HSM = SoftwareHsm(Keyring("k1", "t1", {"k1": os.urandom(32), "t1": os.urandom(32)}))
PAN = Pan("4111111111111111")


def key(purpose: Purpose, algorithm: Algorithm, octets: bytes) -> Handle:
    """A key in the module, by way of two components."""
    parts = [HSM.component(UUID(int=1), algorithm, Secret(each.hex()), kcv(ClearKey(algorithm, each))) for each in (octets[::-1], xor(octets, octets[::-1]))]
    return HSM.combined(UUID(int=1), purpose, parts, kcv(ClearKey(algorithm, octets)))


def work() -> dict[str, Callable[[], object]]:
    octets = bytes(range(16))
    tdes, sm4, aes = (key("mac", algorithm, octets) for algorithm in get_args(Algorithm)[1:] if algorithm in ("tdes", "sm4", "aes"))
    terminal, acquirer, base = key("pin", "tdes", octets), key("pin", "tdes", octets[::-1]), key("bdk", "tdes", octets)
    base_aes, acquirer_aes = key("bdk", "aes", octets), key("pin", "aes", octets[::-1])
    sent = encode(CUP, REQUEST)
    data = covered(CUP, sent)
    mac = HSM.mac(tdes, "unionpay_ecb", data)
    whole = placed(CUP, sent, mac)
    block = encrypt(ClearKey("tdes", octets), clear_block("1234", "iso0", PAN.reveal(), os.urandom))
    serials = dukpt.ksn("FFFF9876543210E00007"), dukpt.ksn("123456789012345600000007")
    by_serial = encrypt(dukpt.derived(ClearKey("tdes", octets), serials[0], "pin"), clear_block("1234", "iso0", PAN.reveal(), os.urandom))
    kek = ClearKey("aes", octets * 2)
    wrapped = wrap(Header("D", "P0", "T", "N"), ClearKey("tdes", octets), kek, os.urandom)
    pin, pin_by_serial = Secret(block.hex()), Secret(by_serial.hex())
    four = HSM.translated(pin, "iso0", PAN, terminal, None, acquirer_aes, "iso4")
    return {
        "encode 0200": lambda: encode(CUP, REQUEST), "decode 0200": lambda: decode(CUP, whole),
        "unionpay MAC, tdes": lambda: HSM.mac(tdes, "unionpay_ecb", data), "unionpay MAC, sm4": lambda: HSM.mac(sm4, "unionpay_ecb", data),
        "retail MAC": lambda: HSM.mac(tdes, "iso9797_3", data), "CMAC, aes": lambda: HSM.mac(aes, "cmac", data),
        "MAC checked": lambda: HSM.mac_right(tdes, "unionpay_ecb", data, mac),
        "PIN iso0 to iso0": lambda: HSM.translated(pin, "iso0", PAN, terminal, None, acquirer, "iso0"),
        "PIN iso0 to iso4": lambda: HSM.translated(pin, "iso0", PAN, terminal, None, acquirer_aes, "iso4"),
        "PIN iso4 to iso0": lambda: HSM.translated(four, "iso4", PAN, acquirer_aes, None, acquirer, "iso0"),
        "PIN DUKPT tdes to iso0": lambda: HSM.translated(pin_by_serial, "iso0", PAN, base, serials[0], acquirer, "iso0"),
        "DUKPT aes": lambda: dukpt.derived(HSM._opened(base_aes), serials[1], "pin"), "TR-31 D unwrapped": lambda: unwrap(wrapped, kek),
    }


def main() -> int:
    assert set(MACS) >= {"unionpay_ecb", "iso9797_3", "cmac"}
    taken = {}
    for name, each in work().items():
        timeit.timeit(each, number=10)
        taken[name] = round(min(timeit.timeit(each, number=500) / 500 for _ in range(5)) * 1e6, 2)
        print(f"{name:24}{taken[name]:8.2f} us")
    print(json.dumps(taken))
    return 0


if __name__ == "__main__":
    sys.exit(main())
