"""The acquirer stub over real sockets, as a subprocess, spoken to with another codec than its own."""
import asyncio
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import iso8583
import pytest
from iso8583.specs import default_ascii

from acquirer_stubs import codec
from acquirer_stubs.behaviours import Known, answer, answerable, decide
from acquirer_stubs.book import Book, BookError, effects
from acquirer_stubs.control import Control
from acquirer_stubs.faults import parse
from acquirer_stubs.host import Host

PAN = "4111111111111111"
TRACK2 = "5555555555554444=30121010000012345678"
PIN_BLOCK = "0412AC89ABCDEF67"
traces = itertools.count(1)


def purchase(amount: int = 1000, **changes: str | None) -> dict[str, str]:
    """An 0200 with a trace and a DE37 of its own; changes are named d2, d90, t ... and None takes an element out."""
    trace = next(traces)
    message = {"t": "0200", "2": PAN, "3": "000000", "4": f"{amount:012d}", "7": "1123093000", "11": f"{trace:06d}", "12": "103000",
               "13": "1123", "14": "3012", "18": "5999", "22": "012", "25": "00", "37": f"5327{trace:08d}", "41": "TERM0001",
               "42": "MERCHANT0000001", "49": "156"}
    for name, value in changes.items():
        de = name.removeprefix("d")
        if value is None:
            del message[de]
        else:
            message[de] = value
    return message


def de90(original: dict[str, str]) -> str:
    return original["t"] + original["11"] + original["7"] + "0" * 22


def reversal(original: dict[str, str], **changes: str | None) -> dict[str, str]:
    named = {"t": "0420", "d4": original["4"], "d37": original["37"], "d49": original["49"], "d90": de90(original)}
    return purchase(**named | changes)  # type: ignore[arg-type]


def follow_up(original: dict[str, str], approval: str, **changes: str) -> dict[str, str]:
    return purchase(**{"d4": original["4"], "d38": approval, "d90": de90(original)} | changes)  # type: ignore[arg-type]


def packed(message: dict[str, str]) -> bytes:
    raw, _ = iso8583.encode(dict(message), default_ascii)
    return len(raw).to_bytes(2, "big") + bytes(raw)


class Wire:
    """One line to the host."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *messages: dict[str, str]) -> None:
        self.socket.sendall(b"".join(map(packed, messages)))

    def raw(self, timeout: float = 5) -> bytes:
        """The next frame's body; b"" when the host closed. Raises TimeoutError."""
        self.socket.settimeout(timeout)
        header = self.exactly(2)
        return self.exactly(int.from_bytes(header, "big")) if header else b""

    def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            try:
                part = self.socket.recv(size - len(got))
            except ConnectionResetError:
                part = b""
            if not part:
                return b""
            got += part
        return got

    def answer(self, timeout: float = 5) -> dict[str, str]:
        fields, _ = iso8583.decode(self.raw(timeout), default_ascii)
        return {name: value for name, value in fields.items() if name not in ("h", "p", "1")}

    def ask(self, message: dict[str, str]) -> dict[str, str]:
        self.send(message)
        return self.answer()

    def silent(self, seconds: float = 0.15) -> bool:
        try:
            return self.raw(seconds) is None
        except TimeoutError:
            return True


