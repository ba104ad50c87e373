"""The plug-in interface: what the switch makes of what a host says or does, whatever that is; and how a plug-in is found."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from messages.dialect import build
from messages.grammar import QueryRule
from switch import acquirers
from switch.errors import StartError
from switch.links import Bounced, LinkSettings, Reply, Silence, Unmatched
from switch.plug_ins import DECLINES, VERBS, WORDS, Account, Answer, Asked, Leave, Option, PlugIn, Said, Unknown, Unsent, option_faults, orders
from switch.plug_ins.link import PlugInLink

ORDER, PART = "0192f0c47c1e7aaa8bbb1234567890ab", "0192f0c47c1e7aaa8bbb1234567890ac"
PAY = {"0": "0200", "3": "000000", "4": "000000001250", "11": "000001", "22": "032", "24": "100", "41": "T0000001", "42": "M00000000000001", "49": "156", "59": "134567890123456782",
       "61": ORDER, "62": ORDER}
Script = Callable[[Asked, Leave], Awaitable[Said]]


class Toy:
    """A host of somebody else's: it does what the test says."""

    def __init__(self, script: Script) -> None:
        self.script, self.asked, self.reachable, self.closed = script, [], True, False

    async def reach(self) -> None:
        if not self.reachable:
            raise ConnectionRefusedError

    async def ask(self, asked: Asked, leave: Leave, now: datetime) -> Said:
        self.asked.append(asked)
        return await self.script(asked, leave)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def line(script: Script, *, may_write: Callable[[], bool] = lambda: True, window: int = 8) -> AsyncIterator[tuple[PlugInLink, Toy, list[Unmatched]]]:
    toy, evidence = Toy(script), list[Unmatched]()
    plug_in = PlugIn("toy", VERBS, lambda account: toy, {})
    link = PlugInLink("a", "toy", orders.dialect(plug_in), LinkSettings("127.0.0.1", 1, window=window, backoff_min=0.01, backoff_max=0.05), plug_in,
                      Account("toy", "127.0.0.1", 1, {}), 90, on_unmatched=evidence.append, on_state=lambda *_: None, may_write=may_write)
    link.start()
    async with asyncio.timeout(5):
        while not link.usable():
            await asyncio.sleep(0.001)
    try:
        yield link, toy, evidence
    finally:
        await link.close()


def deadlines(send: float = 1.0, answer: float = 1.0) -> dict[str, float]:
    now = asyncio.get_running_loop().time()
    return {"send_not_after": now + send, "deadline": now + answer}


def says(word: str = "paid", **changed: Any) -> Script:
    async def script(asked: Asked, leave: Leave) -> Said:
        assert leave()
        return Answer(**{"word": word, "order": asked.order, "part": asked.part, "amount": asked.amount, "currency": asked.currency, **changed})

    return script


async def test_a_sale_is_asked_in_words_and_its_answer_is_a_message() -> None:
    async with line(says(reference="W-1")) as (link, toy, _):
        result = await link.request(PAY, **deadlines())
        assert toy.asked == [Asked("pay", ORDER, None, 1250, "CNY", "M00000000000001", "T0000001", "134567890123456782", 90)]
        assert isinstance(result, Reply) and result.message == {"0": "0210", "3": "000000", "4": "000000001250", "39": "00", "41": "T0000001", "42": "M00000000000001", "48": "W-1",
                                                                "49": "156", "61": ORDER, "62": ORDER}
        assert "134567890123456782" not in repr(toy.asked)


@pytest.mark.parametrize(("changed", "field"), [({"order": "0" * 32}, "order"), ({"amount": 1251}, "amount"), ({"currency": "USD"}, "currency"), ({"part": PART}, "part")])
async def test_an_answer_about_something_else_is_unknown_and_evidence(changed: dict[str, Any], field: str) -> None:
    async with line(says(**changed)) as (link, _, evidence):
        result = await link.request(PAY, **deadlines())
        await asyncio.sleep(0)
        assert isinstance(result, Silence) and result.reason == "unreadable"
        assert [(each.reason, each.field, each.match_key is not None) for each in evidence] == [("differs", field, True)]


@pytest.mark.parametrize("word", ["done", "cancelled", "delighted", ""])
async def test_a_word_that_is_no_answer_to_the_question_is_unknown(word: str) -> None:
    async with line(says(word)) as (link, _, _evidence):
        result = await link.request(PAY, **deadlines())
        assert isinstance(result, Silence)


async def raises(asked: Asked, leave: Leave) -> Said:
    leave()
    raise RuntimeError("somebody else's fault")


