"""MACs of a line, at invented instants: what leaves has one, what comes without the right one says nothing, and the line signs on anew in time."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from messages.codec import decode, encode
from messages.dialect import LITERALS, Dialect, build, faults, load
from messages.framing import frame
from messages.mac import NONE, carried, covered, placed
from messages.sheet import sheet
from switch.links import Bounced, LinkSettings, Reply, Settled, Silence, Unmatched
from switch.links.protocol import LinkProtocol
from switch.links.sealing import HELD_MAX, KEY_NEWS_S, Sealing

CUP = load("unionpay_pos")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
REQUEST = {"0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000001000", "11": "000101", "14": "3012", "22": "021", "25": "00",
           "41": "T0000001", "42": "M00000000000001", "49": "156", "60": "2226030100060"}


class Keys:
    """Keys of a test: a MAC is a keyed digest, so that this file tests the line and nothing of ciphers."""

    def __init__(self, *good: bytes, needed: bool = True, length: int = 8) -> None:
        self.good, self.needed, self.refusal, self.told = list(good), needed, None, []  # type: ignore[var-annotated]
        self.length = length

    def required(self) -> bool:
        return self.needed

    def ready(self) -> bool:
        return not self.needed or bool(self.good)

    def mac(self, data: bytes) -> bytes:
        return digest(self.good[0], data)

    def right(self, data: bytes, mac: bytes) -> bool:
        return any(digest(key, data)[:self.length] == mac for key in self.good)

    def signed_in(self, content: str) -> str | None:
        self.told.append(content)
        return self.refusal


def digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=8).digest()


def answer(request: dict[str, str], key: bytes | None, code: str = "00", **changed: str) -> bytes:
    """A framed answer; `key` None: without a MAC."""
    message = {"0": f"{request['0'][:2]}10", **{number: request[number] for number in ("3", "4", "11", "41", "42", "49", "60")}, "37": "123456789012",
               "38": "A00001", "39": code} | {number[1:]: value for number, value in changed.items()}
    if key is None:
        return frame(CUP.framing, encode(CUP, message))
    payload = encode(CUP, {**message, "64": NONE})
    return frame(CUP.framing, placed(CUP, payload, digest(key, covered(CUP, payload))))


class Line:
    def __init__(self, keys: Keys | None, dialect: Dialect = CUP) -> None:
        stans = iter(f"{number:06d}" for number in range(900001, 999999))
        self.protocol = LinkProtocol("acq", dialect, LinkSettings("host.test", 5000), next_stan=lambda: next(stans), draw=lambda: 1.0, keys=keys)
        self.now = 0.0
        self.protocol.connected(self.now, self.utc)
        self.sign_on_answered()

    @property
    def utc(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def sign_on_answered(self, keys: str = "AB" * 40) -> None:
        asked = decode(CUP, self.protocol.take_output()[2:])
        said = {"0": "0810", **{number: asked[number] for number in ("11", "41", "42", "60")}, "39": "00", **({"62": keys} if keys else {})}
        self.protocol.receive(frame(CUP.framing, encode(CUP, said)), self.now, self.utc)

    def request(self, message: dict[str, str] = REQUEST) -> Any:
        return self.protocol.request(message, message["11"], self.now, self.utc, self.now + 2, self.now + 30)

    def receive(self, data: bytes) -> list[Any]:
        self.protocol.receive(data, self.now, self.utc)
        return self.protocol.take_events()

    def later(self, seconds: float) -> list[Any]:
        self.now += seconds
        self.protocol.tick(self.now, self.utc)
        return self.protocol.take_events()


def test_what_leaves_has_its_mac_at_the_end_over_all_before_it_and_the_header_is_not_in_it() -> None:
    sent = Line(Keys(b"one")).request()
    message = decode(CUP, sent[2:])
    assert sent[-8:] == digest(b"one", sent[2 + 11:-8])
    assert {number: value for number, value in message.items() if number not in ("h", "64")} == REQUEST
    assert message["64"] == sent[-8:].hex().upper()


def test_the_mac_of_a_text_dialect_is_hex() -> None:
    house = LITERALS["iso87_ascii"]
    dialect = build({
        **house, "fields": {number: field for number, field in house["fields"].items() if int(number) <= 64}, "network": {},
        "never_stored": tuple(number for number in house["never_stored"] if int(number) <= 64), "shown": "3 11",
        "network_rule": {"composed": {"11": "{stan}"}, "echoed": ("11",), "code": "3"}, "messages": {"purchase.single": ("0200", {"3": "000000"}, ()), "reversal": ("0400", {}, ())},
        "mac": ("64", "iso9797_3", ("1", "2"), "A0")})
    sent = Sealing(dialect, Keys(b"one")).write({"0": "0200", "3": "000000", "11": "000001"})
    assert sent[-16:].decode() == digest(b"one", sent[:-16]).hex().upper()
    assert dialect.mac is not None and carried(dialect, "0200") is dialect.mac and carried(dialect, "0800") is None


def test_without_keys_nothing_has_a_mac_and_nothing_needs_one() -> None:
    for keys in (None, Keys(needed=False)):
        line = Line(keys)
        assert "64" not in decode(CUP, line.request()[2:])
        (settled,) = line.receive(answer(REQUEST, None))
        assert isinstance(settled.result, Reply)


def test_an_answer_with_the_right_mac_settles_its_request() -> None:
    line = Line(Keys(b"one"))
    line.request()
    (settled,) = line.receive(answer(REQUEST, b"one"))
    assert isinstance(settled.result, Reply)


@pytest.mark.parametrize("key", [None, b"another"], ids=["missing", "wrong"])
@pytest.mark.parametrize("code", ["00", "51", "A0"])
def test_an_answer_without_the_right_mac_is_in_doubt_whatever_it_says(key: bytes | None, code: str) -> None:
    line = Line(Keys(b"one"))
    line.request()
    assert line.receive(answer(REQUEST, key, code)) == []  # news of keys may be on their way
    assert line.later(KEY_NEWS_S / 2) == []
    unmatched, settled = line.later(KEY_NEWS_S)
    assert isinstance(unmatched, Unmatched) and (unmatched.reason, unmatched.field) == ("bad_mac", "64")
    assert settled.result == Silence("bad_mac", START)


def test_an_answer_under_a_key_that_comes_a_moment_later_is_believed() -> None:
    keys = Keys(b"one")
    line = Line(keys)
    line.request()
    assert line.receive(answer(REQUEST, b"two")) == []
    keys.good = [b"two", b"one"]
    (settled,) = line.later(0.025)
    assert isinstance(settled, Settled) and isinstance(settled.result, Reply)
    assert line.later(KEY_NEWS_S * 2) == []


def test_a_change_of_one_byte_is_a_wrong_mac() -> None:
    sound = answer(REQUEST, b"one")
    changed = bytearray(sound)
    changed[sound.index(b"A00001") + 5] ^= 1
    line = Line(Keys(b"one"))
    line.request()
    line.receive(bytes(changed))
    assert [type(event) for event in line.later(KEY_NEWS_S)] == [Unmatched, Settled]


def test_a_late_answer_without_the_right_mac_is_not_told_as_late() -> None:
    line = Line(Keys(b"one"))
    line.request()
    assert [event.result.reason for event in line.later(30)] == ["timeout"]
    line.receive(answer(REQUEST, b"another"))
    assert [event.reason for event in line.later(KEY_NEWS_S)] == ["bad_mac"]
    assert [event.reason for event in line.receive(answer(REQUEST, b"one"))] == ["late"]


def test_no_more_is_held_than_there_is_room_for() -> None:
    sealing = Sealing(CUP, Keys(b"one"))
    assert [sealing.hold({"0": "0210"}, b"x" * 30, 0.0) for _ in range(HELD_MAX + 1)] == [True] * HELD_MAX + [False]


def test_a_line_that_must_have_keys_and_has_none_is_not_used() -> None:
    keys = Keys(b"one")
    line = Line(keys)
    keys.good = []
    assert not line.protocol.usable()
    assert line.request() == Bounced("line_down")


def test_a_request_that_left_without_a_mac_may_be_answered_without_one() -> None:
    keys = Keys(b"one", needed=False)
    line = Line(keys)
    line.request()
    keys.needed = True
    (settled,) = line.receive(answer(REQUEST, None))
    assert isinstance(settled.result, Reply)


def test_the_keys_of_a_sign_on_are_taken_and_refused_ones_keep_the_line_down() -> None:
    keys = Keys(b"one")
    assert Line(keys).protocol.phase == "up" and keys.told == ["AB" * 40]
    keys.refusal = "a check value differs"
    line = Line(keys)
    assert (line.protocol.phase, line.protocol.last_error) == ("signed_off", "sign-on without keys: a check value differs")
    keys.refusal = None
    line.later(20)
    assert line.protocol.phase == "signing_on"
    line.sign_on_answered()
    assert line.protocol.phase == "up"


def ask(line: Line, number: int, key: bytes | None, code: str) -> None:
    request = {**REQUEST, "11": f"{number:06d}"}
    line.now += 0.01
    line.request(request)
    line.receive(answer(request, key, code))


@pytest.mark.parametrize(("code", "times"), [("A0", 3), ("99", 3), ("77", 1)])
def test_the_line_signs_on_anew_after_so_many_answers_that_ask_for_it(code: str, times: int) -> None:
    line = Line(Keys(b"one"))
    for number in range(times):
        assert line.protocol.phase == "up"
        ask(line, number, b"one", code)
    assert line.protocol.phase == "signing_on"
    line.sign_on_answered()
    assert line.protocol.phase == "up"


def test_another_answer_in_between_begins_the_count_anew() -> None:
    line = Line(Keys(b"one"))
    for number, code in enumerate(("A0", "A0", "00", "A0", "A0")):
        ask(line, number, b"one", code)
    assert line.protocol.phase == "up"


def test_wrong_macs_count_as_errors_of_macs() -> None:
    line = Line(Keys(b"one"))
    for number in range(3):
        ask(line, number, b"another", "00")
    line.later(KEY_NEWS_S)
    assert line.protocol.phase == "signing_on"


def test_what_left_before_a_sign_on_does_not_make_another_one() -> None:
    line = Line(Keys(b"one"))
    requests = [{**REQUEST, "11": f"{number:06d}"} for number in range(8)]
    line.now += 1
    for request in requests:
        line.request(request)
    line.now += 1
    line.receive(answer(requests[0], b"one", "77"))
    line.now += 1
    line.sign_on_answered()
    for request in requests[1:]:
        line.receive(answer(request, b"one", "77"))
    assert line.protocol.phase == "up"


def test_a_line_whose_keys_work_goes_on_while_it_gets_new_ones() -> None:
    keys = Keys(b"one")
    line = Line(keys)
    for _ in range(2):  # the second asks nothing more
        line.protocol.sign_on(line.now, line.utc)
    assert line.protocol.usable()
    line.request()
    keys.good = [b"two", b"one"]
    line.sign_on_answered()
    assert keys.told == ["AB" * 40] * 2 and line.protocol.take_output() == b""
    (settled,) = line.receive(answer(REQUEST, b"one"))
    assert isinstance(settled.result, Reply)
    keys.good = []
    line.protocol.sign_on(line.now, line.utc)
    assert line.protocol.phase == "signing_on"


def test_a_line_that_signed_on_before_its_master_key_came_signs_on_again() -> None:
    keys = Keys(needed=False)
    line = Line(keys)
    assert line.protocol.usable()
    keys.needed = True
    assert not line.protocol.usable()
    line.later(0.025)
    assert line.protocol.phase == "signing_on"
    keys.good = [b"one"]
    line.sign_on_answered()
    assert line.protocol.usable()
    line.later(0.025)
    assert line.protocol.phase == "up"


def test_a_host_that_sends_keys_unasked_may_bring_none_with_a_sign_on() -> None:
    keys = Keys()
    sealing = Sealing(load("iso93_ascii"), keys)
    assert sealing.signed_on({"0": "1814", "39": "800"}, START) is None and keys.told == []
    assert not sealing.ready() and not sealing.keyless(), "it waits for them, and does not sign on at each tick"
    assert sealing.signed_on({"0": "1814", "39": "800", "96": "AB" * 40}, START) is None and keys.told == ["AB" * 40]
    assert Sealing(CUP, keys).signed_on({"0": "0810", "39": "00"}, START) is None and keys.told[1:] == [""], "elsewhere keys that do not come are missed"


# Two places for a MAC, and one of 4 bytes with zeros behind it (AS 2805.4, ANSI X9.9).


def as2805(length: int = 4, code: str = "binary") -> Dialect:
    house = LITERALS["iso87_ascii"]
    fields = house["fields"] | {number: (name, "b", 16, 0, {"code": code}) for number, name in (("64", "mac"), ("128", "mac_2"))}
    return build({**house, "fields": fields, "mac": (("64", "128"), "iso9797_1", ("1", "2", "4"), "98", length)})


SALE = {"0": "0200", "3": "000000", "4": "000000001000", "11": "000101", "41": "T0000001"}
CASES = [(SALE, "64"), ({**SALE, "60": "x"}, "64"), ({**SALE, "90": "0" * 42}, "128"), ({**SALE, "66": "1"}, "128")]


@pytest.mark.parametrize(("message", "number"), CASES)
@pytest.mark.parametrize("length", [4, 6, 8])
def test_the_mac_is_the_last_field_of_the_message_with_zeros_behind_its_left_bytes(message: dict[str, str], number: str, length: int) -> None:
    dialect = as2805(length)
    sealing = Sealing(dialect, Keys(b"one", length=length))
    sent = sealing.write(message)
    assert sent[-8:] == digest(b"one", sent[:-8])[:length] + bytes(8 - length)
    read = decode(dialect, sent)
    assert {key: value for key, value in read.items() if key not in message} == {number: sent[-8:].hex().upper()}
    assert not sealing.wrong(read, sent) and sealing.place(read) == number


@pytest.mark.parametrize(("message", "number"), CASES)
def test_another_byte_anywhere_in_it_or_behind_it_is_a_wrong_mac(message: dict[str, str], number: str) -> None:
    dialect = as2805()
    sealing = Sealing(dialect, Keys(b"one", length=4))
    sent = sealing.write(message)
    for at in range(1, 9):
        changed = sent[:-at] + bytes([sent[-at] ^ 1]) + (sent[-at + 1:] if at > 1 else b"")
        assert sealing.wrong(decode(dialect, changed), changed), f"byte {9 - at} of the MAC"
    bare = decode(dialect, sent)
    del bare[number]
    assert sealing.wrong(bare, encode(dialect, bare))


def test_a_mac_in_the_other_place_or_in_both_is_a_wrong_one() -> None:
    dialect = as2805(8)
    sealing = Sealing(dialect, Keys(b"one"))
    for message in (SALE, {**SALE, "64": NONE}, {**SALE, "64": NONE, "90": "0" * 42}):  # right at the end, in DE128
        payload = encode(dialect, {**message, "128": NONE})
        sealed = placed(dialect, payload, digest(b"one", covered(dialect, payload)))
        assert sealing.wrong(decode(dialect, sealed), sealed), message
    before = encode(dialect, {**SALE, "64": NONE})[:-8]  # right over all before it, and something behind it
    early = encode(dialect, {**SALE, "64": digest(b"one", before).hex().upper(), "90": "0" * 42})
    assert sealing.wrong(decode(dialect, early), early)


def test_where_binary_is_text_a_short_mac_is_hex_with_zeros() -> None:
    sent = Sealing(as2805(code="ascii"), Keys(b"one", length=4)).write(SALE)
    assert sent[-16:].decode() == digest(b"one", sent[:-16])[:4].hex().upper() + "00000000"


@pytest.mark.parametrize(("rule", "fault"), [
    ((("64", "127"), "cmac", ("2",), "98"), "mac: ('64', '127') are not one field, nor ('64', '128') written alike"),
    ((("128", "64"), "cmac", ("2",), "98"), "mac: ('128', '64') are not one field"), (((), "cmac", ("2",), "98"), "mac: () are not one field"),
    (("64", "cmac", ("2",), "98"), "mac: field 64 is not the last one"), ((("64", 128), "cmac", ("2",), "98"), "mac: field: 128 is not accepted"),
    (("128", "cmac", ("2",), "98", 3), "mac: bytes: 3 is not accepted; a whole number from 4 to 8"),
    (("128", "cmac", ("2",), "98", 9), "mac: bytes: 9"), (("128", "cmac", ("2",), "98", 4.0), "mac: bytes: 4.0"), (("128", "cmac", ("2",), "98", True), "mac: bytes"),
])
def test_a_place_or_a_length_that_cannot_be_is_a_fault(rule: tuple[object, ...], fault: str) -> None:
    found = faults({**LITERALS["iso87_ascii"], "mac": rule})
    assert any(fault in each for each in found), found


def test_both_places_are_written_alike() -> None:
    house = LITERALS["iso87_ascii"]
    fields = house["fields"] | {"64": ("mac", "b", 16, 0, {"code": "binary"})}
    assert any("written alike" in each for each in faults({**house, "fields": fields, "mac": (("64", "128"), "cmac", ("2",), "98")}))


def test_the_data_sheet_says_where_the_mac_is_and_how_long() -> None:
    assert "MAC in 64 or 128, iso9797_1, its left 4 bytes, of classes 1, 2, 4" in "\n".join(sheet(as2805()))
    assert "MAC in 64, unionpay_ecb, of classes" in "\n".join(sheet(CUP))
