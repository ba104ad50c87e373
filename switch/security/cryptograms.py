"""What issuers compute of a card: application cryptograms and their answers (EMV book 2), card verification values. Pure.

A switch passes cryptograms on; this is for those who stand in for an issuer, and it proves our reading of DE55 against published values.
"""

from switch.security import des
from switch.security.ciphers import ClearKey, decrypt, encrypt, xor
from switch.security.macs import iso9797_3, padded


def card_key(master: ClearKey, pan: str, sequence: str) -> ClearKey:
    """Option A of EMV book 2, A1.4.1."""
    digits = (pan + sequence)[-16:].zfill(16)
    block = bytes.fromhex(digits)
    return ClearKey("tdes", des.odd(encrypt(master, block) + encrypt(master, xor(block, b"\xff" * 8))))


def common_session_key(card: ClearKey, counter: str) -> ClearKey:
    """EMV common session key (A1.3.1), of the transaction counter in hex."""
    block = bytes.fromhex(counter) + bytes(6)
    return _two(card, block)


def mchip_session_key(card: ClearKey, counter: str, unpredictable: str) -> ClearKey:
    """M/Chip: transaction counter and unpredictable number, in hex."""
    return _two(card, bytes.fromhex(counter) + bytes(2) + bytes.fromhex(unpredictable))


def pboc_session_key(card: ClearKey, counter: str) -> ClearKey:
    """PBOC debit and credit (JR/T 0025, version 01): of the transaction counter in hex and of its complement, each behind six zero bytes."""
    block = bytes.fromhex(counter)
    return ClearKey("tdes", des.odd(encrypt(card, bytes(6) + block) + encrypt(card, bytes(6) + xor(block, b"\xff\xff"))))


def _two(card: ClearKey, block: bytes) -> ClearKey:
    left, right = (block[:2] + mark + block[3:] for mark in (b"\xf0", b"\x0f"))
    return ClearKey("tdes", des.odd(encrypt(card, left) + encrypt(card, right)))


def cryptogram(key: ClearKey, data: bytes, method: int = 1) -> bytes:
    """ARQC, TC or AAC over what the card was given; `method`: how it is filled."""
    return iso9797_3(key, padded(data, 8, method))


def response(key: ClearKey, request: bytes, code: bytes) -> bytes:
    """ARPC by method 1: `code` is the issuer's, 2 bytes."""
    return encrypt(key, xor(request, code + bytes(6)))


def status_response(key: ClearKey, request: bytes, status: bytes) -> bytes:
    """ARPC by method 2, 4 bytes, over the card status update."""
    return iso9797_3(key, padded(request + status, 8, 2))[:4]


def verification_value(key: ClearKey, pan: str, expiry: str, service_code: str) -> str:
    """CVV, CVV2 (service code 000) or iCVV (999), 3 digits."""
    octets = key.reveal()
    left, right = ClearKey("des", octets[:8]), ClearKey("des", octets[8:16])
    text = (pan + expiry + service_code).ljust(32, "0")
    block = encrypt(left, xor(encrypt(left, bytes.fromhex(text[:16])), bytes.fromhex(text[16:])))
    mixed = encrypt(left, decrypt(right, block)).hex()
    return ("".join(each for each in mixed if each.isdecimal()) + "".join(str(int(each, 16) - 10) for each in mixed if not each.isdecimal()))[:3]
