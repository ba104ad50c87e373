"""`switch risk ...` as an operator types it, against a running switch: what each verb does, prints and ends with, and one line for every mistake."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from switch import logs
from switch.cli import _parser, main
from tests.flows import Shop, eventually, open_shop
from tests.processes import Ended
from tests.test_documented_commands import verbs
from tests.test_risk_flow import AMEX, MASTERCARD, VISA, till

Typed = Callable[..., Awaitable[Ended]]
NOBODY = "00000000-0000-7000-8000-000000000000"
VELOCITY = ("--kind", "velocity", "--action", "decline", "--subject", "card", "--window-s", "600")
SHOWN = {"add", "place", "limit", "block", "allow", "end", "list", "activate", "retire", "dismiss", "confirm", "try"}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("risk_commands")) as shop:
        yield shop


@pytest.fixture
def typed(shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Typed]:
    """`await typed("add", ...)`: the verb with the operator's key, unless it says another; what the running switch logs is not what it says."""
    before = logs.log.stream, logs.log.level
    monkeypatch.setenv("SWITCH_HOME", str(tmp_path))

    async def run(*words: str, key: str = "operator") -> Ended:
        capfd.readouterr()
        code = await asyncio.to_thread(main, ["risk", *words, "--url", shop.base, "--key", shop.keys[key]])
        said = capfd.readouterr()
        return Ended(code, said.out, "\n".join(line for line in said.err.splitlines() if not line.startswith("{")))

    yield run
    logs.log.stream, logs.log.level = before


async def done(typed: Typed, shop: Shop, *words: str) -> str:
    """What it prints when it ends with 0, known to the switch."""
    ended = await typed(*words)
    assert ended.code == 0 and ended.err == ("" if ended.out else "nothing is there by what was asked"), ended
    await shop.caught_up()
    return str(ended.out)


def test_every_verb_is_shown_here() -> None:
    assert set(verbs(verbs(_parser())["risk"])) == SHOWN


async def test_a_rule_is_added_as_a_draft_tried_switched_on_hit_reviewed_and_retired(shop: Shop, typed: Typed) -> None:
    name = await till(shop)
    merchant, begin = shop.shown(f"merchant.{name}"), datetime.now(UTC).isoformat()
    for amount in (1100, 1200):
        assert (await shop.pay(amount, key=name, card=VISA)).status == 201
    line = await done(typed, shop, "add", "--name", "Twice is much", *VELOCITY, "--count-max", "1", "--merchant", merchant, "--mccs", "5812,5411",
                      "--brands", "visa", "--entry-modes", "chip,manual")
    rule = line.split()[0]
    assert rule.startswith("rrl_")
    for words in ("state draft", "name Twice is much", "kind velocity", "action decline", f"merchant {merchant}", "mccs 5411,5812", "brands visa",
                  "entry_modes chip,manual", "subject card", "window_s 600", "count_max 1", "created_by Flow Tester"):
        assert words in line, line
    assert "activated_by" not in line and "amount_max" not in line, "what is not said is not shown"
    until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    tried = (await done(typed, shop, "try", "--activate", rule, "--from", begin, "--to", until, "--limit", "100")).splitlines()
    assert tried[0] == "2 sales" and tried[1].startswith("  before none 2") and tried[2].startswith("  after  none 1") and "decline 1" in tried[2]
    assert tried[3].split()[:4] == [rule, "decline", "1", "hits"] and tried[3].endswith("Twice is much")
    assert "12.00 CNY 411111" in tried[4] and tried[4].endswith("approved: 2 sales of one card within 10 minutes, more than 1")
    one = (await done(typed, shop, "try", "--activate", rule, "--from", begin, "--to", until, "--limit", "1")).splitlines()
    assert one[0] == "1 sales (the newest of more)"
    assert "state active" in await done(typed, shop, "activate", rule)

    async def refused() -> bool:
        return (await shop.pay(1300, key=name, card=VISA)).status == 403

    await eventually(refused, "what was sold before does not count")  # within a second: a new rule reads the books
    assert await refused()
    hits = (await done(typed, shop, "list", "hits", "--state", "open")).splitlines()
    mine = [line for line in hits if merchant in line]
    assert len(mine) == 2 and all(" sales of one card within 10 minutes, more than 1  merchant " in line for line in mine)
    assert VISA["pan"] not in "".join(mine) and "token" not in "".join(mine)
    for verb, word, hit in zip(("dismiss", "confirm"), ("dismissed", "confirmed"), [line.split()[0] for line in mine], strict=True):
        line = await done(typed, shop, verb, hit, "--reason", "The shop called")
        assert f"state {word}" in line and "reason The shop called" in line and "decided_by Flow Tester" in line
        again = await typed(verb, hit, "--reason", "Again")
        assert (again.code, again.out) == (2, "") and again.err.startswith("switch: refused with 409: "), again
    assert merchant not in await done(typed, shop, "list", "hits", "--state", "open")
    other = (await done(typed, shop, "add", "--name", "Thrice", *VELOCITY, "--count-max", "9", "--merchant", merchant)).split()[0]
    assert "state active" in await done(typed, shop, "activate", other, "--retires", rule)
    listed = (await done(typed, shop, "list", "rules")).splitlines()
    assert [(line.split()[0], f"state {state}" in line) for line, state in zip(listed[:2], ("active", "retired"), strict=True)] == [(other, True), (rule, True)]
    assert listed[1:] == (await done(typed, shop, "list", "rules", "--after", other)).splitlines()
    assert "state retired" in await done(typed, shop, "retire", other)
    assert (await shop.pay(1300, key=name, card=VISA)).status == 201


