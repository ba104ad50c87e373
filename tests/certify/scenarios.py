"""The scenarios, numbered as acquirers number them: what each shows, which dialects it applies to, and what must then be true in all books.

`needs(dialect)` gives the reason why a scenario does not apply, or nothing. A scenario that fails raises AssertionError.
"""

import asyncio
import secrets
from typing import Any

from loadtests.chip import MASTER, ChipCard
from messages.dialect import Dialect
from tests.certify.bench import SWIPED, Bench, eventually
from tests.certify.table import Scenario, Table, codes, field, purpose, verbs, verdicts
from tests.processes import CARD

AGAIN_S = 100.0  # a reversal that is answered "unknown" is asked again a minute later
SCENARIOS = Table()
scenario, absent = SCENARIOS.scenario, SCENARIOS.absent


async def undone(bench: Bench, amount: int, **changed: Any) -> dict[str, Any]:
    """A sale that the terminal is told did not happen, and that ends reversed with nothing left at the host."""
    before = await bench.stands()
    answer = await bench.pay(amount, **changed)
    assert answer.status == 202, answer.raw
    row = await bench.until(answer.body["id"], "reversed")
    assert await bench.stands() == before, "money is left at the host"
    return row


async def reversals_of(bench: Bench, amount: int) -> list[dict[str, Any]]:
    return [each for each in await bench.received(_4=f"{amount:012d}") if each["0"][1] == "4"]


@scenario(1, "sign-on, with the working keys where the host gives some", purpose("sign_on"))
async def sign_on(bench: Bench) -> None:
    assert await bench.line() == "up" and await bench.sign_ons()
    if bench.keyed:
        given = {each["purpose"] for each in await bench.crypto_keys(state="active", source="sign_in")}
        assert given == {"pin", "mac"}, "the sign-on brought no keys"
    before = {each["id"] for each in await bench.crypto_keys(purpose="mac")}
    answer = await bench.ask("POST", f"/v1/links/{bench.acquirer}/sign-on", key="operator")
    assert answer.status in (200, 202), answer.raw
    await bench.up()

    async def written() -> bool:
        """A line with keys stays up while it signs on anew, and what that brought is written down behind it."""
        return not bench.keyed or not {each["id"] for each in await bench.crypto_keys(purpose="mac")} <= before  # former ones are removed

    await eventually(written, "the sign-on brought no new keys", 20)


def unasked(dialect: Dialect) -> str:
    return "the host says nothing unasked" if dialect.header is not None and dialect.header.kind == "tpdu" else purpose("echo")(dialect)


@scenario(3, "echo: the host asks, and is answered", unasked)
async def echo(bench: Bench) -> None:
    await bench.act(echo=True)
    await bench.approved(1000)
    answered = [each for each in await bench.received() if each["0"][1:3] == "81"]
    assert answered, "the host's echo was not answered"


@scenario(5, "sign-off; nothing is sold until the next sign-on", purpose("sign_off"))
async def sign_off(bench: Bench) -> None:
    assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/down", key="operator")).status in (200, 202)
    await bench.up("down")
    answer = await bench.once(1500)
    assert (answer.status, answer.body["processed"]) == (503, False), answer.raw
    assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/up", key="operator")).status in (200, 202)
    await bench.up()
    await bench.approved(1500)


@scenario(6, "sales approved: chip, contactless, swiped, typed, fallback, by the payer's code where the dialect has one")
async def sales(bench: Bench) -> None:
    before = await bench.stands()
    for card in (CARD, {**CARD, "entry_mode": "contactless"}, SWIPED, {**CARD, "entry_mode": "manual"}, {**SWIPED, "entry_mode": "fallback"}):
        await bench.approved(1000, card=card)
    scanned = bench.dialect.qr_code is not None
    if scanned:
        await bench.approved(1000, card=None, qr={"code": "6212345678900000003"})
    assert await bench.stands() == before + 5000 + 1000 * scanned


@scenario(7, "declines 05 51 54 55 61 14")
async def declines(bench: Bench) -> None:
    before = await bench.stands()
    for ending in (5, 51, 54, 55, 61):
        answer = await bench.pay(2000 + ending)
        assert (answer.status, answer.body["status"], answer.body["approved_amount"]) == (201, "declined", 0), answer.raw
    await bench.order("code", "14")
    assert (await bench.pay(2100)).body["reason"] == "invalid_card_number"
    assert await bench.stands() == before