class Stub:
    """A host in a process of its own."""

    def __init__(self, book: Path, *options: str) -> None:
        self.book = book
        self.process = subprocess.Popen([sys.executable, "-m", "acquirer_stubs", "--book", str(book), *options],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline()
        assert ready, self.process.stderr.read()
        self.ready = json.loads(ready)
        self.port = self.ready["port"]
        self.wires: list[Wire] = []

    def wire(self) -> Wire:
        self.wires.append(Wire(self.port))
        return self.wires[-1]

    def http(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection(self.ready["control_url"].removeprefix("http://"), timeout=5)
        try:
            connection.request(method, path, None if body is None else body if isinstance(body, bytes) else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def fault(self, match: object, action: str, value: object = None, **more: object) -> None:
        status, body = self.http("POST", "/faults", {"match": match, "action": action, "value": value} | more)
        assert status == 201, body

    def stats(self) -> dict:
        return self.http("GET", "/stats")[1]

    def net(self) -> int:
        return self.stats()["net"].get("156", 0)

    def end(self, number: int = signal.SIGTERM) -> int:
        for wire in self.wires:
            wire.socket.close()
        self.process.send_signal(number)
        status = self.process.wait(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    stub = Stub(tmp_path_factory.mktemp("stub") / "book", "--fast")
    yield stub
    assert stub.end() == 0


@pytest.fixture
def stub(running):
    yield running
    running.http("DELETE", "/faults")
    running.http("POST", "/host", {"capacity": None, "delay": 0})
    for wire in running.wires:
        wire.socket.close()
    running.wires.clear()


@pytest.fixture
def start(tmp_path):
    stubs: list[Stub] = []

    def begin(*options: str, book: str = "book") -> Stub:
        stubs.append(Stub(tmp_path / book, *options))
        return stubs[-1]

    yield begin
    for stub in stubs:
        if stub.process.returncode is None:
            stub.end(signal.SIGKILL)


# --- codec ---------------------------------------------------------------------------------------------------------------------------

def test_the_hosts_own_field_table_agrees_with_an_independent_one_except_where_the_annex_is_wider_or_narrower():
    other = {int(de): (form["len_type"], form["max_len"]) for de, form in default_ascii.items() if de.isdigit()}
    differing = {de for de, (_, _, prefix, size) in codec.STEPS.items() if other[de] != (prefix, size)}
    assert differing == {54, 55}
    assert set(range(2, 129)) - codec.STEPS.keys() == {65}


def test_every_element_survives_decode_and_encode_byte_for_byte():
    for chosen in (range(2, 65), range(2, 129), (3, 70), (2, 128)):
        message = {0: "0200"}
        for de in chosen:
            if de != 65:
                _, content, prefix, size = codec.STEPS[de]
                message[de] = ("1" if content in "n x h" else "A") * (min(size, 6) if prefix else size)
        raw = codec.encode(message)
        assert codec.decode(raw) == message
        assert codec.encode(codec.decode(raw)) == raw
        assert iso8583.decode(raw, default_ascii)[0]["t"] == "0200"


GOOD = packed(purchase(d55="9F2608AABB"))[2:]
BITMAP = b"0200" + b"4" + b"0" * 15  # only DE2


@pytest.mark.parametrize("body", [
    b"", b"0", GOOD[:19], GOOD[:-1], GOOD + b"0", b"02A0" + GOOD[4:], GOOD[:4] + b"Z" + GOOD[5:], GOOD[:4] + b"f" + GOOD[5:],
    GOOD[:4] + b" " + GOOD[5:], GOOD.replace(b"AABB", b"AABZ"), GOOD.replace(b"000000001000", b"00000000+100"), b"\xff" * 60,
    GOOD.replace(b"TERM0001", b"TERM\x00001"), BITMAP + b"+1" + b"4", BITMAP + b"994111", BITMAP + b"20" + b"1" * 20, BITMAP,
    b"0200" + b"8" + b"0" * 15, b"0200" + b"8" + b"0" * 15 + b"8" + b"0" * 15, GOOD.replace(b"010" + b"9F26", b"011" + b"9F26"),
    "０２００".encode() + GOOD[4:]])
def test_bytes_that_are_no_message_are_undecodable_and_the_text_shows_none_of_them(body):
    with pytest.raises(codec.Undecodable) as refused:
        codec.decode(body)
    assert "4111" not in str(refused.value)


def test_a_zero_length_variable_element_is_a_value():
    assert codec.decode(BITMAP + b"00") == {0: "0200", 2: ""}


@pytest.mark.parametrize("message", [{0: "0210", 39: "0"}, {0: "0210", 2: "1" * 20}, {0: "0210", 39: "00", 11: "000001"}, {39: "00"},
                                     {0: "0210", 65: "1"}])
def test_an_answer_that_does_not_fit_the_table_is_refused(message):
    with pytest.raises(codec.Unencodable):
        codec.encode(message)


def test_no_bytes_make_the_host_do_anything_but_refuse_or_decide():
    source, known, verdicts = random.Random(8583), Known(), Counter()
    samples = [packed(message)[2:] for message in (purchase(d55="9F2608AABB"), purchase(1010, t="0100", d3="310000"), reversal(purchase()),
                                                   follow_up(purchase(), "000001", d3="020000"), network("201", **{"15": "1124"}))]
    for _ in range(4000):
        raw = bytearray(source.choice(samples))
        for _ in range(source.randrange(4)):
            raw[source.randrange(len(raw))] = source.choice(b"0123456789ABCDEF \"\xff")
        try:
            message = codec.decode(bytes(raw))
        except codec.Undecodable:
            verdicts["undecodable"] += 1
            continue
        if answerable(message):
            decision = decide(message, known, token="", serial=1, forced=source.choice(("", "", "00", "10", "96")))
            known.apply(decision)
            assert codec.decode(codec.encode(answer(message, decision)))[39] == decision.code
            verdicts[decision.code] += 1
    assert {"undecodable", "00", "10", "25", "94", "96"} <= verdicts.keys()


# --- decisions -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending, code", [(1, "01"), (5, "05"), (51, "51"), (54, "54"), (55, "55"), (61, "61"), (91, "91"), (96, "96"),
                                          (0, "00"), (2, "00"), (50, "00"), (99, "00")])
def test_the_last_two_digits_of_the_amount_decide(stub, ending, code):
    before, request = stub.net(), purchase(12300 + ending)
    answer = stub.wire().ask(request)
    echoed = {name: request[name] for name in ("2", "3", "4", "7", "11", "12", "13", "18", "22", "25", "37", "41", "42", "49")}
    approval = {"38": answer["38"]} if code == "00" else {}
    assert answer == {"t": "0210", "39": code} | echoed | approval
    assert len(answer.get("38", "......")) == 6
    assert stub.net() - before == (12300 + ending if code == "00" else 0)


@pytest.mark.parametrize("amount, half", [(10, 5), (1010, 505), (100110, 50055)])
def test_an_ending_of_10_approves_half_rounded_down_and_names_the_original_amount(stub, amount, half):
    before = stub.net()
    answer = stub.wire().ask(purchase(amount))
    assert (answer["39"], answer["4"], len(answer["38"])) == ("10", f"{half:012d}", 6)
    assert answer["54"] == f"0057156D{amount:012d}"
    assert stub.net() - before == half


def test_only_what_the_request_carried_is_echoed(stub):
    answer = stub.wire().ask(purchase(d2=None, d18=None, d25=None, d35=TRACK2, d55="9F2608AABB", d32="12345"))
    assert {"2", "18", "25", "35", "55", "14"}.isdisjoint(answer)
    assert answer["32"] == "12345"


def test_a_balance_inquiry_gets_de54_and_a_verification_85(stub):
    wire, before = stub.wire(), stub.stats()
    balance = wire.ask(purchase(0, t="0100", d3="310000"))
    assert (balance["t"], balance["39"], balance["54"]) == ("0110", "00", "0002156C000001000000")
    assert wire.ask(purchase(0, t="0100", d3="330000"))["39"] == "85"
    assert (stub.stats()["net"], stub.stats()["held"]) == (before["net"], before["held"])


@pytest.mark.parametrize("changes, net, held, mti", [
    ({}, 5000, 0, "0210"), ({"d3": "010000"}, 5000, 0, "0210"), ({"t": "0100", "d25": "06"}, 0, 5000, "0110"),
    ({"t": "0220", "d25": "06"}, 5000, 0, "0230"), ({"t": "0220", "d3": "020000"}, 5000, 0, "0230"),
    ({"t": "0220", "d3": "200000"}, -5000, 0, "0230"), ({"d3": "200000"}, -5000, 0, "0210"),
    ({"t": "0220", "d4": "000000005005"}, 5005, 0, "0230")])
def test_what_is_posted_and_what_is_held_follow_from_the_message(stub, changes, net, held, mti):
    before = stub.stats()
    answer = stub.wire().ask(purchase(**{"d4": "000000005000"} | changes))
    after = stub.stats()
    assert (answer["t"], answer["39"]) == (mti, "00")
    assert after["net"].get("156", 0) - before["net"].get("156", 0) == net
    assert after["held"].get("156", 0) - before["held"].get("156", 0) == held


@pytest.mark.parametrize("message, code", [
    (purchase(d37=None), "30"), (purchase(d4=None), "30"), (purchase(t="0420"), "30"), (purchase(t="0320"), "40"),
    (purchase(t="0420", d90="0" * 42, d95="C" * 42), "30")])
def test_an_incomplete_or_unknown_message_is_answered_and_moves_nothing(stub, message, code):
    before = stub.net()
    assert stub.wire().ask(message)["39"] == code
    assert stub.net() == before


def test_a_response_mti_gets_no_answer_and_uses_up_no_fault(stub):
    wire = stub.wire()
    stub.fault("any", "duplicate")
    wire.send(purchase(t="0210", d39="00"))
    assert wire.silent()
    assert stub.stats()["faults_left"] == 1


@pytest.mark.parametrize("mti, repeat", [("0200", "0200"), ("0200", "0201"), ("0220", "0221"), ("0100", "0101")])
@pytest.mark.parametrize("amount", [2000, 2010, 2051])
def test_a_repeated_message_gets_the_stored_answer_byte_for_byte_and_is_applied_once(stub, mti, repeat, amount):
    wire, before, request = stub.wire(), stub.stats(), purchase(amount, t=mti)
    wire.send(request)
    first = wire.raw()
    once = stub.stats()
    stub.wire().send(request | {"t": repeat})
    assert stub.wires[-1].raw() == first
    after = stub.stats()
    assert (after["net"], after["held"], after["decisions"]) == (once["net"], once["held"], once["decisions"])
    assert after["duplicates"] == before["duplicates"] + 1


@pytest.mark.parametrize("change", [{"4": "000000003001"}, {"2": "5555555555554444"}, {"3": "010000"}, {"49": "840"}])
def test_the_same_key_with_other_content_is_94_and_moves_nothing(stub, change):
    wire, request = stub.wire(), purchase(3000)
    wire.ask(request)
    before = stub.stats()
    assert wire.ask(request | change)["39"] == "94"
    assert stub.stats()["net"] == before["net"]
    assert wire.ask(request)["39"] == "00"


@pytest.mark.parametrize("change", [{"7": "1123093001"}, {"11": "999998"}, {"37": "532799999998"}, {"41": "TERM0002"},
                                    {"42": "MERCHANT0000002"}, {"t": "0100"}])
def test_any_part_of_the_key_makes_it_another_transaction(stub, change):
    wire, request = stub.wire(), purchase(3000)
    wire.ask(request)
    before = stub.stats()["duplicates"]
    assert wire.ask(request | change)["39"] == "00"
    assert wire.ask(reversal(request))["39"] == "00"
    assert stub.stats()["duplicates"] == before


def test_a_reversal_takes_its_original_back_once_however_often_and_under_whatever_trace_it_comes(stub):
    wire, before, request = stub.wire(), stub.net(), purchase(4000)
    wire.ask(request)
    undo = reversal(request)
    answer = wire.ask(undo)
    assert (answer["t"], answer["39"], answer["11"], answer["37"]) == ("0430", "00", undo["11"], request["37"])
    assert stub.net() == before
    assert wire.ask(undo | {"t": "0421"}) == answer
    assert wire.ask(reversal(request))["39"] == "00"
    assert wire.ask(request)["39"] == "00"  # the stored answer of the original, applied no second time
    assert stub.net() == before


@pytest.mark.parametrize("amount", [4005, 4010])
def test_a_declined_or_partly_approved_original_is_reversed_by_the_requested_amount(stub, amount):
    wire, before, request = stub.wire(), stub.net(), purchase(amount)
    wire.ask(request)
    assert wire.ask(reversal(request))["39"] == "00"
    assert stub.net() == before


@pytest.mark.parametrize("change", [
    {"d37": "532700000000"}, {"d41": "TERM0009"}, {"d42": "MERCHANT0000009"}, {"d4": "000000004001"}, {"d49": "840"},
    {"mti": "0100"}, {"stan": "000000"}, {"de7": "1123093009"}])
def test_a_reversal_that_differs_in_anything_it_is_matched_by_gets_25_and_moves_nothing(stub, change):
    wire, request = stub.wire(), purchase(4000)
    wire.ask(request)
    before = stub.net()
    named = {"t": change.pop("mti", "0200"), "11": change.pop("stan", request["11"]), "7": change.pop("de7", request["7"])}
    assert wire.ask(reversal(request, d90=de90(named), **change))["39"] == "25"
    assert stub.net() == before
    assert wire.ask(reversal(request))["39"] == "00"


def test_a_reversal_cannot_be_reversed(stub):
    wire, request = stub.wire(), purchase(4000)
    wire.ask(request)
    undo = reversal(request)
    wire.ask(undo)
    before = stub.net()
    assert wire.ask(reversal(undo))["39"] == "25"
    assert stub.net() == before


def test_an_original_that_comes_after_its_reversal_is_declined(stub):
    wire, before, request = stub.wire(), stub.net(), purchase(4000)
    assert wire.ask(reversal(request))["39"] == "25"
    answer = wire.ask(request)
    assert answer["39"] == "12" and "38" not in answer
    assert wire.ask(request | {"t": "0201"})["39"] == "12"
    assert stub.net() == before


def test_a_partial_reversal_keeps_the_replacement_amount(stub):
    wire, before, request = stub.wire(), stub.net(), purchase(4000)
    wire.ask(request)
    for _ in range(2):
        assert wire.ask(reversal(request, d95=f"{1500:012d}" + "0" * 30))["39"] == "00"
        assert stub.net() - before == 1500
    assert wire.ask(reversal(request, d95=f"{1501:012d}" + "0" * 30))["39"] == "25"
    assert wire.ask(reversal(request))["39"] == "00"
    assert stub.net() == before


def test_a_void_cancels_what_stands_and_its_own_reversal_brings_that_back(stub):
    wire, before = stub.wire(), stub.stats()
    request = purchase(6000, t="0100", d25="06")
    approval = wire.ask(request)["38"]
    assert wire.ask(follow_up(request, approval, t="0220", d4="000000005000"))["39"] == "00"
    void = follow_up(request, approval, d3="020000")
    wrong = follow_up(request, "XXXXXX", d3="020000")
    assert wire.ask(wrong)["39"] == "25"
    assert stub.net() - before["net"].get("156", 0) == 5000
    assert wire.ask(void)["39"] == "00"
    assert (stub.stats()["net"], stub.stats()["held"]) == (before["net"], before["held"])
    assert wire.ask(follow_up(request, approval, d3="020000"))["39"] == "12"
    assert wire.ask(reversal(request, d37=request["37"]))["39"] == "00"
    assert stub.stats()["held"] == before["held"]
    assert wire.ask(reversal(void))["39"] == "00"
    assert stub.net() - before["net"].get("156", 0) == 5000
    assert stub.stats()["held"]["156"] - before["held"].get("156", 0) == 6000


@pytest.mark.parametrize("changes", [{"t": "0220", "d25": "06"}, {"t": "0220", "d3": "020000"}, {"d3": "200000"}, {"t": "0100", "d25": "60"}])
def test_a_follow_up_that_names_nothing_of_ours_gets_25_and_moves_nothing(stub, changes):
    wire = stub.wire()
    request = purchase(6100, t="0100", d25="06")
    approval = wire.ask(request)["38"]
    declined = purchase(6151)
    wire.ask(declined)
    before = stub.stats()
    for wrong in (follow_up(purchase(6100), approval, **changes), follow_up(declined, approval, **changes), follow_up(request, "XXXXXX", **changes),
                  follow_up(request, approval, d49="840", **changes)):
        assert wire.ask(wrong)["39"] == "25"
    assert (stub.stats()["net"], stub.stats()["held"]) == (before["net"], before["held"])
    assert wire.ask(follow_up(request, approval, **changes))["39"] == "00"


def test_a_void_takes_back_increments_tips_and_refunds_with_the_rest(stub):
    wire, before = stub.wire(), stub.stats()
    request = purchase(6200, t="0100", d25="06")
    approval = wire.ask(request)["38"]
    for changes in ({"t": "0100", "d25": "60", "d4": "000000000800"}, {"t": "0220", "d25": "06"}, {"t": "0220", "d3": "020000", "d4": "000000000300"},
                    {"d3": "200000", "d4": "000000000100"}):
        assert wire.ask(follow_up(request, approval, **changes))["39"] == "00"
    assert stub.net() - before["net"].get("156", 0) == 6200 + 300 - 100
    assert stub.stats()["held"]["156"] - before["held"].get("156", 0) == 7000
    assert wire.ask(follow_up(request, approval, d3="020000", d4="000000007000"))["39"] == "00"
    assert (stub.net(), stub.stats()["held"]["156"]) == (before["net"].get("156", 0), before["held"].get("156", 0))


# --- lines and network management ----------------------------------------------------------------------------------------------------

def network(code: str, **more: str) -> dict[str, str]:
    return {"t": "0800", "7": "1123093000", "11": f"{next(traces):06d}", "70": code} | more


def test_sign_on_echo_sign_off_and_cut_over_are_answered_with_their_code(stub):
    wire = stub.wire()
    for code, more in (("001", {}), ("301", {}), ("201", {"15": "1124"}), ("002", {})):
        request = network(code, **more)
        assert wire.ask(request) == request | {"t": "0810", "39": "00"}
        assert stub.stats()["signed_on_lines"] == (0 if code == "002" else 1)


def test_a_client_that_never_signs_on_is_served_unless_sign_on_is_required(start):
    strict = start("--fast", "--require-sign-on")
    wire, request = strict.wire(), purchase(1000)
    assert wire.ask(request)["39"] == "91"
    assert strict.net() == 0
    wire.ask(network("001"))
    assert wire.ask(request)["39"] == "00"
    assert strict.wire().ask(purchase())["39"] == "91"
    wire.ask(network("002"))
    assert wire.ask(purchase())["39"] == "91"


def test_the_host_sends_echo_cut_over_and_sign_off_on_all_lines(stub):
    wires = [stub.wire(), stub.wire()]
    for wire in wires:
        wire.ask(network("001"))
    for order, expected in (({"echo": True}, {"70": "301"}), ({"cutover": "1124"}, {"70": "201", "15": "1124"}),
                            ({"sign_off": True}, {"70": "002"})):
        assert stub.http("POST", "/host", order) == (200, {"lines": 2})
        for wire in wires:
            got = wire.answer()
            assert {"t": "0800", **expected} == {name: value for name, value in got.items() if name not in ("7", "11")}
            wire.send(got | {"t": "0810", "39": "00"})
            assert wire.ask(purchase())["39"] == "00"
    assert stub.stats()["signed_on_lines"] == 0


def test_64_bytes_that_come_one_by_one_and_many_messages_in_one_segment_are_all_answered(stub):
    wire, request = stub.wire(), packed(purchase())
    for at in range(64):
        wire.socket.sendall(request[at:at + 1])
    wire.socket.sendall(request[64:])
    assert wire.answer()["39"] == "00"
    batch = [purchase(1000 + number * 100) for number in range(50)]
    wire.send(*batch)
    assert [wire.answer()["11"] for _ in batch] == [message["11"] for message in batch]


def test_an_undecodable_message_is_dropped_and_counted_and_the_line_goes_on(stub):
    wire, before = stub.wire(), stub.stats()
    wire.socket.sendall(b"\x00\x05hello" + b"\x00\x01\xff" + packed(purchase(t="1200")) + packed(purchase()))
    assert wire.answer()["39"] == "00"
    after = stub.stats()
    assert after["undecodable"] - before["undecodable"] == 3
    items = stub.http("GET", f"/book?after={before['book_lines']}")[1]["items"]
    assert [(item["undecodable"], item["bytes"]) for item in items[:2]] == [("MTI or length of the message", 5), ("byte 0: not ASCII", 1)]


@pytest.mark.parametrize("header", [b"\x00\x00", b"\xff\xff", b"\x10\x01"])
def test_a_bad_length_closes_that_line_only_and_what_came_before_it_is_booked(stub, header):
    other, wire, before = stub.wire(), stub.wire(), stub.stats()
    wire.socket.sendall(packed(purchase(600)) + header + b"\x00\x01A")
    assert wire.raw() == b""
    assert other.ask(purchase(700))["39"] == "00"
    after = stub.stats()
    assert after["bad_frames"] == before["bad_frames"] + 1
    assert after["net"]["156"] - before["net"].get("156", 0) == 1300


def test_a_host_delay_holds_every_answer_without_blocking_others(stub):
    stub.http("POST", "/host", {"delay": 0.2})
    wire, began = stub.wire(), time.monotonic()
    wire.send(*(purchase() for _ in range(20)))
    for _ in range(20):
        wire.answer()
    assert 0.2 <= time.monotonic() - began < 1.0


def test_a_capacity_spaces_the_answers(stub):
    stub.http("POST", "/host", {"capacity": 50})
    wire, began = stub.wire(), time.monotonic()
    wire.send(*(purchase() for _ in range(11)))
    for _ in range(11):
        wire.answer()
    assert 0.2 <= time.monotonic() - began < 1.5


# --- faults --------------------------------------------------------------------------------------------------------------------------

def test_delay_and_late_answer_after_their_time_and_let_others_pass(stub):
    for action in ("delay", "late"):
        slow, quick = purchase(1000), purchase(1000)
        stub.fault({"11": slow["11"]}, action, 0.25)
        wire, began = stub.wire(), time.monotonic()
        wire.send(slow, quick)
        assert wire.answer()["11"] == quick["11"]
        assert wire.answer()["11"] == slow["11"]
        assert time.monotonic() - began >= 0.25


def test_silence_moves_the_money_and_says_nothing_until_it_is_asked_again(stub):
    wire, before, request = stub.wire(), stub.net(), purchase(7000)
    stub.fault({"37": request["37"]}, "silence")
    wire.send(request)
    assert wire.silent()
    assert stub.net() - before == 7000
    assert wire.ask(reversal(request))["39"] == "00"
    assert stub.net() == before


def test_duplicate_answers_twice_and_applies_once(stub):
    wire, before = stub.wire(), stub.net()
    stub.fault("any", "duplicate")
    wire.send(purchase(1000))
    assert wire.raw() == wire.raw()
    assert wire.silent() and stub.net() - before == 1000


@pytest.mark.parametrize("value, de", [(None, "11"), ("4", "4"), ("39", "39"), ("41", "41"), ("42", "42"), ("49", "49"), ("7", "7"),
                                       ("0", "t"), ("2", "2"), ("37", "37"), ("38", "38")])
def test_wrong_changes_the_named_element_of_the_answer_and_no_other(stub, value, de):
    wire, request = stub.wire(), purchase(d41="T1", d37="ABCDEFGHIJKX") | {"41": "T1      "}
    right = wire.ask(request)
    stub.fault({"41": "T1"}, "wrong", value)
    wrong = wire.ask(request)
    assert {name for name in right if right[name] != wrong[name]} == {de}
    assert wire.ask(request) == right


def test_wrong_with_a_minus_leaves_the_element_out(stub):
    stub.fault("any", "wrong", "-39")
    assert "39" not in stub.wire().ask(purchase())


def test_garbage_is_a_sound_frame_that_no_codec_takes_and_frame_breaks_the_framing(stub):
    wire = stub.wire()
    stub.fault("any", "garbage")
    wire.send(purchase())
    with pytest.raises((iso8583.DecodeError, UnicodeDecodeError)):
        iso8583.decode(wire.raw(), default_ascii)
    assert wire.ask(purchase())["39"] == "00"
    stub.fault("any", "garbage", "frame")
    wire.send(purchase())
    assert wire.exactly(2) == b"\xff\xff"


@pytest.mark.parametrize("value, moved, undone", [(None, 8000, "00"), ("before", 0, "25")])
def test_cut_closes_the_line_after_or_before_the_money_moved(stub, value, moved, undone):
    wire, before, request = stub.wire(), stub.net(), purchase(8000)
    stub.fault({"0": "0200", "4": "000000008000"}, "cut", value)
    wire.send(request)
    assert wire.raw() == b""
    assert stub.net() - before == moved
    assert stub.wire().ask(reversal(request))["39"] == undone


@pytest.mark.parametrize("value, moved", [(None, 1000), ("before", 0)])
def test_half_open_neither_reads_nor_answers_that_line_until_the_faults_are_deleted(stub, value, moved):
    wire, before, early, unread = stub.wire(), stub.net(), purchase(0), purchase(200)
    stub.fault({"11": early["11"]}, "delay", 0.05)
    stub.fault("any", "half_open", value)
    wire.send(early, purchase(1000), unread)
    assert wire.silent()
    wire.send(purchase(300))
    assert wire.silent()
    assert stub.http("POST", "/host", {"echo": True})[0] == 200
    assert wire.silent()
    assert stub.net() - before == moved
    assert stub.wire().ask(purchase(500))["39"] == "00"
    stub.http("DELETE", "/faults")
    assert wire.answer()["11"] == unread["11"]
    assert wire.answer()["39"] == "00"
    assert stub.net() - before == moved + 1000


@pytest.mark.parametrize("code, moved, approval", [("00", 9005, True), ("10", 4502, True), ("06", 0, False), ("ZZ", 0, False)])
def test_code_overrides_the_amount_rule_and_moves_money_only_for_00_and_10(stub, code, moved, approval):
    wire, before, request = stub.wire(), stub.net(), purchase(9005)
    stub.fault({"11": request["11"]}, "code", code)
    answer = wire.ask(request)
    assert (answer["39"], "38" in answer) == (code, approval)
    assert stub.net() - before == moved


@pytest.mark.parametrize("code", ["25", "91", "96", "05"])
def test_a_refused_reversal_or_advice_is_judged_anew_when_it_is_repeated(stub, code):
    wire, before, request = stub.wire(), stub.net(), purchase(1000)
    wire.ask(request)
    stub.fault({"0": "0420"}, "code", code)
    stub.fault({"0": "0220"}, "code", code)
    undo, advice = reversal(request), purchase(100, t="0220")
    assert wire.ask(undo)["39"] == code
    assert wire.ask(advice)["39"] == code
    assert stub.net() - before == 1000
    assert wire.ask(undo | {"t": "0421"})["39"] == "00"
    assert wire.ask(advice | {"t": "0221"})["39"] == "00"
    assert stub.net() - before == 100


def test_faults_are_used_in_order_as_often_as_ordered_and_any_spares_network_management(stub):
    wire = stub.wire()
    stub.fault("any", "code", "61", count=2)
    stub.fault("any", "code", "54", count=None)
    assert wire.ask(network("301"))["39"] == "00"
    assert [wire.ask(purchase())["39"] for _ in range(4)] == ["61", "61", "54", "54"]
    assert stub.stats()["faults"] == [{"match": "any", "action": "code", "left": None}]
    assert stub.http("DELETE", "/faults") == (200, {"deleted": 1})
    assert wire.ask(purchase())["39"] == "00"
    stub.fault({"0": "0800"}, "silence")
    wire.send(network("301"))
    assert wire.silent()


# --- control -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, path, body, status", [
    ("POST", "/faults", {"match": "any"}, 400), ("POST", "/faults", {"match": {}, "action": "silence"}, 400),
    ("POST", "/faults", {"match": {"4": 5}, "action": "silence"}, 400), ("POST", "/faults", {"match": {"999": "1"}, "action": "cut"}, 400),
    ("POST", "/faults", {"match": "any", "action": "explode"}, 400), ("POST", "/faults", {"match": "any", "action": []}, 400),
    ("POST", "/faults", {"match": "any", "action": "cut", "count": 0}, 400), ("POST", "/faults", {"match": "any", "action": "code"}, 400),
    ("POST", "/faults", {"match": "any", "action": "delay", "value": True}, 400),
    ("POST", "/faults", {"match": "any", "action": "wrong", "value": "65"}, 400), ("POST", "/faults", b"{", 400),
    ("POST", "/faults", {"match": "any", "action": "cut", "extra": 1}, 400), ("POST", "/faults", b"x" * 70_000, 413),
    ("POST", "/host", {"cutover": "1332"}, 400), ("POST", "/host", {"capacity": 0}, 400), ("POST", "/host", {"echo": False}, 400),
    ("POST", "/host", {}, 400), ("POST", "/host", {"delay": -1}, 400), ("GET", "/book?after=-1", None, 400), ("GET", "/no", None, 404),
    ("GET", "/faults", None, 405), ("POST", "/host", b"[" * 60_000, 400)])
