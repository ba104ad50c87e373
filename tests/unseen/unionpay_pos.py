"""UnionPay POS terminals, after the description of a UnionPay-POS-like host: TPDU, header of 6 bytes, BCD, sub-fields, GBK texts."""

from tests.unseen.wire import Broken, Host, Piece, Said, bcd, binary_bitmap, bits_of

TPDU = bytes.fromhex("6000030000" + "603100310100")
HOST = Host(bytes.fromhex, binary_bitmap, lambda body: TPDU)


def n(value: str, pad: str = "right 0") -> Piece:
    return Piece(bcd(value, pad), value)


def nn(value: str, digits: int = 2) -> Piece:
    """Digits with a length that counts them; tracks too, their separator is D."""
    return Piece(bcd(f"{len(value):0{digits}d}") + bcd(value, "right 0"), value)


def nnn(value: str) -> Piece:
    return nn(value, 4)


def t(value: str) -> Piece:
    return Piece(value.encode(), value)


def b(value: str) -> Piece:
    return Piece(bytes.fromhex(value), value)


def tt(text: str | bytes, digits: int = 2) -> Piece:
    """Text with a length of its bytes; what is not ASCII stands as the bytes it has."""
    data = text.encode("gb18030") if isinstance(text, str) else text
    return Piece(bcd(f"{len(data):0{digits}d}") + data, data.decode("latin-1"))


def ttt(text: str | bytes) -> Piece:
    return tt(text, 4)


def bbb(value: str) -> Piece:
    return Piece(bcd(f"{len(value) // 2:04d}") + bytes.fromhex(value), value)


SALE = {2: nn("6212345678900000003"), 3: n("000000"), 4: n("000000002500"), 11: n("000731"), 14: n("3012"), 22: n("051"), 25: n("00"),
        41: t("00000001"), 42: t("000000000000001"), 49: t("156"), 60: nnn("2226112600060")}
ANSWER = {**{each: SALE[each] for each in (3, 4, 11, 25, 41, 42, 49, 60)}, 2: SALE[2], 12: n("181500"), 13: n("1126"), 15: n("1126"),
          32: nn("12345678"), 37: t("633010000731"), 38: t("A1B2C3"), 39: t("00"), 44: tt("01030000   03080000   ")}
SIGN_IN = {11: n("000001"), 41: SALE[41], 42: SALE[42], 60: nnn("00261126003"), 63: ttt("001")}
SIGNED_IN = {11: n("000001"), 12: n("181500"), 13: n("1126"), 32: nn("1234567"), 37: t("633010000001"), 39: t("00"), 41: SALE[41], 42: SALE[42],
             60: nnn("00261127003")}
ORIGINAL = {37: ANSWER[37], 38: ANSWER[38], 61: nnn("2611270007311126")}
DOMESTIC, FOREIGN = "000000010000" + "002" + "000000000300" + "001" + "0", "0" * 31


def keys(length: int) -> Piece:
    return bbb("".join(f"{each % 256:02X}" for each in range(length)))