@scenario(8, "the card is to be kept: 41, 43")
async def capture_card(bench: Bench) -> None:
    for code, reason in (("41", "lost_card"), ("43", "stolen_card")):
        await bench.order("code", code)
        answer = await bench.pay(2200)
        assert (answer.body["status"], answer.body["reason"], answer.body["advice"]) == ("declined", reason, "capture_card"), answer.raw


@scenario(9, "referral 01")
async def referral(bench: Bench) -> None:
    answer = await bench.pay(2301)
    assert (answer.body["status"], answer.body["advice"]) == ("declined", "call_issuer"), answer.raw


@scenario(10, "a response code that nobody knows is doubt, and undone")
async def unknown_code(bench: Bench) -> None:
    await bench.order("code", "Z9", {"4": f"{2400:012d}"})
    row = await undone(bench, 2400)
    assert row["reason"] == "unknown_code", row


@scenario(11, "PIN: 55, then right; 75 locks", lambda dialect: field("52")(dialect) or codes("55", "75")(dialect) if dialect.name != "iso93_ascii" else "")
async def pin(bench: Bench) -> None:
    wrong = await bench.pay(2555, card=bench.pinned("4321"))
    assert (wrong.body["status"], wrong.body["advice"]) == ("declined", "enter_pin"), wrong.raw
    await bench.approved(2500, card=bench.pinned())
    await bench.order("code", "75")
    locked = await bench.pay(2600, card=bench.pinned())
    assert (locked.body["status"], locked.body["reason"]) == ("declined", "pin_tries_exceeded"), locked.raw


@scenario(12, "amounts: none, the largest, currencies with 0 and 3 decimals")
async def amounts(bench: Bench) -> None:
    for amount in (0, -1, 10**12):
        answer = await bench.pay(amount)
        assert answer.status == 422, answer.raw
    await bench.approved(999_999_999_900)
    for currency in ("JPY", "KWD"):
        assert (await bench.approved(1200, currency=currency))["currency"] == currency


@scenario(13, "no answer: the customer is told no, the sale is reversed with the keys of the original")
async def timeout(bench: Bench) -> None:
    await bench.order("silence", match={"4": f"{3100:012d}"})
    row = await undone(bench, 3100)
    (sent,) = [each for each in await bench.received(_4=f"{3100:012d}") if each["0"][1] != "4"]
    (reversal, *_) = await reversals_of(bench, 3100)
    same = ("3", "41", "42") + (("11",) if bench.dialect.reversal_stan == "original" else ())
    assert all(reversal[number] == sent[number] for number in same), (sent, reversal)
    assert row["reversal"]["state"] == "done"


@scenario(14, "the reversal is not answered either: repeated, also after kill -9, until it is")
async def repeated_reversal(bench: Bench) -> None:
    before = await bench.stands()
    await bench.order("silence", match={"4": f"{3200:012d}"}, count=3)  # the sale, and two transmissions of its reversal
    answer = await bench.pay(3200)
    assert answer.status == 202, answer.raw

    async def sent() -> bool:
        return bool(await reversals_of(bench, 3200))

    await eventually(sent, "no reversal was sent", 15)
    await asyncio.to_thread(bench.killed)
    await bench.until(answer.body["id"], "reversed", 40)
    said = [each["0"] for each in await reversals_of(bench, 3200)]
    assert len(said) >= 2, said
    assert (said[-1] != said[0]) == bench.dialect.repeat_mark, f"the repeats were {said}"
    assert await bench.stands() == before


@scenario(15, "the host does not know the original: asked again, and only then closed", beside=True)
async def unknown_original(bench: Bench) -> None:
    await bench.order("cut", "before", {"4": f"{3300:012d}"})
    answer = await bench.pay(3300, till="aside")  # never booked at the host, which therefore knows no original
    assert answer.status == 202, answer.raw
    await bench.up()
    bench.begun.set()
    row = await bench.until(answer.body["id"], "reversed", AGAIN_S)
    assert (row["reversal"]["closed_by"], row["reversal"]["transmissions"] >= 2) == ("not_found", True), row["reversal"]


async def late(bench: Bench, amount: int) -> None:
    exact = {"4": f"{amount:012d}"}
    await bench.order("late", bench.answer_ms / 1000 + 0.6, exact)
    answer = await bench.pay(amount)
    assert answer.status == 202, answer.raw

    async def recorded() -> bool:
        return any(each["transaction"] == answer.body["id"] and each["reason"] == "late" for each in await bench.unmatched())

    await bench.until(answer.body["id"], "reversed")
    await eventually(recorded, "the late answer is not told of its sale")
    assert (await bench.get(answer.body["id"]))["status"] == "reversed", "a late answer brought the sale back"