def test_an_order_that_cannot_be_carried_out_is_refused_with_a_reason(stub, method, path, body, status):
    got, answer = stub.http(method, path, body)
    assert (got, list(answer)) == (status, ["error"])
    assert stub.stats()["faults_left"] == 0


def test_the_book_is_read_in_pages_over_all_its_lines(start):
    fresh = start("--fast")
    wire = fresh.wire()
    for _ in range(6):
        wire.send(*(purchase() for _ in range(100)))
        for _ in range(100):
            wire.answer()
    seen, after = [], 0
    while after is not None:
        _, page = fresh.http("GET", f"/book?after={after}&limit=777")
        seen += page["items"]
        after = page["next"]
    assert [item["seq"] for item in seen] == list(range(1, 1201))
    assert {item["kind"] for item in seen} == {"received", "decision"}
    assert [item["received"] for item in seen[1::2]] == list(range(1, 1200, 2))
    assert fresh.http("GET", "/book?after=255&limit=2")[1]["items"] == seen[255:257]
    assert fresh.http("GET", "/book?after=1200")[1] == {"items": [], "next": None}
    assert [json.loads(line) for line in fresh.book.read_text().splitlines()] == seen


def test_the_book_never_holds_a_clear_card_number_track_or_pin_block(stub):
    before = stub.stats()["book_lines"]
    wire = stub.wire()
    wire.ask(purchase(d35=TRACK2, d52=PIN_BLOCK, d55="5A08" + PAN + "9F2608AABB", d48="CVV 123 " + PAN))
    wire.ask(purchase(d2=None, d35=TRACK2))
    wire.ask(purchase(d2="6212345678901265"))
    wire.ask(purchase())
    text = stub.book.read_text()
    for secret in (PAN, "6212345678901265", TRACK2, "5555555555554444", PIN_BLOCK, "CVV"):
        assert secret not in text
    first, track, other, same = (item["fields"] for item in stub.http("GET", f"/book?after={before}")[1]["items"] if "fields" in item)
    assert (first["2"], first["52"], first["35"]) == ("411111******1111", "*16", f"*{len(TRACK2)}")
    assert first["token"] == same["token"] and len({track["token"], other["token"], first["token"]}) == 3
    assert stub.book.stat().st_mode & 0o777 == 0o600 and Path(f"{stub.book}.key").stat().st_mode & 0o777 == 0o600