async def test_a_rule_may_be_in_force_at_once(shop: Shop, typed: Typed) -> None:
    name = await till(shop)
    line = await done(typed, shop, "add", "--name", "Night", "--kind", "night", "--action", "block", "--blocks", "terminal", "--time-from", "00:00",
                      "--time-until", "23:59", "--amount-min", "5000", "--currency", "CNY", "--merchant", shop.shown(f"merchant.{name}"), "--active")
    assert "state active" in line and "time_from 00:00" in line and "blocks terminal" in line
    assert (await shop.pay(4900, key=name, card=VISA)).status == 201
    assert (await shop.pay(5000, key=name, card=VISA)).status == 403
    assert (await shop.pay(4900, key=name, card=VISA)).status == 403, "the terminal is blocked"
    await done(typed, shop, "retire", line.split()[0])
    for kind in (("split", "--window-s", "600", "--count-max", "2", "--amount-max", "1000", "--basis-points", "500", "--currency", "CNY"),
                 ("relocated", "--window-s", "3600", "--distance-km", "50")):
        line = await done(typed, shop, "add", "--name", "Draft", "--action", "flag", "--kind", *kind)
        assert f"kind {kind[0]}" in line and f"{kind[-2].removeprefix('--').replace('-', '_')} {kind[-1]}" in line


async def test_a_merchant_is_limited_and_the_limit_takes_the_place_of_another(shop: Shop, typed: Typed) -> None:
    name = await till(shop)
    merchant = shop.shown(f"merchant.{name}")
    line = await done(typed, shop, "limit", merchant, "--currency", "CNY", "--per-sale", "1500", "--per-month", "50000")
    assert line.startswith("lim_") and "state active" in line and "per_sale 1500" in line and "per_month 50000" in line and "per_day" not in line
    assert (await shop.pay(1600, key=name, card=VISA)).status == 403
    twice = await typed("limit", merchant, "--currency", "CNY", "--per-day", "1")
    assert (twice.code, twice.out) == (2, "") and "refused with 409: One is in force already for the same" in twice.err
    draft = (await done(typed, shop, "limit", merchant, "--currency", "CNY", "--per-day", "90000", "--draft")).split()[0]
    assert (await shop.pay(1600, key=name, card=VISA)).status == 403
    await done(typed, shop, "activate", draft, "--retires", line.split()[0])
    assert (await shop.pay(1600, key=name, card=VISA)).status == 201
    assert (await done(typed, shop, "list", "limits")).splitlines()[0].startswith(draft)
    assert "state retired" in await done(typed, shop, "retire", draft)


