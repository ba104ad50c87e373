"""How a host hears and speaks: the rules of behaviours.py are said in the elements of 1987, and each dialect is turned into them and back.

`read` gives what was heard as the rules want it; `write` says their answer in the host's own elements, from what came on the wire.
"""
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from acquirer_stubs import codec
from acquirer_stubs.codec import FRAME_BYTES_MAX, BadLength, Message, Undecodable
from acquirer_stubs.forms import ISO93, MASTERCARD, UNIONPAY, VISA, Table


class Heard(NamedTuple):
    message: Message   # in the elements of 1987
    wire: Message      # as it came
    header: bytes = b""
    refusal: str = ""  # the code for content that this host does not take


Spoil = Callable[[Message], Message]  # what a fault makes of an answer in the host's own elements


def plainly(said: Message) -> Message:
    return said


class Speech(NamedTuple):
    read: Callable[[bytes], Heard]
    write: Callable[[Message, Heard | None, "Spoil"], bytes]
    frame: Callable[[bytes], bytes]
    split: Callable[[bytes], tuple[list[bytes], bytes]]
    unasked: bool = True  # whether the host manages the network of itself
    counts_voids: bool = False  # whether its batches have voided sales, and their voids


def read_87(body: bytes) -> Heard:
    message = codec.decode(body)
    if message[0][0] != "0":
        raise Undecodable("MTI: not the version of 1987")
    return Heard(message, message)


def write_87(reply: Message, heard: Heard | None, spoil: Spoil = plainly) -> bytes:
    return codec.encode(spoil(reply))


# ISO 8583:1993 in ASCII: action codes of three digits, DE12 with its date, DE24 says what is managed, DE56 names the original.

TABLE_93 = Table(ISO93, packed=False)
FUNCTION_93 = {"801": "001", "802": "002", "831": "301", "821": "201", "811": "101"}
ACTION_93 = {"00": "000", "08": "001", "10": "002", "85": "000", "01": "107", "05": "100", "51": "116", "54": "101", "55": "117", "61": "121",
             "91": "907", "96": "909", "94": "913", "25": "914", "12": "902", "30": "904", "40": "115", "14": "111",
             "41": "208", "43": "209", "63": "122", "75": "106", "90": "906", "Z9": "899", "A0": "916", "99": "904"}
ACCEPTED_93 = {"4": "400", "8": "800"}  # by class, instead of 000
BALANCES_93 = {"1": "500", "2": "501"}  # by DE66 of 1987


def read_93(body: bytes) -> Heard:
    wire = TABLE_93.decode(body)
    if wire[0][0] != "1":
        raise Undecodable("MTI: not the version of 1993")
    message: Message = {de: value for de, value in wire.items() if de not in (24, 26, 56)}
    message[0] = f"0{wire[0][1:3]}{int(wire[0][3]) & 1}"
    if 12 in wire:  # the clock of the terminal stands for DE7, which DE56 does not have
        message |= {7: wire[12][2:], 12: wire[12][6:], 13: wire[12][2:6]}
    if wire[0][1] == "8":
        message[70] = FUNCTION_93.get(wire.get(24, ""), "999")
    if 56 in wire:
        if len(wire[56]) < 22:
            raise Undecodable("DE56: cut off")
        message[90] = f"0{wire[56][1:4]}{wire[56][4:10]}{wire[56][12:22]}" + "0" * 22
    return Heard(dict(sorted(message.items())), wire)