def test_text_that_needs_escaping_does_not_break_the_book(stub):
    before, wire = stub.stats()["book_lines"], stub.wire()
    request = purchase(d41='A"\\{}%s ', d42='"},{"seq":1,   ')
    assert wire.ask(request)["39"] == "00"
    received, decision = stub.http("GET", f"/book?after={before}")[1]["items"]
    assert (received["fields"]["41"], received["fields"]["42"]) == (request["41"], request["42"])
    assert decision["terminal"] == request["41"]
    assert wire.ask(reversal(request, d41=request["41"], d42=request["42"]))["39"] == "00"


# --- durability ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [(), ("--fast",)])
def test_after_kill_9_the_book_is_whole_and_duplicates_and_reversals_are_still_known(start, options):
    first = start(*options)
    wire = first.wire()
    kept, undone, partial, orphan, voided = purchase(1000), purchase(2000), purchase(3010), purchase(4000), purchase(5000)
    answers = {message["11"]: wire.ask(message) for message in (kept, undone, partial, voided)}
    undo = reversal(undone)
    wire.ask(undo)
    wire.ask(reversal(orphan))
    void = follow_up(voided, answers[voided["11"]]["38"], d3="020000")
    wire.ask(void)
    stats = first.stats()
    first.end(signal.SIGKILL)
    lines = first.book.read_bytes()
    first.book.write_bytes(lines + b'{"seq":17,"at":"2025-')

    second = start(*options)
    assert second.book.read_bytes() == lines
    counted = ("net", "held", "decisions", "duplicates", "received")
    assert [second.stats()[name] for name in counted] == [stats[name] for name in counted]
    wire = second.wire()
    for message in (kept, undone, partial, voided):
        assert wire.ask(message | {"t": "0201"}) == answers[message["11"]]
    assert wire.ask(undo | {"t": "0421"})["39"] == "00"
    assert wire.ask(reversal(undone))["39"] == "00"
    assert wire.ask(orphan)["39"] == "12"
    assert wire.ask(reversal(voided))["39"] == "00"
    assert second.net() == stats["net"]["156"] == 1000 + 1505
    assert wire.ask(reversal(void))["39"] == "00"
    assert second.net() == 1000 + 1505 + 5000
    assert wire.ask(reversal(kept))["39"] == "00"
    assert second.net() == 1505 + 5000
    assert [json.loads(line)["seq"] for line in second.book.read_text().splitlines()] == list(range(1, second.stats()["book_lines"] + 1))