async def test_cards_terminals_and_merchants_go_on_a_list_and_off_it(shop: Shop, typed: Typed) -> None:
    name = await till(shop)
    sold = (await shop.pay(1100, key=name, card=AMEX)).body["id"]
    (token,) = [row["token"] for row in await shop.sql("SELECT encode(pan_token, 'hex') AS token FROM transaction WHERE 'txn_' || transaction_id = $1", sold)]
    for verb, what, subject, card in (("block", sold, "card", AMEX), ("block", token, "card", AMEX), ("block", shop.shown(f"terminal.{name}"), "terminal", MASTERCARD),
                                      ("block", shop.shown(f"merchant.{name}"), "merchant", MASTERCARD)):
        line = await done(typed, shop, verb, what, "--reason", "Reported stolen")
        assert line.startswith("rle_") and f"subject {subject}" in line and f"verdict {verb}" in line and "reason Reported stolen" in line
        assert (await shop.pay(1200, key=name, card=card)).status == 403
        assert (await done(typed, shop, "list", "entries")).splitlines()[0].split()[0] == line.split()[0]
        assert "ended_by Flow Tester" in await done(typed, shop, "end", line.split()[0])
        assert (await shop.pay(1200, key=name, card=card)).status == 201
    allowed = (await done(typed, shop, "allow", sold, "--reason", "The owner's own")).split()[0]
    assert "verdict allow" in await done(typed, shop, "end", allowed)


async def test_a_store_is_given_its_place_in_degrees(shop: Shop, typed: Typed) -> None:
    store = shop.shown("store.second")
    for latitude, longitude, e6 in (("31.230416", "121.473701", (31_230_416, 121_473_701)), ("-33.8568", "-0.0000014", (-33_856_800, -1)), ("90", "180", (90_000_000, 180_000_000))):
        line = await done(typed, shop, "place", store, latitude, longitude)
        assert line.startswith(f"{store}  ") and f"latitude_e6 {e6[0]}  longitude_e6 {e6[1]}" in line, line


@pytest.mark.parametrize(("words", "named"), [
    (("add", "--name", "", "--kind", "amount", "--action", "flag"), "name: 1 to 120 printable characters"),
    (("add", "--name", "A", "--kind", "amount", "--action", "flag"), "amount_max: given, for the kind amount; currency: given, for the kind amount"),
    (("add", "--name", "A", *VELOCITY), "count_max: given, or amount_max"),
    (("add", "--name", "A", *VELOCITY, "--count-max", "1", "--amount-max", "5", "--currency", "CNY"), "amount_max: not given with count_max: make two rules"),
    (("add", "--name", "A", *VELOCITY, "--count-max", "1", "--mccs", "58"), "mccs: 1 to 100, each once: four digits"),
    (("add", "--name", "A", *VELOCITY, "--count-max", "1", "--entry-modes", "chip,smoke"), "entry_modes: 1 to 100, each once: one of: "),
    (("add", "--name", "A", *VELOCITY, "--count-max", "1", "--blocks", "card"), "blocks: given for the action block, and only then"),
    (("add", "--name", "A", *VELOCITY, "--count-max", "1", "--merchant", f"mer_{NOBODY}"), "refused with 404"),
    (("add", "--name", "A", "--kind", "night", "--action", "flag", "--time-from", "25:00", "--time-until", "06:00"), "time_from: a time of day, hh:mm"),
    (("add", "--name", "A", "--kind", "relocated", "--action", "flag", "--window-s", "60", "--distance-km", "50"), "window_s: at least 3600 for the kind relocated"),
    (("place", "sto_1", "1", "1"), "refused with 404"), (("place", f"sto_{NOBODY}", "1", "1"), "refused with 404"),
    (("place", f"sto_{NOBODY}", "90.000001", "1"), "latitude_e6: a whole number from -90000000 to 90000000"),
    (("limit", f"mer_{NOBODY}", "--currency", "CNY"), "per_sale: given, or per_day, or per_month"),
    (("limit", f"mer_{NOBODY}", "--currency", "CNY", "--per-day", "-1"), "per_day: a whole number from 0"),
    (("limit", f"mer_{NOBODY}", "--currency", "CNY", "--per-day", "1"), "refused with 404"),
    (("block", f"trm_{NOBODY}", "--reason", "Because"), "refused with 404"), (("block", f"mer_{NOBODY}", "--reason", "Because"), "refused with 404"),
    (("allow", f"txn_{NOBODY}", "--reason", "Because"), "refused with 404"), (("block", "a card", "--reason", "Because"), "token: "),
    (("allow", f"trm_{NOBODY}", "--reason", ""), "reason: "), (("end", f"rle_{NOBODY}"), "refused with 404"), (("end", "../rules"), "refused with 404"),
    (("list", "rules", "--after", "rrl_1"), "refused with 404"), (("activate", f"rrl_{NOBODY}"), "refused with 404"), (("activate", f"lim_{NOBODY}"), "refused with 404"),
    (("retire", "rrl_1"), "refused with 404"), (("dismiss", f"rht_{NOBODY}", "--reason", "No"), "refused with 404"),
    (("confirm", f"rht_{NOBODY}", "--reason", ""), "reason: "),
    (("try", "--activate", f"rrl_{NOBODY}", "--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z"), "refused with 404"),
    (("try", "--from", "2026-11-02T00:00:00Z", "--to", "2026-11-01T00:00:00Z"), "to: later than from"),
    (("try", "--from", "yesterday", "--to", "2026-11-01T00:00:00Z"), "from: "),
    (("try", "--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z", "--limit", "50001"), "limit: "),
])
async def test_what_the_switch_refuses_is_one_line_and_exit_2(typed: Typed, words: tuple[str, ...], named: str) -> None:
    refused = await typed(*words)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1), refused
    assert refused.err.startswith("switch: refused with 4") and named in refused.err, refused.err


