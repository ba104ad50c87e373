"""Visa BASE I, after the description of Visa-like fields: VIP header, BCD, EBCDIC (code page 500), lengths in one binary byte, inner bitmaps, rejects."""

from tests.unseen.wire import Broken, Host, Piece, Said, bcd, binary_bitmap, bits_of


def vip(body: bytes) -> bytes:
    """22 bytes: length, format, text format, total, destination, source, round trip, flags, status, batch, reserved, user."""
    return bytes.fromhex("160102") + (22 + len(body)).to_bytes(2, "big") + bytes.fromhex("654321" + "123456" + "08" + "0000" + "800000" + "00" + "000000" + "07")


HOST = Host(bytes.fromhex, binary_bitmap, vip)


def n(value: str) -> Piece:
    return Piece(bcd(value), value)


def nn(value: str) -> Piece:
    """Digits, and tracks with a D, behind their number in one byte."""
    return Piece(bytes([len(value)]) + bcd(value), value)


def e(value: str) -> Piece:
    return Piece(value.encode("cp500"), value)


def ee(value: str) -> Piece:
    return Piece(bytes([len(value)]) + value.encode("cp500"), value)


def b(value: str) -> Piece:
    return Piece(bytes.fromhex(value), value)


def bb(value: str, width: int = 1) -> Piece:
    return Piece((len(value) // 2).to_bytes(width, "big") + bytes.fromhex(value), value)


MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ABCdefg"
SALE = {2: nn("4111111111111111"), 3: n("000000"), 4: n("000000002500"), 7: n("1126101500"), 11: n("000731"), 12: n("181500"), 13: n("1126"),
        14: n("3012"), 18: n("5812"), 22: n("0510"), 25: n("00"), 37: e("633010000731"), 41: e("T1      "), 42: e("M1             "), 49: n("156"),
        63: bb("8000000002")}
ANSWER = {each: SALE[each] for each in (3, 4, 7, 11, 37, 41, 42, 49)} | {38: e("A1B2C3"), 39: e("00")}
NETWORK = {7: n("1126101500"), 11: n("000732"), 37: e("633010000732"), 63: bb("8000000002"), 70: n("071")}
UNDO = {**SALE, 90: n("0100000731112610150000000123456" + "0" * 11)}
DATASET = "9F2608" + "0123456789ABCDEF" + "DF810104CAFEBABE" + "9F3602000195050000000000"
REJECT = bytes.fromhex("1A0102") + bytes.fromhex("0000" + "123456" + "654321" + "08" + "0000" + "800000" + "00" + "000000" + "07") + b"\x40\x00" + b"\x02\x90"
CPS = "E000000000000000" + "C5" + "0476339010000731" + "C1F1C2F2"  # 62.1 E, 62.2, 62.3 A1B2
SAID: list[Said] = [
    HOST.said("sale by chip", "0100", SALE, {"63.1": "0002"}),
    HOST.said("a card number with an odd number of digits", "0100", {**SALE, 2: nn("4111111111111111123")}),
    HOST.said("a card number of 13 digits", "0100", {**SALE, 2: nn("4222222222222")}),
    HOST.said("an odd number in a fixed field", "0100", {**SALE, 19: n("156"), 20: n("840"), 23: n("001"), 27: n("6")}),
    HOST.said("track 2 with an odd number", "0100", {**SALE, 35: nn("4111111111111111D30122011234567890123")}),
    HOST.said("track 2 with an even number", "0100", {**SALE, 35: nn("4111111111111111D3012201")}),
    HOST.said("track 1 at its longest", "0100", {**SALE, 45: ee("B4111111111111111^" + "A" * 26 + "^" + "3012201" + "0" * 24)}),
    HOST.said("name and place with every mark", "0100", {**SALE, 43: e(MARKS)}),
    # by hand: these stand elsewhere in other pages of EBCDIC
    HOST.said("marks by hand", "0110", {**ANSWER, 44: Piece(b"\x0f" + bytes.fromhex("4A5A4F5FBBE0C0D0A17B7C7D7E7F79"), "[]!^|\\{}~#@'=\"`")}),
    HOST.said("institutions of 11 and 6 digits", "0100", {**SALE, 32: nn("12345678901"), 33: nn("476173")}),
    HOST.said("fees: a sign and digits in EBCDIC", "0100", {**SALE, 28: e("D00000100"), 31: e("C00000001")}),
    HOST.said("PIN block", "0100", {**SALE, 26: n("12"), 52: b("0123456789ABCDEF"), 53: n("2001010100000000")}),
    HOST.said("dataset with chip data and a tag of 3 bytes", "0100", {**SALE, 23: n("001"), 55: bb(f"01{len(DATASET) // 2:04X}" + DATASET)}),
    HOST.said("chip data of 255 bytes", "0100", {**SALE, 55: bb("0100FC" + "DF7981F8" + "5A" * 248)}),
    HOST.said("approved", "0110", ANSWER),
    HOST.said("approved, with the custom payment service", "0110", {**ANSWER, 62: bb(CPS)}, {"62.1": "E", "62.2": "0476339010000731", "62.3": "A1B2"}),
    HOST.said("a product in the inner bitmap", "0110", {**ANSWER, 62: bb("C000020000000000" + "D5" + "0476339010000731" + "C640")},
              {"62.1": "N", "62.23": "F "}),
    HOST.said("an inner bitmap with nothing", "0110", {**ANSWER, 62: bb("0000000000000000")}),
    HOST.said("network data with a reason", "0120", {**SALE, 63: bb("B00000" + "0002" + "2501" + "9020")}, {"63.1": "0002", "63.3": "2501", "63.4": "9020"}),
    HOST.said("approved in part", "0110", {**ANSWER, 4: n("000000001200"), 39: e("10")}),
    HOST.said("declined", "0110", {each: piece for each, piece in ANSWER.items() if each != 38} | {39: e("N7")}),
    HOST.said("reversal: second bitmap", "0400", UNDO),
    HOST.said("repeat of a reversal in part", "0401", {**UNDO, 95: e("000000001000" + "0" * 30)}),
    HOST.said("sign-on", "0800", NETWORK),
    HOST.said("sign-on answered", "0810", {**NETWORK, 39: e("00")}),
    HOST.said("verification", "0100", {**SALE, 3: n("330000"), 4: n("000000000000"), 25: n("51")}),
    HOST.said("additional amounts", "0110", {**ANSWER, 54: ee("1001840C000000012300" * 6)}),
    HOST.said("private text of 255", "0100", {**SALE, 48: ee("x" * 255), 127: bb("AB" * 255)}),
    HOST.said("a long field with a length of two bytes", "0100", {**SALE, 104: bb("5700" + "0102"), 110: bb("0100" + "AB" * 600, 2)}),
    HOST.said("a long field at its longest", "0100", {**SALE, 34: bb("CD" * 1535, 2), 120: bb("EF" * 1537, 2)}),
    HOST.said("terminal data in 60 and 61", "0100", {**SALE, 60: bb("0500100000"), 61: bb("000000000000" * 3)}),
    HOST.said("a transaction in another currency", "0110", {**ANSWER, 6: n("000000000350"), 10: n("61234567"), 51: n("840")}),
    HOST.said("accounts", "0100", {**SALE, 102: ee("A" * 28), 103: ee("1")}),
]
BODY = HOST.message("0100", SALE)[22:]
BROKEN: list[Broken] = [
    Broken("no header", BODY, "h", 0, "length is neither"),
    Broken("a header that is cut", HOST.message("0100", SALE)[:21], "h", 0, "cut"),
    Broken("a total that is wrong", HOST.message("0100", SALE)[:4] + b"\xff" + HOST.message("0100", SALE)[5:], "h", 0, "total"),
    Broken("a rejected message", REJECT[:3] + (26 + 22 + len(BODY)).to_bytes(2, "big") + REJECT[5:] + HOST.message("0100", SALE), "h", 0, "0290"),
    Broken("a reject with nothing behind it", REJECT[:3] + b"\x00\x1a" + REJECT[5:], "h", 0, "0290"),
    HOST.broken("a digit that is none", "0100", {**SALE, 4: b("00000000250A")}, 4, "type n"),
    HOST.broken("a pad that is none", "0100", {**SALE, 19: b("F156")}, 19, ""),
    HOST.broken("a card number over its maximum", "0100", {**SALE, 2: nn("4" * 20)}, 2, ""),
    HOST.broken("ASCII where EBCDIC must be", "0110", {**ANSWER, 39: Piece(b"00", "")}, 39, "type an"),
    HOST.broken("a mark in EBCDIC where letters must be", "0110", {**ANSWER, 38: e("A1B2C-")}, 38, "type an"),
    HOST.broken("a control of EBCDIC in a text", "0100", {**SALE, 43: Piece(b"\xc1" * 39 + b"\x15", "")}, 43, "type ans"),
    HOST.broken("a fee with the digit of another code", "0100", {**SALE, 28: Piece(e("D0000010").wire + b"0", "")}, 28, "x+n"),
    HOST.broken("a track with its separator in EBCDIC", "0100", {**SALE, 35: Piece(b"\x05" + bytes.fromhex("047E12"), "")}, 35, ""),
    HOST.broken("an inner field over its maximum", "0100", {**SALE, 60: bb("05" * 13)}, 60, ""),
    Broken("an unknown bit: 64", HOST.message("0100", {**SALE}, bits=bits_of(2, 3, 4, 7, 64)), "64", 24, "not a field"),
    Broken("an unknown bit: 122", HOST.message("0400", UNDO, bits=bits_of(1, 2, 90, 122)), "122", 32, "not a field"),
    Broken("a third bitmap", HOST.message("0400", UNDO, bits=bits_of(1, 2, 65, 90)), "1", 32, "third"),
    Broken("bytes after the last field", HOST.message("0100", SALE, tail=b"\x40"), "63", len(HOST.message("0100", SALE)), "xtra"),
    Broken("chip data cut by the end", HOST.message("0100", {each: piece for each, piece in SALE.items() if each < 63} | {55: Piece(b"\xff\x01", "")}),
           "55", HOST.at(55, SALE) + 1, ""),
]
