"""ISO 8583:1987 in ASCII with hexadecimal bitmaps, after design section 8 and the field dictionary of 1987."""

from tests.unseen.wire import Broken, Host, Piece, Said, bits_of, text_bitmap

HOST = Host(str.encode, text_bitmap)


def t(value: str) -> Piece:
    return Piece(value.encode(), value)


def ll(value: str) -> Piece:
    return Piece(b"%02d" % len(value) + value.encode(), value)


def lll(value: str) -> Piece:
    return Piece(b"%03d" % len(value) + value.encode(), value)


MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ABCdefg"
SALE = {2: ll("6212345678900000003"), 3: t("000000"), 4: t("000000002500"), 7: t("1126101500"), 11: t("000731"), 12: t("181500"), 13: t("1126"),
        14: t("3012"), 18: t("5812"), 22: t("051"), 25: t("00"), 37: t("633010000731"), 41: t("T1      "), 42: t("M1             "), 49: t("156")}
ECHO = {7: t("1126101500"), 11: t("000732"), 70: t("301")}
ANSWER = {each: SALE[each] for each in (3, 4, 7, 11, 37, 41, 42, 49)} | {38: t("A1B2C3"), 39: t("00")}
UNDO = {**{each: SALE[each] for each in (2, 3, 4, 7, 11, 12, 13, 14, 18, 22, 25, 37, 41, 42, 49)}, 11: t("000740"),
        90: t("0200000731112610150000000000000000000000000"[:42])}
