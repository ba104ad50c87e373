"""ISO 8583:1993 in ASCII with hexadecimal bitmaps, after the 1993 column of the field dictionary and its function and action codes."""

from tests.unseen.iso87_ascii import ll, lll, t
from tests.unseen.wire import Broken, Host, Piece, Said, bits_of, text_bitmap

HOST = Host(str.encode, text_bitmap)


def octets(value: str, digits: int) -> Piece:
    """Bytes as they are, counted as bytes."""
    data = bytes.fromhex(value)
    return Piece(f"{len(data):0{digits}d}".encode() + data, value)


SALE = {2: ll("6212345678900000003"), 3: t("000000"), 4: t("000000002500"), 7: t("1126101500"), 11: t("000731"), 12: t("261126181500"),
        14: t("3012"), 22: t("510101510144"), 24: t("200"), 26: t("5812"), 37: t("633010000731"), 41: t("T1      "), 42: t("M1             "),
        49: t("156")}
ANSWER = {each: SALE[each] for each in (3, 4, 7, 11, 12, 37, 41, 42, 49)} | {38: t("A1B2C3"), 39: t("000")}
NETWORK = {7: t("1126101500"), 11: t("000732"), 12: t("261126101500"), 24: t("801")}
TOTALS = {7: t("1126101500"), 11: t("000733"), 12: t("261126101500"), 24: t("500"), 28: t("261126"), 41: SALE[41], 42: SALE[42], 50: t("156"),
          74: t("0000000001"), 76: t("0000000003"), 86: t("0000000000000300"), 88: t("0000000000001570"), 97: t("D0000000000001270")}