async def raises_before(asked: Asked, leave: Leave) -> Said:
    raise RuntimeError


async def lies(asked: Asked, leave: Leave) -> Said:
    leave()
    return Unsent("not_connected")


async def sleeps(asked: Asked, leave: Leave) -> Said:
    leave()
    await asyncio.sleep(60)
    return Unknown("timeout")


async def sleeps_before(asked: Asked, leave: Leave) -> Said:
    await asyncio.sleep(60)
    return Unsent("busy")


async def answers_unasked(asked: Asked, leave: Leave) -> Said:
    return Answer("paid", asked.order, asked.part, asked.amount, asked.currency)


@pytest.mark.parametrize(("script", "expected"), [
    (raises, ("Silence", "line_lost")), (raises_before, ("Bounced", "line_down")), (lies, ("Silence", "line_lost")), (sleeps, ("Silence", "timeout")),
    (sleeps_before, ("Bounced", "too_late")), (answers_unasked, ("Bounced", "not_encodable")),
])
async def test_whatever_a_plug_in_does_what_left_is_unknown_and_the_rest_was_not_sent(script: Script, expected: tuple[str, str]) -> None:
    async with line(script) as (link, _, _evidence):
        result = await link.request(PAY, **deadlines(answer=0.2))
        assert (type(result).__name__, result.reason) == expected  # type: ignore[union-attr]


async def refused_leave(asked: Asked, leave: Leave) -> Said:
    return Unknown("timeout") if leave() else Unsent(leave.refusal)


async def test_nothing_leaves_without_a_lease_or_after_its_time() -> None:
    async with line(refused_leave, may_write=lambda: False) as (link, _, _evidence):
        assert await link.request(PAY, **deadlines()) == Bounced("lease_lost")
    async with line(refused_leave) as (link, _, _evidence):
        assert await link.request(PAY, **deadlines(send=-0.1)) == Bounced("too_late")


async def test_the_window_and_the_drain_bound_what_is_in_flight() -> None:
    async with line(sleeps, window=1) as (link, _, _evidence):
        first = asyncio.ensure_future(link.request(PAY, **deadlines(answer=0.3)))
        await asyncio.sleep(0)
        assert await link.request(PAY, **deadlines()) == Bounced("window_full")
        draining = asyncio.ensure_future(link.drain(5))
        await asyncio.sleep(0)
        assert await link.request(PAY, **deadlines()) == Bounced("draining")
        assert isinstance(await first, Silence)
        await draining
        assert link.state == "down"
        await link.up()
        async with asyncio.timeout(5):
            while link.state != "up":
                await asyncio.sleep(0.001)


async def test_a_host_that_is_lost_is_tried_again_until_it_is_there() -> None:
    async with line(lies) as (link, toy, _evidence):
        toy.reachable = False
        await link.request(PAY, **deadlines())
        assert link.state != "up" and await link.request(PAY, **deadlines()) == Bounced("line_down")
        await asyncio.sleep(0.1)
        assert link.state in ("disconnected", "connecting") and link.last_error == "not connected: ConnectionRefusedError"
        toy.reachable = True
        async with asyncio.timeout(5):
            while not link.usable():
                await asyncio.sleep(0.001)
    assert toy.closed


def test_every_word_and_reason_has_a_code_that_the_dialect_knows() -> None:
    dialect = build(orders.LITERAL)
    assert set(orders.CODE_OF) == (WORDS - {"declined"}) | set(DECLINES)
    assert set(orders.CODE_OF.values()) <= set(dialect.codes)
    assert {orders.MESSAGES[name] for name in dialect.messages} == VERBS == set(orders.VERB_OF.values())


def test_what_a_plug_in_cannot_do_is_not_offered() -> None:
    dialect = orders.dialect(PlugIn("small", frozenset({"pay", "query", "cancel"}), lambda account: Toy(raises), {}))
    assert set(dialect.messages) == {"purchase.single", "query", "reversal"}


OPTIONS = {"client": Option("letters", "[a-z]{1,8}"), "size": Option("a digit", "[0-9]", "1")}


@pytest.mark.parametrize(("given", "fields"), [
    ({"client": "shop"}, []), ({"client": "shop", "size": "2"}, []), ({}, ["options.client"]), ({"client": "SHOP"}, ["options.client"]),
    ({"client": "shop", "size": "22"}, ["options.size"]), ({"client": "shop", "colour": "x"}, ["options.colour"]), ({"client": "shop\n"}, ["options.client"]),
])
def test_options_are_checked_by_their_forms(given: dict[str, str], fields: list[str]) -> None:
    assert [field for field, _ in option_faults(OPTIONS, given)] == fields