@scenario(16, "a late approval changes nothing: the reversal stands")
async def late_approval(bench: Bench) -> None:
    before = await bench.stands()
    await late(bench, 3400)
    assert await bench.stands() == before


@scenario(17, "a late decline is evidence")
async def late_decline(bench: Bench) -> None:
    await late(bench, 3451)


@scenario(18, "the line drops after the request, before a byte of the answer")
async def line_drop(bench: Bench) -> None:
    await bench.order("cut", match={"4": f"{3500:012d}"})
    await undone(bench, 3500)
    await bench.up()


@scenario(19, "the line drops in the middle of an answer")
async def half_an_answer(bench: Bench) -> None:
    await bench.order("cut", "middle", {"4": f"{3600:012d}"})
    await undone(bench, 3600)
    await bench.up()


@scenario(20, "the host is away: refused before anything is sent, up again by itself")
async def host_away(bench: Bench) -> None:
    before = await bench.stands()
    with bench.stub.one_at_a_time:
        bench.stub.process.kill()

    async def refused() -> bool:
        answer = await bench.once(3700)
        assert answer.status in (202, 503), answer.raw
        return answer.status == 503 and answer.body["processed"] is False

    await eventually(refused, "sales are not refused")
    bench.stub.revive()
    await eventually(lambda: asyncio.to_thread(bench.stub.up), "the stub does not come back", 20)
    await bench.up()
    await bench.approved(3700)
    assert await bench.stands() == before + 3700


@scenario(22, "an answer for another STAN, or another terminal, is nobody's")
async def another_answer(bench: Bench) -> None:
    for element in ("11", "41"):
        await bench.order("wrong", element, {"4": f"{3800 + int(element):012d}"})
        await undone(bench, 3800 + int(element))
    assert {each["field"] for each in await bench.unmatched()} & {"11", "41"}, "the report does not name the field"


@scenario(23, "an answer that comes twice counts once")
async def twice(bench: Bench) -> None:
    before = await bench.stands()
    await bench.order("duplicate", match={"4": f"{3900:012d}"})
    sold = await bench.approved(3900)

    async def recorded() -> bool:
        return any(each["reason"] == "duplicate" for each in await bench.unmatched())

    await eventually(recorded, "the second answer is not recorded")
    assert (await bench.get(sold["id"]))["status"] == "approved" and await bench.stands() == before + 3900


@scenario(24, "a request that comes twice gets the same answer, and is posted once")
async def same_key(bench: Bench) -> None:
    before, key = await bench.stands(), secrets.token_hex(16)
    first, *more = await asyncio.gather(*(bench.once(4000, key) for _ in range(5)))
    assert {(each.status, each.raw) for each in (first, *more)} == {(201, first.raw)}
    assert await bench.stands() == before + 4000


@scenario(25, "two terminals at once never share a STAN")
async def two_terminals(bench: Bench) -> None:
    sold = await asyncio.gather(*(bench.approved(4100, till=till) for till in ("till", "neighbour") * 10))
    assert len({each["stan"] for each in sold}) == 20


@scenario(26, "answers out of order on one line")
async def out_of_order(bench: Bench) -> None:
    await bench.order("delay", 0.5, {"4": f"{4200:012d}"})
    slow = asyncio.create_task(bench.approved(4200))
    await eventually(lambda: bench.received(_4=f"{4200:012d}"), "the first sale does not reach the host")
    fast = await bench.approved(4300, till="neighbour")
    assert not slow.done(), "the second answer waited for the first"
    assert ((await slow)["amount"], fast["amount"]) == (4200, 4300)


@scenario(27, "malformed answers: undecodable bytes, a length that nobody sends, an answer without its code or with another MTI")
async def malformed(bench: Bench) -> None:
    for at, (action, value) in enumerate((("garbage", None), ("garbage", "frame"), ("wrong", "-39"), ("wrong", "0"))):
        await bench.order(action, value, {"4": f"{4400 + at * 100:012d}"})
        await undone(bench, 4400 + at * 100)
        await bench.up()
    await bench.approved(4400)


@scenario(33, "a part is approved, and the terminal takes it", verdicts("partial"))
async def partial(bench: Bench) -> None:
    before = await bench.stands()
    answer = await bench.pay(5010, partial_approval="accept")
    assert (answer.status, answer.body["approved_amount"]) == (201, 2505), answer.raw
    assert await bench.stands() == before + 2505


