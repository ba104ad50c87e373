"""Mastercard, after the description: everything in EBCDIC, lengths too, bitmaps in binary, DE48 with its category, DE61 with the POS data."""

from tests.unseen.wire import Broken, Host, Piece, Said, binary_bitmap, bits_of

HOST = Host(lambda text: text.encode("cp500"), binary_bitmap)


def e(value: str) -> Piece:
    return Piece(value.encode("cp500"), value)


def ee(value: str) -> Piece:
    return Piece(f"{len(value):02d}{value}".encode("cp500"), value)


def eee(value: str) -> Piece:
    return Piece(f"{len(value):03d}{value}".encode("cp500"), value)


def b(value: str) -> Piece:
    return Piece(bytes.fromhex(value), value)


def bbb(value: str) -> Piece:
    return Piece(f"{len(value) // 2:03d}".encode("cp500") + bytes.fromhex(value), value)


SALE = {2: ee("5555555555554444"), 3: e("000000"), 4: e("000000002500"), 7: e("1126101500"), 11: e("000731"), 12: e("181500"), 13: e("1126"),
        14: e("3012"), 18: e("5812"), 22: e("051"), 37: e("633010000731"), 41: e("T1      "), 42: e("M1             "), 48: eee("R"), 49: e("156"),
        61: eee("00000000008001560000000000")}
