"""Signatures and receipts as files over real HTTP: one whole PNG per payment, sealed, seen by whom the payment is seen, on the receipt in every form."""

import hashlib
import importlib
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pypdf
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from switch import database
from switch.files import drawing, png
from switch.payments.signatures import SHEET
from switch.settlement.exports import paper
from tests.flows import Shop, open_shop
from tests.test_openapi import fits

needs_typst = pytest.mark.skipif(not paper.can_print(), reason="images need the optional extra `reports` (typst), which is not installed")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def picture(width: int = 240, height: int = 80, *, head: bytes | None = None, pixels: bytes | None = None, before: bytes = b"", end: bytes = b"", drawn: bool = True) -> bytes:
    """A grey PNG with a line from corner to corner; whatever else is asked for in its place."""
    if pixels is None:
        lines = [bytearray([0] + [255] * width) for _ in range(height)]
        for x in range(width if drawn else 0):
            lines[x * height // width][1 + x] = 0
        pixels = b"".join(lines)
    return png.MAGIC + chunk(b"IHDR", head or struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"") + end


GOOD = picture()
BOMB = picture(1024, 512, pixels=bytes(30_000_000))
WRONG: dict[str, tuple[bytes, str]] = {
    "a PDF": (b"%PDF-1.7\n%%EOF", "no PNG"), "empty": (b"", "no PNG"), "a page": (b"<svg onload=alert(1)>", "no PNG"), "cut": (GOOD[:-20], "cut off"), "cut in a chunk": (GOOD[:60], "cut off"),
    "only its beginning": (png.MAGIC, "begin or end"), "more after its end": (GOOD + b"<script>", "cut off"), "a second end": (picture(end=chunk(b"IEND", b"")), "parts that no signature needs"),
    "damaged": (GOOD[:80] + bytes([GOOD[80] ^ 1]) + GOOD[81:], "damaged"), "a text": (picture(before=chunk(b"tEXt", b"Comment\0x")), "parts that no signature needs"),
    "a palette": (picture(head=struct.pack(">IIBBBBB", 240, 80, 8, 3, 0, 0, 0)), "palette"), "interlaced": (picture(head=struct.pack(">IIBBBBB", 240, 80, 8, 0, 0, 0, 1)), "interlaced"),
    "16 bits": (picture(head=struct.pack(">IIBBBBB", 240, 80, 16, 0, 0, 0, 0)), "8 bits"), "too wide": (picture(1025, 80), "pixels"), "too small": (picture(8, 8), "pixels"),
    "huge by its head": (picture(head=struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)), "pixels"), "fewer pixels": (picture(pixels=b"\0" * 100), "more or fewer"),
    "more pixels than it says": (BOMB, "more or fewer"), "no pixels": (png.MAGIC + GOOD[8:33] + chunk(b"IEND", b""), "one piece"), "blank": (picture(drawn=False), "Nothing is drawn"),
    "an unknown filter": (picture(pixels=b"".join(bytes([9] + [1] * 240) for _ in range(80))), "filter"), "no deflate": (GOOD[:33] + chunk(b"IDAT", b"junk") + chunk(b"IEND", b""), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_whole_png_of_a_signature_is_refused_with_why(name: str) -> None:
    content, words = WRONG[name]
    with pytest.raises(png.NoPng, match=words):
        drawing.size_of(content, SHEET)


def test_a_whole_one_says_its_size() -> None:
    assert drawing.size_of(GOOD, SHEET) == (240, 80) and drawing.size_of(picture(1024, 512), SHEET) == (1024, 512)


@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7), cut=st.integers(0, len(GOOD)))
def test_any_damage_is_found_and_never_more_than_a_refusal(at: int, bit: int, cut: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 1 << bit
    for content in (bytes(damaged), GOOD[:cut] if cut < len(GOOD) else b"x"):
        with pytest.raises(png.NoPng):
            drawing.size_of(content, SHEET)


# Over HTTP


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("signatures")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


Send = Callable[..., Any]


@pytest_asyncio.fixture(scope="module")
async def send(shop: Shop) -> AsyncIterator[Send]:
    async with httpx.AsyncClient(base_url=shop.base, timeout=60) as client:
        async def sent(method: str, path: str, key: str = "till", content: bytes | None = None, **headers: str) -> httpx.Response:
            return await client.request(method, path, content=content, headers={"Authorization": f"Bearer {shop.keys.get(key, key)}", **headers})

        yield sent


async def sign(send: Send, sale: str, content: bytes = GOOD, key: str = "till", media: str = "image/png") -> httpx.Response:
    return await send("POST", f"/v1/authorizations/{sale}/signature", key, content, **{"Content-Type": media})  # type: ignore[no-any-return]


async def test_a_signature_is_kept_once_sealed_and_with_its_hash(shop: Shop, send: Send, spec: Any) -> None:
    sale = (await shop.pay(12_300)).body["id"]
    assert (await send("GET", f"/v1/transactions/{sale}/signature")).status_code == 404
    first, again, other = await sign(send, sale), await sign(send, sale), await sign(send, sale, picture(200, 80))
    assert (first.status_code, again.status_code, other.status_code, other.json()["code"]) == (201, 200, 409, "already_exists")
    assert first.json() == again.json() and first.json()["sha256"] == hashlib.sha256(GOOD).hexdigest() and (first.json()["width"], first.json()["height"]) == (240, 80)
    answer = await send("GET", f"/v1/transactions/{sale}/signature", "merchant.one")
    assert answer.content == GOOD and answer.headers["content-disposition"].startswith("attachment") and answer.headers["x-content-type-options"] == "nosniff"
    (row,) = await shop.sql("SELECT * FROM transaction_signature WHERE transaction_id = $1", UUID(sale[4:]))
    assert GOOD[40:80] not in row["sealed"] and row["uploaded_by"].startswith("trm_")
    assert set(spec["components"]["schemas"]["ShownSignature"]["properties"]) == set(first.json())
    sql = await database.connect(shop.url, "switch_writer")
    try:
        for statement in ("UPDATE transaction_signature SET sha256 = sha256", "DELETE FROM transaction_signature"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(statement)
    finally:
        await sql.close()


async def test_what_cannot_be_taken_is_refused_and_nothing_is_kept(shop: Shop, send: Send) -> None:
    sale, declined = (await shop.pay(5000)).body["id"], (await shop.pay(5051)).body["id"]
    for content, _ in WRONG.values():
        answer = await sign(send, sale, content)
        assert (answer.status_code, answer.json()["code"]) == (422, "signature_refused"), answer.text
    assert (await sign(send, sale, GOOD + bytes(SHEET.bytes_max))).status_code == 413
    assert (await sign(send, sale, media="image/jpeg")).status_code == 415 and (await sign(send, sale, media="application/json")).status_code == 415
    assert (await sign(send, declined)).json()["code"] == "conflict", "a decline is not signed for"
    assert await shop.sql("SELECT FROM transaction_signature WHERE transaction_id = ANY($1::uuid[])", [UUID(each[4:]) for each in (sale, declined)]) == []


async def test_anothers_signature_and_receipt_are_absent(shop: Shop, send: Send) -> None:
    sale = (await shop.pay(5000)).body["id"]
    for key in ("merchant.two", "dual", "branch"):
        assert (await sign(send, sale, key=key)).status_code == 404
    assert (await sign(send, sale, key="operator")).status_code == 403 and (await sign(send, sale, key="neighbour")).status_code == 201
    for key, status in (("merchant.two", 404), ("dual", 404), ("branch", 404), ("till", 200), ("merchant.one", 200), ("operator", 200), ("nobody", 401)):
        assert (await send("GET", f"/v1/transactions/{sale}/signature", key)).status_code == status, key
        for form in ("json", "text", "png", "pdf"):
            answer = await send("GET", f"/v1/transactions/{sale}/receipt?format={form}&language=en", key)
            assert answer.status_code == (status if paper.can_print() or form in ("json", "text") or status != 200 else 501), (key, form)


async def test_the_receipt_says_that_it_was_signed_and_asks_for_no_other(shop: Shop, send: Send, spec: Any) -> None:
    sale = (await shop.pay(12_300)).body["id"]
    path = f"/v1/transactions/{sale}/receipt?language=en&copy_for=merchant"
    assert (await send("GET", path)).json()["signature"] is True and "____" in (await send("GET", f"{path}&format=text")).text
    await sign(send, sale)
    answer = await shop.ask("GET", path)
    fits(spec, "get", "/v1/transactions/{transaction}/receipt", answer)
    digest = hashlib.sha256(GOOD).hexdigest()
    assert (answer.body["signature"], answer.body["signature_sha256"]) == (False, digest) and answer.body["signed_at"]
    for width in (58, 80):
        text = (await send("GET", f"{path}&format=text&width={width}")).text
        assert "Signed on screen" in text and "____" not in text and digest in "".join(text.split())


@needs_typst
async def test_image_and_pdf_say_what_the_text_says_and_show_the_signature(shop: Shop, send: Send) -> None:
    sale = (await shop.pay(12_300, reference="#panic() $ * _ [x]")).body
    path = f"/v1/transactions/{sale['id']}/receipt?language=en&copy_for=merchant"
    plain = (await send("GET", f"{path}&format=png")).content
    pdf = await send("GET", path, Accept="application/pdf")
    words = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf.content)).pages)
    for each in ("SALE", "APPROVED", "123.00 CNY", sale["rrn"], sale["approval_code"], "**** **** **** 0003", "#panic() $ * _ [x]", "MERCHANT COPY", "Cardholder's signature"):
        assert each in words, (each, words)
    assert "62123456" not in words
    await sign(send, sale["id"])
    for width, dots in ((58, 464), (80, 639)):
        image = await send("GET", f"{path}&width={width}", Accept="image/png")
        assert (image.headers["content-type"], image.content[:8]) == ("image/png", png.MAGIC) and abs(struct.unpack(">I", image.content[16:20])[0] - dots) <= 2
    assert image.content != plain
    signed = pypdf.PdfReader(io.BytesIO((await send("GET", f"{path}&format=pdf")).content)).pages[0]
    assert len(signed.images) == 1 and "Signed on screen" in signed.extract_text()