SAID: list[Said] = [
    HOST.said("sale by chip, digits left in an odd number", "0200", SALE,
              {"60.1": "22", "60.2": "261126", "60.3": "000", "60.4": "6", "60.5": "0"}),
    HOST.said("sale swiped, without DE2", "0200", {**{each: SALE[each] for each in SALE if each not in (2, 14)}, 22: n("021"),
                                                   35: nn("6212345678900000003D30122010000000000")}),
    HOST.said("track 3 at its longest", "0200", {**SALE, 36: nnn("9" * 21 + "D" + "1" * 82)}),
    HOST.said("track 2 with an odd number of digits", "0200", {**SALE, 35: nn("621234567890000D301")}),
    HOST.said("card sequence number stands to the right", "0200", {**SALE, 23: n("001", "left 0")}),
    HOST.said("card number of 16 and institution of 11", "0210", {**ANSWER, 2: nn("6212345678900003"), 32: nn("12345678901")}),
    HOST.said("approved", "0210", ANSWER),
    HOST.said("a sale with PIN", "0200", {**SALE, 26: n("12"), 52: b("0123456789ABCDEF"), 53: n("2600000000000000"), 64: b("4142434445463031")}),
    HOST.said("chip data with a tag of 3 bytes", "0200", {**SALE, 55: bbb("9F2608" + "0123456789ABCDEF" + "DF810104CAFEBABE")},
              {"55.9F26": "0123456789ABCDEF", "55.DF8101": "CAFEBABE"}),
    HOST.said("chip data with a length of 2 bytes", "0200", {**SALE, 55: bbb("7281C8" + "86" + "81C5" + "04" * 197)}, {"55.72": "8681C5" + "04" * 197}),
    HOST.said("reversal of a sale for silence", "0400", {**SALE, 39: t("98")}),
    HOST.said("reversal of a void, with its DE61", "0400", {**SALE, 39: t("A0"), 61: nnn("261126000731")}, {"61.1": "261126", "61.2": "000731"}),
    HOST.said("void", "0200", {**SALE, 3: n("200000"), 60: nnn("2326112600060"), **{each: ORIGINAL[each] for each in (37, 38)}, 61: nnn("261126000731")}),
    HOST.said("refund with the original's date", "0220", {**SALE, 3: n("200000"), 60: nnn("2526112600060"), **ORIGINAL}, {"61.3": "1126"}),
    HOST.said("original data whole", "0220", {**SALE, 61: nnn("2611270007311126" + "01" + "12345678901")},
              {"61.4": "01", "61.5": "12345678901"}),
    HOST.said("pre-authorization", "0100", {**SALE, 3: n("030000"), 25: n("06"), 60: nnn("1026112600060")}),
    HOST.said("batch data whole: partial approval and account", "0200", {**SALE, 60: nnn("22261126000601001")}, {"60.6": "1", "60.7": "001"}),
    HOST.said("sign-in", "0800", SIGN_IN, {"60.3": "003"}),
    *[HOST.said(f"keys of {length} bytes", "0810", {**SIGNED_IN, 62: keys(length)}) for length in (24, 40, 56, 57, 60, 84)],
    HOST.said("sign-off", "0820", {11: n("000009"), 41: SALE[41], 42: SALE[42], 60: nnn("00261126002")}),
    HOST.said("a list of keys of 999 bytes", "0830", {**SIGNED_IN, 62: keys(999)}),
    HOST.said("totals", "0500", {11: SALE[11], 41: SALE[41], 42: SALE[42], 48: nnn(DOMESTIC + FOREIGN), 49: t("156"), 60: nnn("00261126201"),
                                 63: ttt("001")}, {"48.1": "000000010000", "48.2": "002", "48.4": "001", "48.5": "0", "48.10": "0"}),
    HOST.said("items of a batch", "0320", {11: SALE[11], 41: SALE[41], 42: SALE[42], 60: nnn("00261126201"),
                                           48: nnn("02" + ("00" + "000731" + "06212345678900000003" + "000000002500") * 2)},
              {"48.1.3": "06212345678900000003", "48.2.2": "000731"}),
    HOST.said("totals that agree for its own cards and not for foreign ones", "0510", {
        11: SALE[11], 12: n("181500"), 13: n("1126"), 15: n("1126"), 32: nn("12345678"), 37: t("633010000731"), 39: t("00"), 41: SALE[41], 42: SALE[42],
        48: nnn(DOMESTIC[:-1] + "1" + FOREIGN[:-1] + "2"), 49: t("156"), 60: nnn("00261126201")}, {"48.5": "1", "48.10": "2", "60.3": "201"}),
    HOST.said("a refund of a batch that did not agree", "0320", {
        **{each: SALE[each] for each in (2, 4, 11, 25, 41, 42, 49)}, 3: n("200000"), **ORIGINAL, 60: nnn("25261126206")}, {"60.3": "206", "61.2": "000731"}),
    HOST.said("an item answered", "0330", {11: SALE[11], 12: n("181500"), 13: n("1126"), 39: t("00"), 41: SALE[41], 42: SALE[42], 60: nnn("00261126201")}),
    HOST.said("the end of an upload", "0320", {11: SALE[11], 41: SALE[41], 42: SALE[42], 48: nnn("0012"), 60: nnn("00261126202")}, {"60.3": "202"}),
    HOST.said("a payment code", "0200", {**{each: SALE[each] for each in SALE if each not in (2, 14)}, 22: n("032"),
                                         59: ttt("A3019" + "6212345678901234567")}, {"59.A3": "6212345678901234567"}),
    HOST.said("balance", "0210", {**ANSWER, 3: n("310000"), 54: ttt("0001156C000000012300")}),
    HOST.said("tip in an additional amount", "0220", {**SALE, 54: ttt("TA000000000100")}),
    HOST.said("Chinese in the remarks", "0210", {**ANSWER, 63: ttt("CUP" + "交易成功")}),
    HOST.said("Chinese of four bytes, and an odd number of bytes", "0210", {**ANSWER, 56: ttt("余额不足㐀a")}),
    HOST.said("bytes that are no text", "0210", {**ANSWER, 44: tt(bytes(range(0xE7, 0x100)))}),
    HOST.said("a name in GBK of 40 bytes", "0200", {**SALE, 43: Piece("上海市浦东新区世纪大道一号商户甲乙丙丁戊".encode("gbk"), "上海市浦东新区世纪大道一号商户甲乙丙丁戊".encode("gbk").decode("latin-1"))}),
    HOST.said("remarks at their longest", "0210", {**ANSWER, 63: ttt("CUP" + "r" * 160)}),
    HOST.said("texts of 999 bytes", "0820", {**SIGN_IN, 46: ttt("c" * 999), 47: ttt("d" * 999), 58: ttt("e" * 999)}),
    HOST.said("a terminal's serial number in tags", "0800", {**SIGN_IN, 57: ttt("01002" + "04" + "02016" + "0123456789ABCDEF")}, {"57.01": "04", "57.02": "0123456789ABCDEF"}),
]
BROKEN: list[Broken] = [
    Broken("a TPDU that does not begin with 60", b"\x61" + HOST.message("0200", SALE)[1:], "h", 0, "60"),
    Broken("a TPDU that is cut", TPDU[:10], "h", 0, "shorter"),
    Broken("no header between TPDU and MTI", TPDU[:5] + HOST.message("0200", SALE)[11:], "20", 13, "not a field"),
    HOST.broken("a digit that is none in BCD", "0200", {**SALE, 4: Piece(bytes.fromhex("00000000250A"), "")}, 4, "type n"),
    HOST.broken("a length that is no BCD", "0200", {**SALE, 2: Piece(b"\x1a" + bytes(10), "")}, 2, ""),
    HOST.broken("an odd number padded with F", "0200", {**SALE, 22: Piece(b"\x05\x1f", "")}, 22, ""),
    Broken("a card number padded on the other side", HOST.message("0200", {**SALE, 2: Piece(b"\x19" + bcd("6212345678900000003", "left 0"), "")}), "2",
           HOST.at(2, SALE) + 1, ""),
    HOST.broken("an odd number in a length", "0200", {**SALE, 2: nn("6" * 20)}, 2, ""),
    HOST.broken("items over their maximum", "0320", {11: SALE[11], 41: SALE[41], 42: SALE[42], 48: nnn("1" * 323)}, 48, ""),
    HOST.broken("original data over their maximum", "0220", {**SALE, 61: nnn("1" * 30)}, 61, ""),
    HOST.broken("a length of hex in BCD of two bytes", "0200", {**SALE, 55: Piece(b"\x00\x0f" + bytes(15), "")}, 55, ""),
    HOST.broken("an approval code with a high byte", "0210", {**ANSWER, 38: Piece(b"A1B2C\xd0", "")}, 38, "type an"),
    HOST.broken("a blank in the currency's place of digits", "0200", {**SALE, 49: t("1-6")}, 49, "type an"),
    Broken("an unknown bit: 7", HOST.message("0200", {**SALE, 12: n("181500")}, bits=bits_of(2, 3, 4, 7, 11, 14, 22, 25, 41, 42, 49, 60)), "7", 13, "not a field"),
    Broken("a second bitmap", HOST.message("0200", SALE, bits=bits_of(1, 2, 3, 4, 11, 14, 22, 25, 41, 42, 49, 60, 70)), "68", 21, "not a field"),
    Broken("bytes after the last field", HOST.message("0800", SIGN_IN, tail=b"\0"), "63", len(HOST.message("0800", SIGN_IN)), "xtra"),
    Broken("the MAC is cut", HOST.message("0200", {**SALE, 64: b("41424344454630")}), "64", HOST.at(64, {**SALE, 64: SALE[3]}), "7 bytes"),
    Broken("a MAC that its bit does not announce", HOST.message("0200", SALE, tail=b"ABCDEF01"), "60", len(HOST.message("0200", SALE)), "xtra"),
    Broken("an MTI that is no BCD", HOST.message("0200", SALE).replace(b"\x02\x00", b"\x0a\x00", 1), "0", 11, "digits"),
]