def test_kill_9_under_load_never_loses_the_book_line_of_an_answer(start):
    stub = start()
    wire = stub.wire()
    answered, sent = set(), 0
    for _ in range(40):
        wire.send(*(purchase() for _ in range(25)))
        sent += 25
        answered.add(wire.answer()["11"])
    stub.process.kill()
    while body := wire.raw():
        answered.add(iso8583.decode(body, default_ascii)[0]["11"])
    lines = map(json.loads, stub.book.read_text().rpartition("\n")[0].splitlines())
    decided = {line["key"][13:19] for line in lines if line["kind"] == "decision"}
    assert 40 <= len(answered) <= sent and answered <= decided


async def exchange(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


async def test_no_answer_leaves_before_the_fsync_of_its_line_and_what_gathers_meanwhile_shares_the_next(tmp_path, monkeypatch):
    synced: list[int] = []
    path = tmp_path / "book"

    def slow_disk(file: int) -> None:
        size = os.fstat(file).st_size
        time.sleep(0.15)
        synced.append(path.read_bytes()[:size].count(b"\n"))

    monkeypatch.setattr(os, "fdatasync", slow_disk)
    known, book = Known(), Book(path, fast=False)
    book.open(known)
    host = Host(book, known)
    reader, writer = await asyncio.open_connection("127.0.0.1", await host.start("127.0.0.1", 0))
    writer.write(packed(purchase()))
    await asyncio.sleep(0.05)
    writer.write(b"".join(packed(purchase()) for _ in range(9)))
    for number in range(1, 11):
        await exchange(reader)
        assert synced and synced[-1] >= 2 * number
    assert synced == [2, 20]
    writer.close()
    await host.stop()


async def test_a_stop_during_an_fsync_waits_for_it_and_sends_what_it_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fdatasync", lambda file: time.sleep(0.15))
    known, book = Known(), Book(tmp_path / "book", fast=False)
    book.open(known)
    host = Host(book, known)
    reader, writer = await asyncio.open_connection("127.0.0.1", await host.start("127.0.0.1", 0))
    writer.write(packed(purchase()))
    await asyncio.sleep(0.05)
    await host.stop()
    assert b"0210" in await exchange(reader)
    assert await reader.read() == b""
    writer.close()


async def test_a_disk_that_fails_ends_the_host_without_an_answer(tmp_path, monkeypatch):
    def failing(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    known, book, failures = Known(), Book(tmp_path / "book", fast=False), []
    book.open(known)
    book.failed = failures.append
    host = Host(book, known)
    reader, writer = await asyncio.open_connection("127.0.0.1", await host.start("127.0.0.1", 0))
    writer.write(packed(purchase()))
    await asyncio.sleep(0.1)
    assert [error.errno for error in failures] == [5]
    await host.stop()
    assert await reader.read() == b""
    writer.close()


# --- limits --------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
async def host(tmp_path):
    known, book = Known(), Book(tmp_path / "book", fast=True)
    book.open(known)
    host = Host(book, known)
    host.port = await host.start("127.0.0.1", 0)
    yield host
    await host.stop()


async def test_a_host_that_owes_too_many_answers_stops_reading_until_they_are_out(host, monkeypatch):
    monkeypatch.setattr("acquirer_stubs.host.OWED_ANSWERS_MAX", 10)
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    host.delay = 0.3
    for _ in range(20):
        writer.write(packed(purchase()))
        await asyncio.sleep(0.005)
    assert host.known.received["0200"] == 10
    for _ in range(20):
        await exchange(reader)
    writer.close()


async def test_a_peer_that_does_not_read_its_answers_is_not_read_from_and_loses_none(host):
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port, limit=1024)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    writer.write(packed(purchase()))
    await exchange(reader)
    (line,) = host.lines
    line.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    line.transport.set_write_buffer_limits(4096)
    writer.transport.pause_reading()
    for _ in range(3000):
        writer.write(packed(purchase()))
    while not line.choked:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not line.reading and host.known.received["0200"] < 3000
    writer.transport.resume_reading()
    for _ in range(3000):
        await exchange(reader)
    writer.close()


async def test_a_half_open_line_is_not_read_so_that_the_peers_window_fills(host):
    _, writer = await asyncio.open_connection("127.0.0.1", host.port)
    host.faults.ordered.append(parse({"match": "any", "action": "half_open"}))
    writer.write(packed(purchase()))
    while not (line := next(iter(host.lines), None)) or not line.hung:
        await asyncio.sleep(0.01)
    writer.write(packed(purchase()))
    await asyncio.sleep(0.05)
    assert (line.reading, line.rest, host.known.received["0200"]) == (False, b"", 1)
    writer.close()


async def test_lines_beyond_the_maximum_are_closed_at_once(host, monkeypatch):
    monkeypatch.setattr("acquirer_stubs.host.LINES_MAX", 1)
    first = await asyncio.open_connection("127.0.0.1", host.port)
    second = await asyncio.open_connection("127.0.0.1", host.port)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await second[0].readexactly(1)
    first[1].write(packed(purchase()))
    assert b"0210" in await exchange(first[0])
    first[1].close()
    second[1].close()


@pytest.mark.parametrize("request_bytes, status", [
    (b"GET /stats\r\n\r\n", b"400"), (b"POST /faults HTTP/1.1\r\nContent-Length: +5\r\n\r\n", b"400"),
    (b"GET /stats HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"), (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
    (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"413"), (b"POST /host HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
    (b"POST /host HTTP/1.1\r\nContent-Length: 5\r\n\r\n{", b""), (b"GET /sta", b""), (b"\xff\x00\r\n\r\n", b"400")])
async def test_odd_and_unfinished_http_is_refused_or_closed_in_time(host, monkeypatch, request_bytes, status):
    monkeypatch.setattr("acquirer_stubs.control.REQUEST_SECONDS_MAX", 0.1)
    control = Control(host)
    reader, writer = await asyncio.open_connection("127.0.0.1", await control.start(0))
    writer.write(request_bytes)
    assert (await asyncio.wait_for(reader.read(), 2)).partition(b" ")[2][:3] == status
    writer.close()
    control.stop()


def test_a_damaged_line_in_the_middle_stops_the_start(start, tmp_path):
    stub = start("--fast")
    stub.wire().ask(purchase())
    assert stub.end() == 0
    damaged = b"{}\n" + stub.book.read_bytes()
    stub.book.write_bytes(damaged)
    with pytest.raises(BookError, match="line 1 is damaged"):
        Book(stub.book, fast=True).open(Known())
    assert stub.book.read_bytes() == damaged


# --- the process ---------------------------------------------------------------------------------------------------------------------

def command(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "acquirer_stubs", *options], capture_output=True, text=True, timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_cleanly_with_open_and_half_open_lines(start, number):
    stub = start("--fast")
    wire, hung = stub.wire(), stub.wire()
    assert wire.ask(purchase())["39"] == "00"
    stub.fault("any", "half_open")
    hung.send(purchase())
    assert hung.silent(0.05)
    stub.process.send_signal(number)
    assert stub.process.wait(5) == 0
    assert (stub.process.stdout.read(), stub.process.stderr.read()) == ("", "")
    assert wire.raw() == b""
    stub.end()


def test_a_taken_port_and_a_taken_book_are_one_line_and_exit_1(start, tmp_path):
    stub = start("--fast")
    taken = (["--port", str(stub.port)], ["--control-port", stub.ready["control_url"].rpartition(":")[2]])
    results = [command("--book", str(tmp_path / "other"), *options) for options in taken]
    results += [command("--book", str(stub.book)), command("--book", str(tmp_path / "no" / "book")), command("book", str(tmp_path / "no"))]
    for result, text in zip(results, ("cannot listen", "cannot listen", "another host", "No such file", "No such file"), strict=True):
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert text in result.stderr


def test_it_ends_with_its_parent(tmp_path):
    program = ("import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'acquirer_stubs', '--fast', '--die-with-parent', "
               f"'--book', {str(tmp_path / 'book')!r}], stdout=subprocess.PIPE); child.stdout.readline(); print(child.pid, flush=True); "
               "sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/status").exists() and "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_book_command_prints_the_net_effect_of_every_transaction(start):
    stub = start("--fast")
    wire = stub.wire()
    sale, undone, held, declined = purchase(1000), purchase(2000), purchase(3000, t="0100"), purchase(4005)
    for message in (sale, undone, held, declined, reversal(undone), sale | {"t": "0201"}, network("301")):
        wire.ask(message)
    running = command("book", str(stub.book))
    assert stub.end() == 0
    result = command("book", str(stub.book))
    assert running.stdout == result.stdout
    *rows, totals = map(json.loads, result.stdout.splitlines())
    money = {row["rrn"]: (row["net"], row["held"], row["code"]) for row in rows}
    assert money == {sale["37"]: (1000, 0, "00"), undone["37"]: (0, 0, "00"), held["37"]: (0, 3000, "00"), declined["37"]: (0, 0, "05")}
    assert totals == {"totals": {"net": {"156": 1000}, "held": {"156": 3000}}}
    assert effects(stub.book)[sale["37"], "TERM0001", "156"] == (1000, 0, "00")