UNDO = {**SALE, 11: t("000740"), 24: t("400"), 25: t("4021"), 56: ll("1200000731261126181500" + "08" + "12345678")}
TLV = "9F26080123456789ABCDEF" + "DF810104CAFEBABE" + "BF0C820100" + "9F7F81FC" + "CD" * 252
SAID: list[Said] = [
    HOST.said("sale by chip", "1200", SALE),
    HOST.said("repeat of a sale", "1201", SALE),
    HOST.said("a hold on an estimate", "1100", {**SALE, 24: t("101")}),
    HOST.said("approved", "1210", ANSWER),
    HOST.said("approved in part, with the original amounts", "1210", {**ANSWER, 4: t("000000015000"), 30: t("000000020000000000020000"), 39: t("002")}),
    HOST.said("declined", "1110", {each: piece for each, piece in ANSWER.items() if each != 38} | {39: t("116")}),
    HOST.said("a contactless chip", "1200", {**SALE, 22: t("510101M10144")}),
    HOST.said("card number of 13 digits", "1200", {**SALE, 2: ll("6212345678901")}),
    HOST.said("reversal with original data elements", "1420", UNDO, {"56.1": "1200", "56.2": "000731", "56.3": "261126181500", "56.4": "12345678"}),
    HOST.said("repeat of a partial reversal", "1421", {**UNDO, 24: t("401"), 30: t("000000002500000000000000")}),
    HOST.said("original data elements at their longest", "1420", {**UNDO, 56: ll("1200000731261126181500" + "11" + "12345678901")}),
    HOST.said("reversal accepted", "1430", {**{each: ANSWER[each] for each in (3, 4, 7, 11, 12, 37, 41, 42, 49)}, 39: t("400")}),
    HOST.said("totals of a terminal", "1520", TOTALS),
    HOST.said("totals said again", "1521", TOTALS),
    HOST.said("totals that do not agree", "1530", {**{each: TOTALS[each] for each in (7, 11, 12, 28, 41, 42, 50)}, 39: t("501")}),
    HOST.said("sign-on", "1804", NETWORK),
    HOST.said("sign-on answered with two keys", "1814", {**NETWORK, 39: t("800"), 96: octets("00112233445566778899AABBCCDDEEFF01020304" * 2, 3)}),
    HOST.said("key management data at its longest", "1804", {**NETWORK, 24: t("811"), 96: octets("5A" * 499, 3)}),
    HOST.said("cut-over with its date of six digits", "1804", {**NETWORK, 15: t("261127"), 24: t("821")}),
    HOST.said("echo", "1804", {**NETWORK, 24: t("831")}),
    HOST.said("chip data in bytes: tag of 3 bytes, length of 3", "1200", {**SALE, 55: octets(TLV[:22] + TLV[22:38], 3)},
              {"55.9F26": "0123456789ABCDEF", "55.DF8101": "CAFEBABE"}),
    HOST.said("chip data of 255 bytes", "1200", {**SALE, 55: octets("DF7981FA" + "5A" * 250 + "00", 3)}, {"55.DF79": "5A" * 250}),
    HOST.said("control information of 48 bytes", "1200", {**SALE, 52: t("0123456789ABCDEF"), 53: octets("A5" * 48, 2)}),
    HOST.said("bytes that look like digits", "1200", {**SALE, 55: octets("4203303132", 3)}, {"55.42": "303132"}),
    HOST.said("track 2", "1200", {**SALE, 35: ll("6212345678900000003=30122010000000000")}),
    HOST.said("name and place of 99 characters", "1200", {**SALE, 43: ll("\\Caf, 1 {st}~" + "n" * 86)}),
    HOST.said("institutions with letters", "1100", {**SALE, 32: ll("ABC-1234567"), 33: ll("x")}),
    HOST.said("acquirer's reference of 99", "1220", {**SALE, 24: t("201"), 31: ll("r" * 99), 38: t("A1B2C3"), 56: UNDO[56]}),
    HOST.said("fees of 204", "1200", {**SALE, 46: lll("f" * 204), 66: lll("g" * 204)}),
    HOST.said("additional amounts", "1210", {**ANSWER, 54: lll("0040156D000000001000" * 6)}),
    HOST.said("life cycle and agent", "1200", {**SALE, 57: t("090"), 58: ll("12345678901"), 59: lll("t" * 999)}),
    HOST.said("a data record of 999", "1304", {**NETWORK, 24: t("302"), 71: t("00000001"), 72: lll("d" * 999)}),
    HOST.said("totals", "1520", {**NETWORK, 24: t("500"), 28: t("261126"), 74: t("0000000001"), 86: t("0000000000000300"), 97: t("C0000000000000300")}),
    HOST.said("institutions far behind, and the MAC last", "1200", {**SALE, 93: ll("12345678901"), 94: ll("1"), 100: ll("123"), 128: t("FEDCBA9876543210")}),
    HOST.said("issuer's reference", "1210", {**ANSWER, 95: ll("i" * 99)}),
    HOST.said("MAC in 64", "1804", {**NETWORK, 64: t("00000000000000AF")}),
]
BROKEN: list[Broken] = [
    HOST.broken("an action code with a letter", "1210", {**ANSWER, 39: t("0A0")}, 39, "type n"),
    HOST.broken("original data elements that are too long", "1420", {**UNDO, 56: ll("1" * 36)}, 56, ""),
    HOST.broken("original data elements with a letter", "1420", {**UNDO, 56: ll("12000007312611261815000 ")}, 56, "type n"),
    HOST.broken("a POS code with a mark", "1200", {**SALE, 22: t("5101015101-4")}, 22, "type an"),
    Broken("chip data cut by the end", HOST.message("1200", {**SALE, 55: Piece(b"010\x9f\x26", "")}), "55", HOST.at(55, SALE) + 3, "2 bytes"),
    HOST.broken("control information over its maximum", "1200", {**SALE, 53: octets("A5" * 49, 2)}, 53, ""),
    HOST.broken("a length that is not digits before bytes", "1200", {**SALE, 55: Piece(b"0 6012345", "")}, 55, ""),
    HOST.broken("fees over their maximum", "1200", {**SALE, 46: lll("f" * 205)}, 46, ""),
    HOST.broken("a net amount without sign", "1520", {**NETWORK, 97: t("00000000000000300")}, 97, "x+n"),
    HOST.broken("a PIN block of 7 bytes", "1200", {**SALE, 52: t("0123456789ABCD")}, 52, ""),
    Broken("an unknown bit: 98", HOST.message("1804", {**NETWORK, 128: t("0" * 16)}, bits=bits_of(1, 7, 11, 12, 24, 98, 128)), "98", 20, "not a field"),
    Broken("an unknown bit: 67", HOST.message("1804", {**NETWORK, 70: t("156")}, bits=bits_of(1, 7, 11, 12, 24, 67, 70)), "67", 20, "not a field"),
    Broken("a third bitmap", HOST.message("1804", {**NETWORK, 70: t("156")}, bits=bits_of(1, 7, 11, 12, 24, 65, 70)), "1", 20, "third"),
    Broken("bytes after the last field", HOST.message("1804", NETWORK, tail=b"\0\0"), "24", 51, ""),
    Broken("cut in the MTI", b"18", "0", 0, ""),
    Broken("a binary bitmap", b"1200" + bytes.fromhex("7234054128C08000"), "1", 4, ""),
]
