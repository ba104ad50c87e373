"""How the stubs hear batches in dialects of their own: totals and uploads as the rules of 1987 want them, and what they say to them."""

import pytest

from acquirer_stubs.behaviours import Known, answer, decide
from acquirer_stubs.codec import Message
from acquirer_stubs.dialects import SPEECHES, TABLE_93, TABLE_CUP

HEADER = bytes.fromhex("6000030000603100310100")
CUP: Message = {11: "000017", 41: "T0000001", 42: "M00000000000001", 60: "00261123201"}
DOMESTIC, FOREIGN = "000000001500" "002" "000000000300" "001" "0", "000000000070" "001" "000000000000" "000" "0"
RECORD = "00" "000005" "06212345678900000003" "000000001500"


def heard(message: Message) -> Message:
    return SPEECHES["unionpay_pos"].read(HEADER + TABLE_CUP.encode(message)).message


def upload(number: int, **parts: str) -> Message:
    return {0: "0320", **CUP, 11: f"{number:06d}", **{int(name[1:]): value for name, value in parts.items()}}


def test_totals_of_own_and_foreign_cards_are_one_sum() -> None:
    message = heard({0: "0500", **CUP, 48: DOMESTIC + FOREIGN, 49: "156"})
    assert {de: message[de] for de in (50, 74, 76, 86, 88)} == {50: "156", 74: "0000000001", 76: "0000000003", 86: "0000000000000300", 88: "0000000000001570"}


@pytest.mark.parametrize(("message", "code"), [
    ({0: "0500", **CUP, 48: DOMESTIC, 49: "156"}, "30"), ({0: "0500", **CUP, 49: "156"}, "30"),
    (upload(1, _48="02" + RECORD), "40"), (upload(1, _48="00"), "40"), (upload(1), "40"),
    (upload(1, _60="00261123202", _48="00012"), "40"), (upload(1, _60="25261123206", _3="200000"), "40"),
])
def test_what_is_not_whole_is_not_taken(message: Message, code: str) -> None:
    assert decide(heard(message), Known(True), token="", serial=1).code == code


def test_the_end_of_an_upload_says_how_many_it_named_and_a_repeat_names_none_again() -> None:
    known = Known(True)

    def told(message: Message) -> tuple[str, str]:
        decision = decide(heard(message), known, token="", serial=1)
        known.apply(decision)
        return decision.code, decision.reason

    refund = upload(2, _60="25261123206", _3="200000", _4="000000000300", _61="2611220007311122")
    assert [told(upload(1, _48="02" + RECORD * 2)), told(upload(1, _48="02" + RECORD * 2)), told(refund)] == [("00", ""), ("00", "duplicate"), ("00", "")]
    assert told(upload(1, _48="01" + RECORD)) == ("94", "key_reused")
    assert told(upload(3, _60="00261123202", _48="0004")) == ("95", "upload_not_whole")
    assert told(upload(4, _60="00261123202", _48="0003")) == ("00", "")


@pytest.mark.parametrize(("agrees", "flag"), [(True, "1"), (False, "2")])
def test_what_the_host_thinks_stands_behind_both_halves(agrees: bool, flag: str) -> None:
    speech, sent = SPEECHES["unionpay_pos"], HEADER + TABLE_CUP.encode({0: "0500", **CUP, 48: ("0" * 62) if agrees else DOMESTIC + FOREIGN, 49: "156"})
    read = speech.read(sent)
    said = TABLE_CUP.decode(speech.write(answer(read.message, decide(read.message, Known(True), token="", serial=1)), read, lambda said: said)[len(HEADER):])
    assert (said[0], said[39], said[48][30], said[48][61]) == ("0510", "00", flag, flag)


@pytest.mark.parametrize(("sales", "code"), [("0000000000", "500"), ("0000000001", "501")])
def test_a_host_of_1993_says_it_by_its_action_code(sales: str, code: str) -> None:
    speech = SPEECHES["iso93_ascii"]
    read = speech.read(TABLE_93.encode({0: "1521", 7: "1123101112", 11: "000017", 12: "261123101112", 24: "500", 28: "261123", 41: "T0000001", 42: "M00000000000001",
                                        50: "156", 74: "0" * 10, 76: sales, 86: "0" * 16, 88: "0" * 16, 97: "D" + "0" * 16}))
    said = TABLE_93.decode(speech.write(answer(read.message, decide(read.message, Known(), token="", serial=1)), read, lambda said: said))
    assert said == {0: "1530", 7: "1123101112", 11: "000017", 12: "261123101112", 28: "261123", 39: code, 41: "T0000001", 42: "M00000000000001", 50: "156"}