@needs_typst
async def test_a_receipt_in_chinese_is_printed_where_a_font_has_it_and_refused_by_name_where_none_has(shop: Shop, send: Send) -> None:
    typst, press = importlib.import_module("typst"), importlib.import_module("switch.settlement.exports.press")
    here = set(typst.Fonts(include_system_fonts=True, include_embedded_fonts=True).families()) & set(press.HAN_FAMILIES)
    sale = (await shop.pay(5000)).body["id"]
    for form, code in (("png", "no_image"), ("pdf", "no_pdf")):
        answer = await send("GET", f"/v1/transactions/{sale}/receipt?language=zh&format={form}")
        if here:
            assert answer.status_code == 200
        else:
            assert (answer.status_code, answer.json()["code"]) == (501, code) and "`fonts`" in answer.json()["detail"] and "format=text" in answer.json()["detail"]
    assert "消费" in (await send("GET", f"/v1/transactions/{sale}/receipt?language=zh&format=text")).text, "as text it is always there"


async def test_without_typst_images_are_refused_with_a_reason(shop: Shop, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "can_print", lambda: False)
    sale = (await shop.pay(5000)).body["id"]
    answer = await send("GET", f"/v1/transactions/{sale}/receipt?format=png")
    assert (answer.status_code, answer.json()["code"]) == (501, "no_image") and "reports" in answer.json()["detail"]