def write_93(reply: Message, heard: Heard | None, spoil: Spoil = plainly) -> bytes:
    if heard is None:
        now = datetime.now(UTC)
        function = next(code for code, meaning in FUNCTION_93.items() if meaning == reply[70])
        date: Message = {15: f"{now:%y}{reply[15]}"} if 15 in reply else {}
        keys: Message = {96: reply[62]} if 62 in reply else {}
        return TABLE_93.encode({0: "1804", 7: reply[7], 11: reply[11], 12: f"{now:%y%m%d%H%M%S}", 24: function, **date, **keys})
    wire = heard.wire
    own: Message = {de: reply[de] for de in (4, 37, 38, 54, 55) if de in reply}
    said: Message = {de: wire[de] for de in (2, 3, 7, 11, 12, 28, 32, 41, 42, 49, 50, 24 if wire[0][1] == "8" else 3) if de in wire} | own
    if 62 in reply:  # key management data
        said[96] = reply[62]
    code = ACTION_93.get(reply[39], reply[39].rjust(3, "9"))
    said[39] = BALANCES_93.get(reply.get(66, "")) or (ACCEPTED_93.get(wire[0][1], code) if code == "000" else code)
    return TABLE_93.encode(spoil({0: f"1{reply[0][1:3]}{int(wire[0][3]) & ~1}", **said}))


def frame_ascii4(body: bytes) -> bytes:
    return b"%04d" % len(body) + body


def split_ascii4(buffer: bytes) -> tuple[list[bytes], bytes]:
    """As codec.split; a length of zero keeps the line alive."""
    bodies: list[bytes] = []
    while len(buffer) >= 4:
        digits = buffer[:4]
        if not digits.isdigit() or int(digits) > FRAME_BYTES_MAX:
            raise BadLength("frame length", bodies)
        end = 4 + int(digits)
        if end > len(buffer):
            break
        if end > 4:
            bodies.append(buffer[4:end])
        buffer = buffer[end:]
    return bodies, buffer


# UnionPay POS: TPDU and header of 6 bytes; batch and trace are what a transaction is known by; DE60 says its kind, DE61 names the original.

TABLE_CUP = Table(UNIONPAY, packed=True)
HEADER_BYTES = 11
MANAGED_CUP = {"001": "001", "003": "001", "004": "001", "002": "002", "301": "301"}
VOIDS_CUP = {"23": "0200", "11": "0100", "21": "0200"}  # DE60.1 -> MTI of what is voided
TIP_CUP = "34"
FOLLOWS_CUP = VOIDS_CUP | {"20": "0100", "24": "0100", "25": "0200", TIP_CUP: "0200"}
UNDONE_CUP = {"10": "0100", "11": "0100", "25": "0220", "30": "0220", TIP_CUP: "0220"}  # DE60.1 -> MTI of what a 0400 undoes; 0200 for the rest


ITEMS_CUP = {"202": "end", "207": "end", "201": "records"}  # DE60.3 of an 0320; any other names one transaction
TOTALS_CUP = ((88, 0, 12, 16), (76, 12, 3, 10), (86, 15, 12, 16), (74, 27, 3, 10))  # DE of 1987, where it starts, digits here, digits there


def _totals_cup(wire: Message) -> Message:
    """DE48 of a 0500: own cards, then all others, each with its amounts, numbers and settlement code. The sums of both, in the elements of 1987."""
    text = wire.get(48, "")
    if len(text) != 62:
        return {}
    sums: Message = {50: wire.get(49, "")}
    for de, start, size, digits in TOTALS_CUP:
        sums[de] = f"{int(text[start:start + size]) + int(text[31 + start:31 + start + size]):0{digits}d}"
    return sums


def _uploaded_cup(wire: Message) -> Message:
    """Of an 0320: how many transactions it names (76), or, at the end, how many the others did (74)."""
    kind, text = ITEMS_CUP.get(wire[60][8:11], "one"), wire.get(48, "")
    if kind == "one":
        return {76: f"{1:010d}"} if {3, 4, 61} <= wire.keys() else {}
    if kind == "end":
        return {74: f"{int(text):010d}"} if len(text) == 4 else {}
    whole = len(text) > 2 and len(text) == 2 + 40 * int(text[:2]) and int(text[:2]) <= 8
    return {76: f"{int(text[:2]):010d}"} if whole else {}


