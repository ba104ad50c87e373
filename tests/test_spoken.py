"""What each dialect makes of the house's messages, field by field, and how its lines are managed: sign-on, echo, rejects, framings."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
import rows
from test_translation import ACQUIRER, MERCHANT, PAN, STORE, order

from messages.codec import decode, encode
from messages.dialect import Dialect, load, match_key
from messages.framing import ECHOED, Deframer, Framing, frame
from messages.grammar import CHIP_DECLINED
from switch.links import LinkSettings, Reply, Settled, Unmatched
from switch.links.protocol import PAUSED_NETWORK_FRAMES_MAX, LinkProtocol
from switch.payments import translation
from switch.payments.transaction import Transaction
from switch.security.pan import Pan, Secret

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
CUP, ISO93, VISA = load("unionpay_pos"), load("iso93_ascii"), load("visa_base1")


def row(**changes: Any) -> Transaction:
    return rows.transaction(**({"stan": "000123", "rrn": "632700000123", "received_at": START} | changes))


def asked(dialect: Dialect, transaction: Transaction, **changes: Any) -> dict[str, str]:
    acquirer = ACQUIRER._replace(dialect=dialect, institution_code="12345678")
    message = translation.request(order(**changes), transaction, acquirer, MERCHANT, STORE)
    assert {number: value for number, value in decode(dialect, encode(dialect, message)).items() if number != "h"} == {
        number: value.replace("=", "D") if number == "35" and dialect.fields["35"].code == "bcd" else value for number, value in message.items()}
    return message


def undone(dialect: Dialect, transaction: Transaction, original: Transaction | None = None) -> dict[str, str]:
    stan = transaction.stan if dialect.reversal_stan == "original" else "000999"
    message = translation.reversal(transaction, dialect, Pan(PAN), "2812", stan, "1123080107", original, "12345678")
    encode(dialect, message)
    assert translation.reversal_key(transaction, dialect, stan, "1123080107") == match_key(dialect, message)
    return message


def test_a_unionpay_sale_has_its_batch_and_neither_clock_nor_rrn() -> None:
    assert asked(CUP, row()) == {
        "0": "0200", "2": PAN, "3": "000000", "4": "000000001000", "11": "000123", "14": "2812", "22": "051", "25": "00", "41": "T0000001",
        "42": "M00000000000001", "49": "156", "60": "2226112300060"}
    assert match_key(CUP, asked(CUP, row())) == "2|000123|T0000001|M00000000000001|261123"
    assert asked(CUP, row(), track2=Secret(f"{PAN}=2812101"))["35"] == f"{PAN}=2812101"


@pytest.mark.parametrize(("answered", "reason"), [(None, "98"), (START, "06")])
def test_a_unionpay_reversal_is_its_originals_again_and_says_why(answered: datetime | None, reason: str) -> None:
    message = undone(CUP, row(answered_at=answered))
    assert (message["0"], message["11"], message["60"], message["39"], "61" in message) == ("0400", "000123", "2226112300060", reason, False)


def test_a_reversal_says_that_the_chip_declined_where_its_host_has_a_word_for_that() -> None:
    refused = row(answered_at=START, reason=CHIP_DECLINED)
    assert undone(CUP, refused)["39"] == CUP.reversal_reasons[CHIP_DECLINED] == "06"
    other = {**CUP.reversal_reasons, CHIP_DECLINED: "E1"}
    assert undone(replace(CUP, reversal_reasons=other), refused)["39"] == "E1"
    assert undone(replace(CUP, reversal_reasons=other), row(answered_at=START))["39"] == "06"
    del other[CHIP_DECLINED]
    assert undone(replace(CUP, reversal_reasons=other), refused)["39"] == "06"


def test_a_unionpay_void_names_its_original_and_its_own_reversal_does_too() -> None:
    original = row(approval_code="A12345", acquirer_rrn="990000000001", business_date=date(2026, 11, 22), stan="000100")
    void = row(type="void", processing_code="200000")
    message = translation.follow_up(void, original, CUP, Pan(PAN), "2812")
    assert (message["0"], message["3"], message["37"], message["38"]) == ("0200", "200000", "990000000001", "A12345")
    assert (message["60"], message["61"]) == ("2326112300060", "261122000100")
    again = undone(CUP, void, original)
    assert (again["60"], again["61"], again["11"]) == ("2326112300060", "261122000100", void.stan)


@pytest.mark.parametrize(("original", "mti", "condition", "kind"), [("purchase", "0200", "00", "23"), ("preauthorization", "0100", "06", "11"),
                                                                    ("capture", "0200", "06", "21")])
def test_a_unionpay_void_is_another_message_for_each_original(original: str, mti: str, condition: str, kind: str) -> None:
    rule = CUP.rule("void", original)
    assert (rule.mti, rule.fixed["25"]) == (mti, condition)
    void = row(type="void", mti=rule.mti, processing_code=rule.fixed["3"], pos_condition=rule.fixed["25"])
    assert translation.follow_up(void, row(type=original, approval_code="1"), CUP, Pan(PAN), "2812")["60"][:2] == kind


def test_a_1993_sale_has_a_function_code_and_its_reversal_an_original() -> None:
    sale = row(mti="1200")
    message = asked(ISO93, sale)
    assert (message["12"], message["22"], message["24"], message["26"]) == ("261123160000", "510101510144", "200", "5411")
    assert not message.keys() & {"13", "18", "25", "90"}
    reversal = undone(ISO93, sale)
    assert (reversal["0"], reversal["11"], reversal["24"], reversal["56"]) == ("1420", "000999", "400", "120000012326112316000008" + "12345678")


def test_the_year_of_the_terminal_is_that_of_its_date() -> None:
    sale = row(mti="1200", local_date="0101", received_at=datetime(2026, 12, 31, 20, tzinfo=UTC))
    assert asked(ISO93, sale)["12"][:6] == "270101"
    sale = row(mti="1200", local_date="1231", received_at=datetime(2027, 1, 1, 2, tzinfo=UTC))
    assert asked(ISO93, sale)["12"][:6] == "261231"


def test_a_visa_authorization_wraps_its_chip_data_and_unwraps_the_answers() -> None:
    message = asked(VISA, row(mti="0100"), emv=translation.emv("9F360200019A03261123"))
    assert (message["22"], message["63"], message["55"]) == ("0510", "8000000002", "01000A" + "9F360200019A03261123")
    answer = {"0": "0110", "39": "00", "38": "A12345", "4": "000000001000", "55": "010006910411223344"}
    assert translation.verdict(row(mti="0100"), VISA, answer).emv == "910411223344"


def test_a_visa_authorization_asks_for_a_transaction_identifier_and_says_how_its_pin_block_is_made() -> None:
    message = asked(VISA, row(mti="0100"), pin_block=Secret("0123456789ABCDEF"))
    assert (message["62"], message["53"]) == ("8000000000000000E8", "2001010100000000")
    assert "53" not in asked(VISA, row(mti="0100"))


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, "2502"), ({"answered_at": START}, "2501"), ({"answered_at": START, "reason": CHIP_DECLINED}, "2502"),
])
def test_a_visa_reversal_says_why(changes: dict[str, Any], reason: str) -> None:
    assert undone(VISA, row(mti="0100", **changes))["63"] == f"A000000002{reason}"


def test_a_visa_reversal_names_its_original_by_what_the_host_called_it() -> None:
    identified = "E000000000000000C50400000000000001E5F0F0F1"
    answered = row(mti="0100", answer_message=translation.masked(VISA, {"0": "0110", "39": "00", "62": identified}))
    assert undone(VISA, answered)["62"] == identified
    assert "62" not in undone(VISA, row(mti="0100"))
    before = row(mti="0100", answer_message='{"0": "0110", "39": "00", "62": "<42 characters>"}')
    assert "62" not in undone(VISA, before)


@pytest.mark.parametrize("name", ["visa_base1", "mastercard_cis"])
def test_a_reversal_of_these_names_the_institution_in_the_original_elements(name: str) -> None:
    owed, dialect = row(mti="0100"), load(name)
    for code, said in (("402971", "00000402971"), (None, "0" * 11)):
        message = translation.reversal(owed, dialect, Pan(PAN), "2812", "000999", "1123080107", None, code)
        assert message["90"] == f"{owed.mti}{owed.stan}{owed.transmitted_at}{said}{'0' * 11}"


@pytest.mark.parametrize(("name", "fault"), [("unionpay_pos", True), ("iso93_ascii", True), ("iso87_ascii", False)])
def test_a_refund_that_must_name_its_sale_is_refused_without_one(name: str, fault: bool) -> None:
    said = translation.fault(order(type="refund", capture_method=None), load(name), "single")
    assert said == ("this acquirer takes a refund only with its sale" if fault else None)


class Line:
    def __init__(self, dialect: Dialect) -> None:
        stans = iter(f"{number:06d}" for number in range(1, 1000))
        self.dialect = dialect
        self.protocol = LinkProtocol("acq", dialect, LinkSettings("host.test", 1), next_stan=lambda: next(stans), draw=lambda: 1.0)
        self.protocol.connected(0.0, START)

    def sent(self) -> list[dict[str, str]]:
        return [decode(self.dialect, body) for body in Deframer(self.dialect.framing).feed(self.protocol.take_output())]

    def hear(self, message: dict[str, str], now: float = 1.0) -> list[Any]:
        self.protocol.receive(frame(self.dialect.framing, encode(self.dialect, message)), now, START)
        return self.protocol.take_events()


MANAGED = [
    (CUP, {"0": "0800", "60": "00000001003"}, "0810", {"0": "0820", "60": "00000001301"}, "00"),
    (ISO93, {"0": "1804", "24": "801"}, "1814", {"0": "1804", "24": "831"}, "800"),
    (VISA, {"0": "0800", "70": "071"}, "0810", {"0": "0800", "70": "301"}, "00"),
]


@pytest.mark.parametrize(("dialect", "on", "mti", "echo", "code"), MANAGED, ids=lambda value: getattr(value, "name", ""))
def test_a_line_signs_on_and_echoes_in_its_dialect(dialect: Dialect, on: dict[str, str], mti: str, echo: dict[str, str], code: str) -> None:
    line = Line(dialect)
    (sign_on,) = line.sent()
    assert on.items() <= sign_on.items()
    answer = {number: value for number, value in sign_on.items() if number not in ("0", "h")}
    assert line.hear(dict(sorted({"0": mti, **answer, "39": code}.items(), key=lambda item: int(item[0])))) == []
    assert line.protocol.phase == "up"
    line.protocol.tick(1000.0, START)
    assert echo.items() <= line.sent()[0].items()


@pytest.mark.parametrize(("dialect", "on", "mti", "echo", "code"), MANAGED, ids=lambda value: getattr(value, "name", ""))
def test_a_refused_sign_on_leaves_the_line_unusable(dialect: Dialect, on: dict[str, str], mti: str, echo: dict[str, str], code: str) -> None:
    line = Line(dialect)
    answer = {number: value for number, value in line.sent()[0].items() if number not in ("0", "h")}
    line.hear(dict(sorted({"0": mti, **answer, "39": "9" * len(code)}.items(), key=lambda item: int(item[0]))))
    assert line.protocol.phase == "signed_off"


def test_an_echo_of_the_host_is_answered_to_where_it_came_from() -> None:
    line = Line(CUP)
    line.sent()
    line.hear({"h": "6000010002603100310100", "0": "0820", "11": "000777", "41": "TERM0001", "42": "MERCHANT0000001", "60": "00000001301"})
    assert line.sent() == [{"h": "6000020001603100310100", "0": "0830", "11": "000777", "39": "00", "41": "TERM0001", "42": "MERCHANT0000001"}]


def test_a_dialect_without_sign_on_is_up_when_connected() -> None:
    line = Line(replace(CUP, network={}))
    assert (line.protocol.phase, line.sent()) == ("up", [])
    line.protocol.tick(1000.0, START)
    assert line.sent() == []


@pytest.mark.parametrize("code", ["30", None])
def test_a_reject_ends_its_request_where_the_dialect_says_as_what(code: str | None) -> None:
    line = Line(replace(VISA, reject_code=code, network={}))
    sale = asked(VISA, row(mti="0100"))
    sent = line.protocol.request(sale, "token", 1.0, START, 2.0, 30.0)
    assert isinstance(sent, bytes)
    ours, head = sent[4:], bytearray.fromhex("1A010200000000000000000000000000000000000000" + "8000" + "0123")
    head[3:5] = (len(head) + len(ours)).to_bytes(2, "big")
    line.protocol.receive(frame(VISA.framing, bytes(head) + ours), 1.5, START)
    events = line.protocol.take_events()
    assert [(event.reason, event.field, event.message, event.fault) for event in events if isinstance(event, Unmatched)] == [
        ("undecodable", "h", None, "rejected with code 0123")]
    settled = [event.result for event in events if isinstance(event, Settled)]
    if code is None:
        assert settled == []
    else:
        (reply,) = settled
        assert isinstance(reply, Reply)
        verdict = translation.verdict(row(mti="0100"), VISA, reply.message)
        assert (verdict.event.value, verdict.reason) == ("decline", "format_error")
        assert PAN not in str(reply.message)


POLLED = replace(load("iso87_ascii"), framing=Framing("binary2_own", 4096, ECHOED))
POLL = bytes(2)


def polled_line(dialect: Dialect = POLLED) -> Line:
    line = Line(replace(dialect, network={"echo": "301"}))
    assert line.protocol.phase == "up"
    return line


def test_a_poll_is_echoed_between_messages_and_is_no_loss_of_the_line() -> None:
    line = polled_line()
    echo = {"0": "0800", "7": "1123080000", "11": "000777", "70": "301"}
    line.protocol.receive(POLL + frame(POLLED.framing, encode(POLLED, echo)) + POLL, 1.0, START)
    said = line.protocol.take_output()
    assert said.count(POLL * 2) == 1 and line.protocol.phase == "up" and line.protocol.counters.line_losses == 0
    assert [decode(POLLED, body)["0"] for body in Deframer(POLLED.framing).feed(said)] == ["0810"]
    closed = polled_line(replace(POLLED, framing=Framing("binary2_own", 4096)))
    closed.protocol.receive(POLL, 1.0, START)
    assert closed.protocol.last_error == "framing lost: frame length is not of its form", "polls are echoed where nobody said so"


def test_a_poll_is_life_of_the_line() -> None:
    polled, silent = polled_line(), polled_line()
    idle = LinkSettings("host.test", 1).echo_idle
    for at in range(1, 4):
        polled.protocol.receive(POLL, at * idle / 2, START)
        assert polled.protocol.take_output() == POLL
        for line in (polled, silent):
            line.protocol.tick(at * idle / 2 + 0.1, START)
    assert polled.protocol.take_output() == b"" and silent.sent()[0]["70"] == "301"
    polled.protocol.tick(9 * idle, START)
    assert polled.sent()[0]["70"] == "301", "an echo is asked for when the polls end too"


def test_a_host_that_polls_and_does_not_read_loses_the_line() -> None:
    line = polled_line()
    line.protocol.pause(1.0)
    for _ in range(PAUSED_NETWORK_FRAMES_MAX):
        line.protocol.receive(POLL, 1.0, START)
    assert line.protocol.phase == "up"
    line.protocol.receive(POLL, 1.0, START)
    assert line.protocol.phase == "closed"
    line.protocol.take_output()
    line.protocol.receive(POLL, 1.0, START)
    assert line.protocol.take_output() == b"", "a closed line says nothing"