@pytest.mark.parametrize(("host", "options", "secret", "fields"), [
    ("127.0.0.1", {"client": "c", "scheme": "http"}, b"x" * 16, []), ("wallet.example", {"client": "c"}, b"x" * 16, []),
    ("wallet.example", {"client": "c", "scheme": "http"}, b"x" * 16, ["options.scheme"]), ("wallet.example", {"client": "c"}, b"short", ["secret"]),
    ("wallet.example", {"client": "c"}, b"", ["secret"]), ("wallet.example", {}, b"x" * 16, ["options.client"]),
    ("wallet.example", {"client": "c", "qr_guid": "com.example"}, b"x" * 16, []), ("wallet.example", {"client": "c", "qr_guid": "é"}, b"x" * 16, ["options.qr_guid"]),
    ("wallet.example", {"client": "c", "pay_within_s": "9"}, b"x" * 16, ["options.pay_within_s"]), ("wallet.example", {"client": "c", "connections": "513"}, b"x" * 16, ["options.connections"]),
])
def test_an_account_at_a_wallet_is_checked(host: str, options: dict[str, str], secret: bytes, fields: list[str]) -> None:
    assert [field for field, _ in acquirers.faults("qr_wallet", Account("a", host, 443, options, secret))] == fields


def test_an_iso_acquirer_has_no_secret_and_only_common_options() -> None:
    assert acquirers.faults("iso87_ascii", Account("a", "h", 1, {"qr_guid": "com.example"})) == []
    assert [field for field, _ in acquirers.faults("iso87_ascii", Account("a", "h", 1, {"client": "c"}, b"secret"))] == ["options.client", "secret"]


def test_the_payers_time_is_the_one_that_the_wallet_is_told() -> None:
    assert acquirers.query_rule("qr_wallet", {}).limit_s == 90
    assert acquirers.query_rule("qr_wallet", {"pay_within_s": "30"}) == QueryRule(1.0, 5.0, 30)
    assert acquirers.query_rule("iso87_ascii", {}) == QueryRule()


def test_an_account_does_not_show_its_secret() -> None:
    assert "hush" not in repr(Account("a", "h", 1, {}, b"hush hush hush hush"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Makes a distribution with one entry point in our group, as an installer would."""
    def install(name: str, source: str) -> None:
        (tmp_path / "guest_wallet.py").write_text(source)
        info = tmp_path / "guest_wallet-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest-wallet\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{acquirers.GROUP}]\n{name} = guest_wallet:PLUG_IN\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        acquirers.plug_ins.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop("guest_wallet", None)
    acquirers.plug_ins.cache_clear()


GUEST = """
from switch.plug_ins import PlugIn
PLUG_IN = PlugIn("guest", frozenset({VERBS}), lambda account: None, {})
"""


def test_a_plug_in_is_found_by_its_entry_point(installed: Callable[[str, str], None]) -> None:
    installed("guest", GUEST.replace("VERBS", '"pay", "query", "cancel", "refund"'))
    assert set(acquirers.plug_ins()) == {"qr_wallet", "guest"}
    dialect = acquirers.load("guest")
    assert dialect.name == "guest" and dialect.asks and "refund" in dialect.messages and "void" not in dialect.messages


@pytest.mark.parametrize(("name", "source", "says"), [
    ("guest", "raise RuntimeError", "cannot be loaded: RuntimeError"), ("guest", "", "cannot be loaded: AttributeError"), ("guest", "PLUG_IN = 7", "is no PlugIn of that name"),
    ("other", GUEST.replace("VERBS", '"pay", "query", "cancel"'), "is no PlugIn of that name"), ("guest", GUEST.replace("VERBS", '"pay", "cancel"'), "must offer cancel, pay, query"),
    ("guest", GUEST.replace("VERBS", '"pay", "query", "cancel", "dance"'), "must offer"),
    ("iso87_ascii", GUEST.replace("guest", "iso87_ascii").replace("VERBS", '"pay", "query", "cancel"'), "has the name of a dialect"),
])
def test_one_that_cannot_be_used_stops_the_start_with_one_line(installed: Callable[[str, str], None], name: str, source: str, says: str) -> None:
    installed(name, source)
    with pytest.raises(StartError, match=says) as refused:
        acquirers.plug_ins()
    assert "\n" not in str(refused.value)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LookupError, match=r"qr_wallet.*unionpay_pos"):
        acquirers.load("nowhere")