def read_cup(body: bytes) -> Heard:
    header = body[:HEADER_BYTES]
    if len(header) < HEADER_BYTES or header[0] != 0x60:
        raise Undecodable("TPDU")
    wire = TABLE_CUP.decode(body[HEADER_BYTES:])
    if wire[0][0] != "0" or len(wire.get(60, "")) < 8 or 11 not in wire:
        raise Undecodable("MTI, DE11 or DE60")
    kind, batch = wire[60][:2], wire[60][2:8]
    message: Message = {de: value for de, value in wire.items() if de not in (60, 61)} | {7: f"{batch}0000", 37: batch + wire[11]}
    if wire[0][1] == "8":
        message[70] = MANAGED_CUP.get(wire[60][8:11], "999")
    elif wire[0][1] in "35":
        return Heard(dict(sorted((message | (_totals_cup(wire) if wire[0][1] == "5" else _uploaded_cup(wire))).items())), wire, header)
    elif wire[0][1] == "4":
        message[90] = f"{UNDONE_CUP.get(kind, '0200')}{wire[11]}{batch}0000" + "0" * 22
    elif kind in FOLLOWS_CUP and len(wire.get(61, "")) >= 12:
        message[90] = f"{FOLLOWS_CUP[kind]}{wire[61][6:12]}{wire[61][:6]}0000" + "0" * 22
    if kind in (*VOIDS_CUP, TIP_CUP) and wire[0][1] != "4":
        message[3] = "02" + wire.get(3, "")[2:]
    return Heard(dict(sorted(message.items())), wire, header, "" if _scanned(wire) else "30")


def _scanned(wire: Message) -> bool:
    """A sale by payment code (DE22 03x, DE60.1 22) has neither card nor track, and the code in DE59: tag A3, three digits of length."""
    if wire.get(22, "")[:2] != "03" or wire[0] != "0200" or wire[60][:2] != "22":
        return True
    code = re.fullmatch("A3([0-9]{3})([0-9]{12,32})", wire.get(59, ""))
    return code is not None and int(code[1]) == len(code[2]) and 2 not in wire and 35 not in wire


def write_cup(reply: Message, heard: Heard | None, spoil: Spoil = plainly) -> bytes:
    if heard is None:
        raise Undecodable("this host says nothing unasked")
    wire, now = heard.wire, datetime.now(UTC)
    said: Message = {de: wire[de] for de in (2, 3, 4, 11, 25, 41, 42, 49, 60) if de in wire}
    said |= {de: reply[de] for de in (4, 38, 39, 54, 55, 62) if de in reply and (de != 4 or de in wire)}
    if 66 in reply and len(wire.get(48, "")) == 62:  # what it thinks of the totals stands behind either half
        said[48] = wire[48][:30] + reply[66] + wire[48][31:61] + reply[66]
    said |= {12: f"{now:%H%M%S}", 13: f"{now:%m%d}", 15: f"{now:%m%d}", 32: "00010000", 37: reply.get(37, "0" * 12)}
    swapped = heard.header[:1] + heard.header[3:5] + heard.header[1:3] + heard.header[5:]
    return swapped + TABLE_CUP.encode(spoil({0: reply[0], **said}))


# Visa BASE I: VIP header of 22 bytes behind a length and two zero bytes, EBCDIC, binary lengths; the elements themselves are those of 1987.

TABLE_VISA = Table(VISA, packed=True, code="cp500", counted=True, right=True)
VIP_BYTES = 22
CHIP_DATASET = "01"  # in front of its length and the chip data in DE55
MANAGED_VISA = {"071": "001", "072": "002", "301": "301"}


def read_visa(body: bytes) -> Heard:
    header = body[:VIP_BYTES]
    if len(header) < VIP_BYTES or header[0] != VIP_BYTES or int.from_bytes(header[3:5], "big") != len(body):
        raise Undecodable("VIP header")
    wire = TABLE_VISA.decode(body[VIP_BYTES:])
    message = {de: value for de, value in wire.items() if de not in (22, 63)}
    if 70 in wire:
        message[70] = MANAGED_VISA.get(wire[70], "999")
    if 55 in wire:
        message[55] = wire[55].removeprefix(f"{CHIP_DATASET}{max(len(wire[55]) // 2 - 3, 0):04X}")
    return Heard(message, wire, header)