async def test_a_step_that_was_taken_is_not_taken_again(shop: Shop, typed: Typed) -> None:
    rule = (await done(typed, shop, "add", "--name", "Once", *VELOCITY, "--count-max", "1000")).split()[0]
    await done(typed, shop, "retire", rule)
    assert "state retired" in await done(typed, shop, "retire", rule), "off twice is off"
    for words in (("activate", rule), ("try", "--retire", rule, "--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z")):
        refused = await typed(*words)
        assert refused.code == 2 and refused.err.startswith("switch: refused with 409: Only "), refused


async def test_only_an_operator_s_key_opens_them_and_a_switch_must_be_there(shop: Shop, typed: Typed, capfd: pytest.CaptureFixture[str]) -> None:
    for key in ("till", "merchant.one"):
        refused = await typed("list", "rules", key=key)
        assert refused.code == 2 and refused.err.startswith("switch: refused with 403: "), refused
    for url in ("http://127.0.0.1:1", "nonsense"):
        capfd.readouterr()
        assert await asyncio.to_thread(main, ["risk", "list", "rules", "--url", url, "--key", "k"]) == 2
        assert "check --url" in capfd.readouterr().err


@pytest.mark.parametrize("words", [
    (), ("explode",), ("list",), ("list", "cards"), ("list", "hits", "--state", "shut"), ("add",), ("add", "--name", "A", "--kind", "gut_feeling", "--action", "flag"),
    ("add", "--name", "A", "--kind", "amount", "--action", "shout"), ("add", "--name", "A", *VELOCITY, "--count-max", "many"), ("limit", "mer_1"),
    ("limit", "mer_1", "--currency", "CNY", "--per-sale", "1.50"), ("block", "txn_1"), ("allow",), ("end",), ("activate",), ("retire",), ("dismiss", "rht_1"),
    ("confirm",), ("try", "--from", "2026-11-01T00:00:00Z"), ("place", "sto_1", "31.2"), ("place", "sto_1", "31,2", "121.4"), ("place", "sto_1", "nan", "0"),
    ("place", "sto_1", "Infinity", "0"),
])
def test_words_that_make_no_verb_show_the_usage_and_end_with_2(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["risk", *words])
    said = capfd.readouterr()
    assert (ended.value.code, said.out) == (2, "") and said.err.startswith("usage: switch risk"), said


async def test_older_ones_are_named(shop: Shop, typed: Typed) -> None:
    await shop.sql("""INSERT INTO risk_rule (rule_id, name, kind, action, window_s, count_max, state, created_by)
                      SELECT gen_random_uuid(), 'Many', 'card_spread', 'flag', 60, 5, 'draft', 'A test' FROM generate_series(1, 201)""")
    ended = await typed("list", "rules")
    listed = ended.out.splitlines()
    assert (ended.code, len(listed)) == (0, 200) and ended.err == f"there are more: the same with --after {listed[-1].split()[0]}", ended.err
    assert (await done(typed, shop, "list", "rules", "--after", listed[-1].split()[0])).splitlines()
