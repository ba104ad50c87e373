"""Contracts' pure rules: the life, terms, what is below the standard, the document's bytes, and what a signature's image is."""

import hashlib
import zlib
from contextlib import suppress
from copy import deepcopy
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations.versions import r0026_contracts
from switch.api import contract_shapes as api
from switch.files.drawing import size_of
from switch.files.png import NoPng
from switch.merchants import ROUTED
from switch.merchants.contracts import standard, terms
from switch.merchants.contracts.document import WORDS, Parties, printed
from switch.merchants.contracts.life import BY_MERCHANT, CLOSED, HELD, IN_FORCE, LIFE, OPEN, WAITS_FOR
from switch.merchants.contracts.signing import SHEET
from switch.merchants.contracts.standard import FLOORS, PROBES, STANDARD, below
from tests.hands import END, MAGIC, chunk, head
from tests.hands import signature as drawn

DAY = date(2026, 11, 26)
PARTIES = Parties("con_x", 1, 1, "港湾 & <b>Bakery</b>", "Payment Service", "", "港湾 ****7890")


def test_the_database_holds_the_same_steps() -> None:
    assert set(r0026_contracts.STEPS) == {f"{was}>{state}" for (was, _), state in LIFE.items()} and len(set(r0026_contracts.STEPS)) == len(r0026_contracts.STEPS)
    assert set(r0026_contracts.STATES.replace("'", "").split(", ")) == set(LIFE.states) == set(api.State.__args__)  # type: ignore[attr-defined]
    assert set(api.Service.__args__) == set(terms.SERVICES)  # type: ignore[attr-defined]


def test_every_other_move_is_refused_with_what_is_possible() -> None:
    for state in LIFE.states:
        for event in LIFE.events:
            refused = LIFE.refusal(state, event)
            assert (refused is None) == ((state, event) in LIFE)
            if refused is not None:
                assert refused.code == "contract_move" and all(able in refused.detail for at, able in LIFE if at == state)
                with pytest.raises(LookupError):
                    LIFE[state, event]


def test_what_is_closed_stays_closed_and_nothing_is_in_force_that_both_have_not_signed() -> None:
    assert {state for state in LIFE.states if not any(at == state for at, _ in LIFE)} == CLOSED and OPEN | CLOSED | {IN_FORCE} == set(LIFE.states)
    assert set(WAITS_FOR) == OPEN and LIFE.events > BY_MERCHANT
    assert {(state, event) for (state, event), to in LIFE.items() if to == IN_FORCE and state != IN_FORCE} == {("signed_by_merchant", "countersign")}
    assert {(state, event) for (state, event), to in LIFE.items() if to == "signed_by_merchant"} == {("offered", "sign")}
    assert {to for (state, _), to in LIFE.items() if state == IN_FORCE} | {IN_FORCE} == HELD


def made(**changed: Any) -> dict[str, Any]:
    found = deepcopy(standard.terms("CNY", "CN", "bac_x", DAY))
    for path, value in changed.items():
        *groups, name = path.split("__")
        at: Any = found
        for group in groups:
            at = at[int(group) if isinstance(at, list) else group]
        at[name] = value
    return found


@pytest.mark.parametrize("currency", [*STANDARD, "JPY"])
def test_standard_terms_are_sound_and_not_below_themselves(currency: str) -> None:
    document = standard.terms(currency, "DE", "bac_x", DAY)
    assert terms.faults(document, {*ROUTED}, DAY) == []
    assert bool(below(terms.read(document), "DE", "5812")) is (currency not in STANDARD)  # without a standard two people offer it
    assert terms.read(document).term.ends == date(2027, 11, 25)


@pytest.mark.parametrize(("changed", "words"), [
    ({"tariff__rules__0__price__basis_points": 59}, "Some sale"), ({"tariff__rules__1__price__cap": 1999}, "Some sale"), ({"tariff__rules__2__price__minimum": 0}, "Some sale"),
    ({"tariff__rules__0__match": {}, "tariff__rules__1__match": {"card_type": ["debit", "credit"]}}, "Some sale"),
    ({"tariff__refunds": {"returns": "all"}}, "refunded"), ({"tariff__periodic__0__amount": 2999}, "for each terminal"), ({"tariff__periodic": []}, "for each merchant"),
    ({"term__notice_days": 29}, "notice"), ({"term__early_termination_fee": 29_999}, "early end"), ({"settlement__funding_days": 0}, "earlier"),
    ({"settlement__reserve_days": 179}, "less time"),
])
def test_each_term_below_the_standard_needs_two_people(changed: dict[str, Any], words: str) -> None:
    assert any(words in each for each in below(terms.read(made(**changed)), "CN", "5812"))


@pytest.mark.parametrize("changed", [{"tariff__rules__0__price__basis_points": 61}, {"tariff__rules__0__price__fixed": 1}, {"term__deposit": 1}, {"settlement__funding_days": 2},
                                     {"tariff__periodic__0__amount": 3001}, {"once": [{"name": "Setup", "amount": 1, "count": 1}]}])
def test_what_is_not_below_the_standard_is_offered_by_one(changed: dict[str, Any]) -> None:
    assert below(terms.read(made(**changed)), "CN", "5812") == []