def write_visa(reply: Message, heard: Heard | None, spoil: Spoil = plainly) -> bytes:
    wire: Message = heard.wire if heard is not None else {0: reply[0], 63: "8000000002"}
    head = heard.header if heard is not None else bytes([VIP_BYTES, 1, 2]) + bytes(VIP_BYTES - 3)
    said: Message = {de: value for de, value in reply.items() if de in TABLE_VISA.forms} | {63: wire[63]}
    if 55 in reply:
        said[55] = f"{CHIP_DATASET}{len(reply[55]) // 2:04X}{reply[55]}"
    if 70 in reply:
        said[70] = wire.get(70) or next(code for code, meaning in MANAGED_VISA.items() if meaning == reply[70])
    data = TABLE_VISA.encode(spoil({0: reply[0], **said}))
    return head[:3] + (VIP_BYTES + len(data)).to_bytes(2, "big") + head[8:11] + head[5:8] + head[11:] + data


def frame_vml(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + b"\0\0" + body


def split_vml(buffer: bytes) -> tuple[list[bytes], bytes]:
    """As codec.split."""
    bodies: list[bytes] = []
    while len(buffer) >= 4:
        end = 4 + int.from_bytes(buffer[:2], "big")
        if buffer[2:4] != b"\0\0" or end > FRAME_BYTES_MAX:
            raise BadLength("frame length", bodies)
        if end > len(buffer):
            break
        if end > 4:
            bodies.append(buffer[4:end])
        buffer = buffer[end:]
    return bodies, buffer


# Mastercard CIS: EBCDIC text and digits behind binary bitmaps; an answer names no card acceptor and carries a Banknet reference in DE63.

TABLE_MC = Table(MASTERCARD, packed=False, code="cp500", raw=True)
MANAGED_MC = {"061": "001", "062": "002", "270": "301"}
NOT_IN_THE_HOUSE_MC = (48, 61, 63, 94, 95)


def read_mc(body: bytes) -> Heard:
    wire = TABLE_MC.decode(body)
    if wire[0][0] != "0":
        raise Undecodable("MTI: not the version of 1987")
    message: Message = {de: value for de, value in wire.items() if de not in NOT_IN_THE_HOUSE_MC}
    if wire.get(3, "")[:2] == "30":  # an inquiry of the balance, which is 31 in the elements of 1987
        message[3] = "31" + wire[3][2:]
    if 70 in wire:
        message[70] = MANAGED_MC.get(wire[70], "999")
    return Heard(message, wire, refusal="" if wire[0] != "0100" or {48, 61} <= wire.keys() else "30")


def write_mc(reply: Message, heard: Heard | None, spoil: Spoil = plainly) -> bytes:
    wire: Message = heard.wire if heard is not None else {0: reply[0]}
    said: Message = {de: value for de, value in reply.items() if de in TABLE_MC.forms and de not in (25, 42, 43)}
    if 70 in reply:
        said[70] = wire.get(70) or next(code for code, meaning in MANAGED_MC.items() if meaning == reply[70])
    else:
        said |= {de: wire[de] for de in (3,) if de in wire} | {48: wire.get(48, "R"), 63: f"MCC{int(reply.get(11, '0')):06d}"}
    return TABLE_MC.encode(spoil({0: reply[0], **said}))


SPEECHES = {
    "mastercard_cis": Speech(read_mc, write_mc, codec.frame, codec.split),
    "iso87_ascii": Speech(read_87, write_87, codec.frame, codec.split),
    "iso93_ascii": Speech(read_93, write_93, frame_ascii4, split_ascii4),
    "visa_base1": Speech(read_visa, write_visa, frame_vml, split_vml),
    "unionpay_pos": Speech(read_cup, write_cup, codec.frame, codec.split, unasked=False, counts_voids=True),
}