@scenario(34, "a part is approved, and the terminal does not take it: reversed", verdicts("partial"))
async def partial_refused(bench: Bench) -> None:
    await undone(bench, 5110)


@scenario(35, "pre-authorization: captured in part and whole; more is refused; voided", verbs("preauthorization", "capture", "void"))
async def preauthorization(bench: Bench) -> None:
    held = await bench.approved(6000, type="preauthorization")
    if "increment" in bench.dialect.messages:
        assert (await bench.follow("increments", held["id"], {"amount": 1000})).status == 201
    assert (await bench.follow("captures", held["id"], {"amount": 9000})).status == 409
    assert (await bench.follow("captures", held["id"], {"amount": 5000})).status == 201
    whole = await bench.approved(6100, type="preauthorization")
    assert (await bench.follow("captures", whole["id"])).status == 201
    released = await bench.approved(6200, type="preauthorization")
    voided = await bench.follow("voids", released["id"])
    assert (voided.status, voided.body["status"]) == (201, "approved"), voided.raw


@scenario(36, "void; a void of what is voided", verbs("void"))
async def void(bench: Bench) -> None:
    before, sold = await bench.stands(), await bench.approved(6300)
    first = await bench.follow("voids", sold["id"])
    assert (first.status, first.body["status"]) == (201, "approved"), first.raw
    again = await bench.follow("voids", sold["id"])
    assert (again.status, again.body["code"]) == (409, "already_voided"), again.raw
    assert await bench.stands() == before


@scenario(37, "refunds: a part, the rest, and one too many", verbs("refund"))
async def refunds(bench: Bench) -> None:
    before, sold = await bench.stands(), await bench.approved(6400)
    assert (await bench.refund(sold["id"], 400)).status == 201
    assert (await bench.refund(sold["id"], 6000)).status == 201
    over = await bench.refund(sold["id"], 1)
    assert over.status == 409, over.raw
    assert await bench.stands() == before


@scenario(38, "balance inquiry", verbs("balance_inquiry"))
async def balance(bench: Bench) -> None:
    answer = await bench.pay(None, type="balance_inquiry")
    assert (answer.status, answer.body["status"], bool(answer.body["balances"])) == (201, "approved", True), answer.raw


@scenario(39, "cash advance, and cash back with a sale", verbs("cash_advance"))
async def cash(bench: Bench) -> None:
    before = await bench.stands()
    await bench.approved(7000, type="cash_advance")
    assert await bench.stands() == before + 7000
    answer = await bench.pay(7500, cashback_amount=2500)
    assert answer.status in (201, 422), answer.raw  # 422 where the dialect has no DE54 for it
    if answer.status == 201:
        assert (answer.body["status"], await bench.stands()) == ("approved", before + 14_500)


@scenario(40, "a tip on top", verbs("tip"))
async def tip(bench: Bench) -> None:
    terms = {"brand": "*", "mcc": "5812", "tip_basis_points": 1000}
    assert (await bench.ask("PUT", f"/v1/acquirers/{bench.acquirer}/terms", terms, "operator")).status == 200
    await asyncio.sleep(1.5)  # until every worker has read it
    sold = await bench.approved(8000)
    answer = await bench.follow("tips", sold["id"], {"tip_amount": 800})
    assert answer.status == 201, answer.raw


@scenario(41, "a sale approved offline is advised until it is answered", verbs("offline_sale"))
async def advice(bench: Bench) -> None:
    before = await bench.stands()
    await bench.order("silence", match={"4": f"{8100:012d}"})
    body = {"amount": 8100, "currency": "CNY", "card": CARD, "approval_code": "OFF123"}
    answer = await bench.ask("POST", "/v1/advices", body, Idempotency_Key=secrets.token_hex(16))
    assert (answer.status, answer.body["status"]) == (201, "accepted"), answer.raw
    await bench.until(answer.body["id"], "approved", 30)
    said = [each["0"] for each in await bench.received(_4=f"{8100:012d}")]
    assert len(said) == 2 and (said[0] != said[1]) == bench.dialect.repeat_mark, said
    assert await bench.stands() == before + 8100