CHIP = "9F2608" + "0123456789ABCDEF" + "9F2701809F100706010A03A4B800" + "9F3704DEADBEEF9F36020001950500000000009A032611269C0100" + "9F02060000000025005F2A020156"
LONG_TLV = "BF0C8180" + "9F7F7D" + "AB" * 125
SAID: list[Said] = [
    HOST.said("sale by chip", "0200", SALE),
    HOST.said("repeat of a sale", "0201", SALE),
    HOST.said("card number of 19 digits, of 12", "0200", {**SALE, 2: ll("621234567890")}),
    HOST.said("track 2 at its longest, with =", "0200", {**SALE, 35: ll("6212345678900000003=30122010000000000000"[:37])}),
    HOST.said("track 2 with D", "0200", {**SALE, 35: ll("6212345678900000003D30122010000000000")}),
    HOST.said("track 3 at its longest", "0200", {**SALE, 36: lll("996212345678900000003=" + "1" * 82)}),
    HOST.said("track 1 at its longest", "0200", {**SALE, 45: ll("B" + "6" * 16 + "^" + "A" * 26 + "^" + "3" * 31)}),
    HOST.said("name and place with every mark", "0200", {**SALE, 43: t(MARKS)}),
    HOST.said("institutions at their longest", "0100", {**SALE, 32: ll("12345678901"), 33: ll("10987654321")}),
    HOST.said("fees with a sign", "0200", {**SALE, 28: t("D00000100"), 29: t("C00000005"), 30: t("C99999999"), 31: t("D00000000")}),
    HOST.said("private fields of 999 characters", "0200", {**SALE, **{each: lll("x" * 999) for each in (46, 47, 48, 60)}}),
    HOST.said("a private field without a character", "0200", {**SALE, 48: lll("")}),
    HOST.said("chip data", "0200", {**SALE, 23: t("001"), 55: lll(CHIP)}, {"55.9F26": "0123456789ABCDEF", "55.5F2A": "0156", "55.9C": "00"}),
    HOST.said("chip data at its longest: a tag of 2 bytes, a length of 2", "0200", {**SALE, 55: lll("DF7981FA" + "5A" * 250 + "00")}),
    HOST.said("a tag of 3 bytes", "0200", {**SALE, 55: lll("DF810104CAFEBABE")}, {"55.DF8101": "CAFEBABE"}),
    HOST.said("a constructed tag with a length of 2 bytes", "0200", {**SALE, 55: lll(LONG_TLV)}, {"55.BF0C": "9F7F7D" + "AB" * 125}),
    HOST.said("PIN block", "0200", {**SALE, 52: t("0123456789ABCDEF"), 53: t("2600000000000000")}),
    HOST.said("six additional amounts", "0210", {**ANSWER, 54: lll("0002156C000000012300" * 6)}, {"54.1.2": "02", "54.6.4": "C000000012300"}),
    HOST.said("approved", "0210", ANSWER),
    HOST.said("approved in part", "0110", {**ANSWER, 4: t("000000001200"), 39: t("10")}),
    HOST.said("declined without approval code", "0210", {each: piece for each, piece in ANSWER.items() if each != 38} | {39: t("51")}),
    HOST.said("the code N7", "0210", {**ANSWER, 39: t("N7"), 44: ll("y" * 25)}),
    HOST.said("second bitmap: original data elements", "0420", UNDO),
    HOST.said("partial reversal, repeated", "0421", {**UNDO, 95: t("000000001000" + "0" * 30)}),
    HOST.said("echo", "0800", ECHO),
    HOST.said("sign-on answered", "0810", {**ECHO, 39: t("00")}),
    HOST.said("cut-over with its date", "0800", {**ECHO, 15: t("1127"), 70: t("201")}),
    HOST.said("totals", "0500", {7: ECHO[7], 11: ECHO[11], 15: t("1126"), 41: SALE[41], 42: SALE[42], 50: t("156"), 74: t("0000000002"),
                                 76: t("9999999999"), 86: t("0000000000000300"), 88: t("9999999999999999"), 97: t("D9999999999999699")}),
    HOST.said("a new key in 96", "0800", {**ECHO, 70: t("101"), 96: t("00112233AABBCCDD")}),
    HOST.said("MAC in 64", "0200", {**SALE, 64: t("FEDCBA9876543210")}),
    HOST.said("MAC in 128", "0420", {**UNDO, 128: t("FEDCBA9876543210")}),
    HOST.said("accounts and the last private fields", "0200", {**SALE, 102: ll("A" * 28), 103: ll("b"), 123: lll("z" * 999), 127: lll("~")}),
    HOST.said("a file name and texts of 1987", "0100", {**SALE, 98: t("P" * 25), 101: ll("F" * 17), 104: lll("d" * 100)}),
]
PAN = SALE[2]
BROKEN: list[Broken] = [
    HOST.broken("card number over its maximum", "0200", {**SALE, 2: ll("6" * 20)}, 2, ""),
    HOST.broken("length with a sign", "0200", {**SALE, 2: Piece(b"+9" + b"6" * 9, "")}, 2, "digits"),
    HOST.broken("length with a blank", "0200", {**SALE, 32: Piece(b" 5" + b"12345", "")}, 32, "digits"),
    HOST.broken("length in hex", "0200", {**SALE, 48: Piece(b"00A" + b"x" * 10, "")}, 48, ""),
    HOST.broken("letters in the amount", "0200", {**SALE, 4: t("00000000250O")}, 4, "type n"),
    HOST.broken("a mark in the approval code", "0210", {**ANSWER, 38: t("A1B2C*")}, 38, "type an"),
    HOST.broken("a fee without sign", "0200", {**SALE, 28: t("000000100")}, 28, "type x+n"),
    HOST.broken("a PIN block that is no hex", "0200", {**SALE, 52: t("0123456789ABCDEG")}, 52, "type b"),
    HOST.broken("chip data of odd length", "0200", {**SALE, 55: lll("9F2")}, 55, "type b"),
    HOST.broken("chip data over its maximum", "0200", {**SALE, 55: lll("00" * 256)}, 55, ""),
    HOST.broken("a control character in a text", "0200", {**SALE, 43: t("A" * 39 + "\x07")}, 43, "type ans"),
    HOST.broken("a byte that is not ASCII", "0200", {**SALE, 43: Piece(b"A" * 39 + b"\xe9", "")}, 43, ""),
    HOST.broken("a separator that is none in track 2", "0200", {**SALE, 35: ll("6212345678900000003^3012")}, 35, "type z"),
    Broken("letters in the MTI", HOST.message("02O0", SALE), "0", 0, "digits"),
    Broken("a bitmap in lower case", HOST.message("0800", ECHO).replace(b"8220", b"822o", 1), "1", 4, ""),
    Broken("a bit whose field nobody has: 65", HOST.message("0800", ECHO, bits=bits_of(1, 7, 11, 65, 70)), "1", 20, "bitmap"),
    Broken("bytes after the last field", HOST.message("0800", ECHO, tail=b"0"), "70", 55, ""),
    Broken("the second bitmap is cut", HOST.message("0800", ECHO)[:30], "1", 20, ""),
    Broken("the last field is cut", HOST.message("0800", ECHO)[:-1], "70", 52, ""),
    Broken("a bit more than there are fields", HOST.message("0210", ANSWER, bits=bits_of(3, 4, 7, 11, 37, 38, 39, 41, 42, 49, 50)), "50",
           HOST.at(50, ANSWER), ""),
    Broken("nothing at all", b"", "0", 0, ""),
    Broken("the bitmap is cut", b"0800822000000", "1", 4, ""),
]