def test_tiers_that_fall_below_the_standard_are_found_at_volume() -> None:
    tiers = made(tariff__rules__0__price={"tiers": [{"up_to": 10**9, "basis_points": 60}, {"basis_points": 45}], "minimum": 1})
    assert below(terms.read(tiers), "CN", "5812")


def test_every_brand_and_every_floor_is_looked_at() -> None:
    assert {each.brand for each in PROBES} == set(ROUTED)
    usual = terms.read(made())
    assert all(isinstance(getattr(getattr(usual, floor.group), floor.name), int) for floor in FLOORS)


@pytest.mark.parametrize(("changed", "place"), [
    ({"term__until": "2026-11-25"}, "/term/until"), ({"term__until": "2037-11-26"}, "/term/until"), ({"term__from": "2026-11-25"}, "/term/from"),
    ({"tariff__currency": "EUR"}, "/tariff/currency"), ({"tariff__name": ""}, "/tariff/name"), ({"once": [{"name": "x", "amount": 10**11, "count": 1000}]}, "/once"),
])
def test_wrong_terms_are_named_by_their_place(changed: dict[str, Any], place: str) -> None:
    assert [fault.place for fault in terms.faults(made(**changed), None, DAY)] == [place]


def test_the_document_says_every_term_in_both_languages_and_the_same_terms_give_the_same_bytes() -> None:
    for language, title in (("zh", "商户收单服务合同"), ("en", "Merchant acquiring contract")):
        document = made(language=language, once=[{"name": "Terminal purchase", "amount": 80_000, "count": 2}], term__deposit=12_345)
        page = printed(terms.read(document), PARTIES)
        assert page.sha256 == hashlib.sha256(page.html.encode()).digest() == printed(terms.read(document), PARTIES).sha256
        for text in (title, "0.60 %", "0.50 %", "20.00 CNY", "30.00 CNY", "2 × 800.00 CNY", "123.45 CNY", "300.00 CNY", "2026-11-26", "2027-11-25", "T+1", "VAT 6.00 %", "****7890"):
            assert text in page.html, text
        assert "<b>Bakery" not in page.html and "&lt;b&gt;Bakery" in page.html
        assert printed(terms.read(made(language=language)), PARTIES).sha256 != page.sha256
    assert all(set(each) == {"en", "zh"} for each in WORDS.values())


def test_ends_and_notice() -> None:
    term = terms.read(made()).term
    assert terms.early(term, date(2027, 11, 24)) and not terms.early(term, date(2027, 11, 25)) and not terms.early(term._replace(ends=None), DAY)
    assert terms.notice_over(term, DAY) == date(2026, 12, 26)


def raw(pixels: bytes, width: int = 100, height: int = 50, **more: int) -> bytes:
    return MAGIC + head(width, height, **more) + chunk(b"IDAT", zlib.compress(pixels)) + END


PIXELS = b"".join(b"\0" + bytes((x * y) & 255 for x in range(100)) for y in range(50))
HOSTILE = {
    "empty": b"", "text": b"hello", "svg": b"<svg/>", "jpeg": b"\xff\xd8\xff\xe0" + bytes(40) + b"\xff\xd9", "cut": drawn()[:-1], "more": drawn() + b"PK\3\4",
    "a bit turned": drawn()[:60] + bytes([drawn()[60] ^ 1]) + drawn()[61:], "blank": drawn(blank=True), "no pixels": MAGIC + head(100, 50) + END,
    "too few pixels": raw(PIXELS[:-1]), "too many pixels": raw(PIXELS + b"\0"), "bomb": raw(bytes(50_000_000)), "no zlib": MAGIC + head(100, 50) + chunk(b"IDAT", b"xx") + END,
    "wide": drawn(2001, 80), "high": drawn(100, 1001), "narrow": drawn(39, 80), "low": drawn(200, 19), "sixteen bits": raw(PIXELS, depth=16), "no colour": raw(PIXELS, colour=5),
    "interlaced": raw(PIXELS, interlace=1), "two heads": MAGIC + head(100, 50) + head(100, 50) + chunk(b"IDAT", zlib.compress(PIXELS)) + END,
    "text inside": MAGIC + head(100, 50) + chunk(b"tEXt", b"Comment\0<script>") + chunk(b"IDAT", zlib.compress(PIXELS)) + END,
    "pixels after the end": MAGIC + head(100, 50) + END + chunk(b"IDAT", zlib.compress(PIXELS)), "hidden after the pixels": MAGIC + head(100, 50) + chunk(b"IDAT", zlib.compress(PIXELS) + b"more") + END,
    "large": raw(PIXELS) + bytes(100_001),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_plain_image_is_no_signature(name: str) -> None:
    with pytest.raises(NoPng):
        size_of(HOSTILE[name], SHEET)


def test_whole_images_are_taken() -> None:
    for image in (drawn(), drawn(2000, 1000), drawn(40, 20), raw(PIXELS),
                  MAGIC + head(100, 50) + chunk(b"IDAT", zlib.compress(PIXELS)[:9]) + chunk(b"IDAT", zlib.compress(PIXELS)[9:]) + END):
        assert size_of(image, SHEET)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_judged_without_a_fault(data: bytes, at: int) -> None:
    image = drawn(40, 20)
    for content in (data, MAGIC + data, image[:at] + data + image[at:], MAGIC + head(40, 20) + data):
        with suppress(NoPng):
            size_of(content, SHEET)