async def close(bench: Bench, sales: list[int]) -> dict[str, Any]:
    path = f"/v1/terminals/{bench.terminals['neighbour']}/batches"
    totals = {"currency": "CNY", "sales_count": len(sales), "sales": sum(sales), "refunds_count": 0, "refunds": 0}
    made = await bench.ask("POST", path, {"totals": [totals]}, "neighbour", Idempotency_Key=secrets.token_hex(16))
    assert made.status == 201, made.raw

    async def answered() -> dict[str, Any] | None:
        shown = (await bench.ask("GET", f"{path}/{made.body['id']}", key="neighbour")).body
        return shown if all(each["state"] != "waiting" for each in shown["acquirers"]) else None

    found = await eventually(answered, "the host does not answer the batch", 30)
    assert found is not None
    return found


async def arranged(bench: Bench) -> None:
    """The host is told of batches; the one at hand is closed, whatever is in it."""
    told = await bench.ask("PUT", f"/v1/acquirers/{bench.acquirer}/batch-terms", {"forward": True}, "operator")
    assert told.status == 200, told.raw
    await close(bench, [])


@scenario(42, "chip: a right ARQC is approved with ARPC and scripts, a wrong one declined; an approval that the chip refuses is undone", field("55"))
async def chips(bench: Bench) -> None:
    before = await bench.stands()
    for version in (10, 18):
        chip = ChipCard(MASTER, CARD["pan"], version=version)
        for tag in ("71", "72"):
            await bench.order("script", tag)
            sold = await bench.approved(8800, card=chip.ask(8800))
            assert chip.takes(sold.get("emv")), "the card does not know its issuer"
        assert len(chip.scripts) == 2, chip.scripts
    stranger = ChipCard("13" * 16, CARD["pan"])
    wrong = await bench.pay(8800, card=stranger.ask(8800))
    assert (wrong.body["status"], wrong.body["reason"]) == ("declined", "security_violation"), wrong.raw
    assert await bench.stands() == before + 4 * 8800
    for how in ("wrong", "missing"):
        await bench.order("arpc", how)
        refused = await bench.approved(8900, card=chip.ask(8900))
        assert not chip.takes(refused.get("emv")), "the card takes any answer"
        told = await bench.follow("reversals", refused["id"], {"reason": "chip_declined"})
        assert (told.status, told.body["reason"]) == (202, "chip_declined"), told.raw
        await bench.until(refused["id"], "reversed")
    assert await bench.stands() == before + 4 * 8800


@scenario(44, "the terminal's batch is in balance", verbs("batch_close"))
async def in_balance(bench: Bench) -> None:
    await arranged(bench)
    await bench.approved(8200, till="neighbour")
    shown = await close(bench, [8200])
    assert (shown["in_balance"], [each["state"] for each in shown["acquirers"]]) == (True, ["in_balance"]), shown


def totals_as_87(bench: Bench) -> str:
    """The MTI of totals, as orders to a stub name it."""
    return f"0{bench.dialect.messages['batch_close'].mti[1:]}"


@scenario(45, "a batch is out of balance at the terminal, then at the host: it says by what, and is uploaded where the dialect can", verbs("batch_close"))
async def out_of_balance(bench: Bench) -> None:
    await arranged(bench)
    await bench.approved(8300, till="neighbour")
    shown = await close(bench, [8300, 100])
    assert (shown["in_balance"], shown["totals"][0]["difference"]["sales"]) == (False, 100), shown
    place, uploads = (bench.dialect.batch.told or ("39",))[-1].partition(".")[0], len(await bench.received(_0="0320"))
    await bench.order("wrong", place, {"0": totals_as_87(bench)})
    await bench.approved(8350, till="neighbour")
    shown = await close(bench, [8350])
    assert (shown["in_balance"], [each["state"] for each in shown["acquirers"]]) == (True, ["out_of_balance"]), shown
    if "batch_upload" in bench.dialect.messages:
        async def ended() -> bool:
            return len(await bench.received(_0="0320")) == uploads + 2

        await eventually(ended, "the host does not hear the sale and the end of the upload")
    await bench.approved(8360, till="neighbour")
    shown = await close(bench, [8360])
    assert [each["state"] for each in shown["acquirers"]] == ["in_balance"], shown


@scenario(46, "a batch is closed while a reversal waits: the host is told of the reversal first", verbs("batch_close"))
async def batch_after_reversals(bench: Bench) -> None:
    await arranged(bench)
    await bench.approved(8600, till="neighbour")
    await bench.order("silence", match={"4": f"{8700:012d}"}, count=3)  # the sale, and two transmissions of its reversal
    answer = await bench.pay(8700, till="neighbour")
    assert answer.status == 202, answer.raw
    shown = await close(bench, [8600])
    assert (shown["in_balance"], [each["state"] for each in shown["acquirers"]]) == (True, ["in_balance"]), shown
    said = [(each["0"][1], each.get("4")) for each in await bench.received() if each["0"][1] == "5" or each.get("4") == f"{8700:012d}"]
    assert said[-4:] == [("4", f"{8700:012d}")] * 3 + [("5", None)], f"the host heard {said[-4:]}"
    await bench.until(answer.body["id"], "reversed")