ANSWER = {each: SALE[each] for each in (2, 3, 4, 7, 11, 37, 41, 49)} | {38: e("A1B2C3"), 39: e("00")}
NETWORK = {7: e("1126101500"), 11: e("000732"), 33: ee("123456"), 70: e("061")}
UNDO = {**SALE, 39: e("68"), 90: e("0100000731112610150000000123456" + "0" * 11)}
CHIP = "9F2608" + "0123456789ABCDEF" + "DF810104CAFEBABE" + "7281C8" + "86" + "81C5" + "04" * 197
SAID: list[Said] = [
    HOST.said("sale by chip", "0100", SALE),
    HOST.said("a card number of 19 digits", "0100", {**SALE, 2: ee("5555555555554444121")}),
    HOST.said("track 2", "0100", {**SALE, 35: ee("5555555555554444=30122011234567890123")}),
    HOST.said("track 2 with D", "0100", {**SALE, 35: ee("5555555555554444D3012201")}),
    HOST.said("track 1 at its longest", "0100", {**SALE, 45: ee("B5555555555554444^" + "A" * 26 + "^" + "3012201" + "0" * 24)}),
    HOST.said("name and place", "0100", {**SALE, 43: e("CAFE {1} & \\SONS~      SHANGHAI      CHN")}),
    # by hand: these stand elsewhere in other pages of EBCDIC
    HOST.said("marks by hand", "0110", {**ANSWER, 44: Piece(b"\xf1\xf5" + bytes.fromhex("4A5A4F5FBBE0C0D0A17B7C7D7E7F79"), "[]!^|\\{}~#@'=\"`")}),
    HOST.said("a length in EBCDIC, by hand", "0100", {**SALE, 48: Piece(bytes.fromhex("F0F0F5E3F4F2F0F0"), "T4200")}),
    HOST.said("category and an element", "0100", {**SALE, 48: eee("R" + "4203" + "010" + "6105" + "00000")}, {"48.0": "R", "48.42": "010", "48.61": "00000"}),
    HOST.said("additional data of 999", "0100", {**SALE, 48: eee("R" + ("9299" + "x" * 99) * 9 + "9367" + "y" * 67)}, {"48.93": "y" * 67}),
    HOST.said("institutions", "0100", {**SALE, 32: ee("12345678901"), 33: ee("123456")}),
    HOST.said("fees with a sign", "0100", {**SALE, 28: e("D00000100"), 31: e("C00000001")}),
    HOST.said("PIN block", "0100", {**SALE, 26: e("12"), 52: b("0123456789ABCDEF"), 53: e("9701100001000001")}),
    HOST.said("chip data: tag of 3 bytes, length of 2", "0100", {**SALE, 23: e("001"), 55: bbb(CHIP)}, {"55.DF8101": "CAFEBABE", "55.9F26": "0123456789ABCDEF"}),
    HOST.said("chip data of 255 bytes", "0100", {**SALE, 55: bbb("DF7981FA" + "5A" * 250 + "00")}, {"55.DF79": "5A" * 250}),
    HOST.said("bytes that look like EBCDIC digits", "0100", {**SALE, 55: bbb("4203F1F2F3")}, {"55.42": "F1F2F3"}),
    HOST.said("approved", "0110", ANSWER),
    HOST.said("an approval code with blanks", "0110", {**ANSWER, 38: e("A1B2  ")}),
    HOST.said("approved in part", "0110", {**ANSWER, 4: e("000000001200"), 39: e("10"), 54: eee("0057156D000000002500")},
              {"54.1.2": "57", "54.1.4": "D000000002500"}),
    HOST.said("declined", "0110", {each: piece for each, piece in ANSWER.items() if each != 38} | {39: e("51")}),
    HOST.said("six additional amounts", "0110", {**ANSWER, 54: eee("0002156C000000012300" * 6)}),
    HOST.said("settlement and billing amounts", "0110", {**ANSWER, 5: e("000000000350"), 6: e("000000000360"), 9: e("61234567"), 10: e("61234999"),
                                                         16: e("1126"), 50: e("840"), 51: e("978")}),
    HOST.said("reversal for silence", "0400", UNDO),
    HOST.said("repeat of a reversal in part", "0401", {**UNDO, 95: e("000000001000" + "0" * 30)}),
    HOST.said("group sign-on", "0800", {2: ee("541333"), 94: e("0000000"), 96: e("PASSWORD"), **NETWORK}),
    HOST.said("sign-on answered", "0810", {**NETWORK, 39: e("00")}),
    HOST.said("echo", "0800", {**NETWORK, 70: e("270")}),
    HOST.said("payment account data and reasons", "0120", {**SALE, 56: eee("p" * 37), 60: eee("a" * 60)}),
    HOST.said("network data", "0110", {**ANSWER, 15: e("1126"), 62: eee("n" * 100), 63: eee("MCC0000001")}),
    HOST.said("accounts and texts far behind", "0100", {**SALE, 102: ee("A" * 28), 112: eee("n" * 999), 120: eee("r" * 999), 121: eee("123456")}),
    HOST.said("a new PIN and the last fields", "0100", {**SALE, 123: eee("f" * 512), 124: eee("m" * 299), 125: b("0011223344556677"), 127: eee("z" * 100)}),
    HOST.said("a MAC in 128", "0100", {**SALE, 128: b("FEDCBA9876543210")}),
]
BROKEN: list[Broken] = [
    HOST.broken("a length in ASCII", "0100", {**SALE, 2: Piece(b"16" + SALE[2].wire[2:], "")}, 2, ""),
    HOST.broken("a length with a mark", "0100", {**SALE, 48: Piece("+01R".encode("cp500"), "")}, 48, "digits"),
    HOST.broken("digits in ASCII", "0100", {**SALE, 4: Piece(b"000000002500", "")}, 4, "type n"),
    HOST.broken("a letter in an amount", "0100", {**SALE, 4: e("00000000250O")}, 4, "type n"),
    HOST.broken("a control in a text", "0100", {**SALE, 43: Piece(b"\xc1" * 39 + b"\x25", "")}, 43, "type ans"),
    HOST.broken("an accented letter", "0110", {**ANSWER, 44: Piece(b"\xf0\xf1\x51", "")}, 44, "type ans"),
    HOST.broken("a fee without a sign", "0100", {**SALE, 28: e("000000100")}, 28, "x+n"),
    HOST.broken("POS data over their maximum", "0100", {**SALE, 61: eee("0" * 27)}, 61, ""),
    HOST.broken("chip data over their maximum", "0100", {**SALE, 55: bbb("00" * 256)}, 55, ""),
    HOST.broken("a track with a letter", "0100", {**SALE, 35: ee("5555555555554444E3012")}, 35, "type z"),
    Broken("an MTI in ASCII", b"0100" + HOST.message("0100", SALE)[4:], "0", 0, "digits"),
    Broken("an unknown bit: 25", HOST.message("0100", SALE, bits=bits_of(2, 3, 4, 25)), "25", 4, "not a field"),
    Broken("an unknown bit: 99", HOST.message("0800", NETWORK, bits=bits_of(1, 7, 11, 33, 70, 99)), "99", 12, "not a field"),
    Broken("a third bitmap", HOST.message("0800", NETWORK, bits=bits_of(1, 7, 11, 33, 65, 70)), "1", 12, "third"),
    Broken("bytes after the last field", HOST.message("0100", SALE, tail=b"\x40"), "61", len(HOST.message("0100", SALE)), "xtra"),
    Broken("the bitmap is cut", HOST.message("0100", SALE)[:9], "1", 4, ""),
]