@scenario(47, "the answer to a batch is lost: asked again, closed once", verbs("batch_close"))
async def lost_batch(bench: Bench) -> None:
    await arranged(bench)
    await bench.approved(8380, till="neighbour")
    await bench.order("silence", match={"0": totals_as_87(bench)})
    shown = await close(bench, [8380])
    assert [each["state"] for each in shown["acquirers"]] == ["in_balance"], shown


@scenario(48, "cut-over in progress (90): declined, and may be tried again under a new key", lambda dialect: "")
async def cut_over(bench: Bench) -> None:
    await bench.order("code", "90")
    answer = await bench.pay(8400)
    assert (answer.body["status"], answer.body["advice"]) == ("declined", "retry_new_key"), answer.raw
    await bench.approved(8400)


@scenario(49, "an empty batch", verbs("batch_close"))
async def empty_batch(bench: Bench) -> None:
    await arranged(bench)
    shown = await close(bench, [])
    assert shown["in_balance"], shown


@scenario(54, "a burst on a slow host: answered, or refused before anything is sent")
async def burst(bench: Bench) -> None:
    before = await bench.stands()
    await bench.act(capacity=100)
    try:
        answers = await asyncio.gather(*(bench.once(100, till=till) for till in ("till", "neighbour") * 60))
    finally:
        await bench.act(capacity=None)
    sold = [each for each in answers if each.status == 201]
    told = {(each.status, each.body.get("processed")) for each in answers if each.status not in (201, 202)}
    assert sold and told <= {(503, False)}, told
    for each in answers:
        if each.status == 202:
            await bench.until(each.body["id"], "reversed", 30)
    assert await bench.stands() == before + 100 * len(sold)


@scenario(55, "kill -9 with requests in flight: each ends sold or reversed, and the books agree")
async def killed(bench: Bench) -> None:
    before = await bench.stands()
    await bench.act(delay=0.5)
    keys = [secrets.token_hex(16) for _ in range(10)]
    asked = [asyncio.create_task(bench.once(9000, key)) for key in keys]
    await asyncio.sleep(0.3)
    await asyncio.to_thread(bench.killed)
    await asyncio.gather(*asked, return_exceptions=True)
    await bench.act(delay=0)
    await bench.up()
    for key in keys:
        answer = await bench.ask("POST", "/v1/cancellations", {"idempotency_key": key})
        assert answer.status in (200, 202), answer.raw

    async def at_rest() -> bool:
        return await bench.stands() == before

    await eventually(at_rest, "money is left at the host", 40)


@scenario(56, "no card data in any record: masked numbers only")
async def masked(bench: Bench) -> None:
    sold, card = await bench.approved(9100, card=SWIPED), bench.pinned()
    if "52" in bench.dialect.fields:
        await bench.approved(9100, card=card)
    story = await bench.ask("GET", f"/v1/transactions/{sold['id']}/story", key="operator")
    shown = story.raw.decode() + (await bench.ask("GET", "/v1/transactions?limit=200", key="operator")).raw.decode() + bench.server.said
    for secret in (CARD["pan"], SWIPED["pan"], SWIPED["track2"].partition("=")[2], card["pin"]["block"]):
        assert secret not in shown, "card data stands in a record"


def undecided(dialect: Dialect) -> str:
    if dialect.qr_code is None:
        return "the dialect takes no payment codes"
    return "" if dialect.asks else "the host decides at once; hosts that let the payer decide speak no ISO 8583 here (docs/plug-ins.md)"


absent(43, "instalments and points", "terminals cannot ask for them")
SCENARIOS.append(Scenario(50, "more than 999 items, totals that overflow", None, lambda dialect: verbs("batch_close")(dialect)
                          or "totals that are longer than their place are refused before they are sent (tests/test_totals.py)"))
absent(51, "parameters and CA keys in several parts", "the switch gives terminals their parameters, not the acquirer")
absent(52, "upload of signatures", "terminals give signatures to the switch, which keeps them for receipts and disputes; no dialect sends them on")
SCENARIOS.append(Scenario(53, "QR: pending, paid, expired", None, undecided))
