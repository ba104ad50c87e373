"""Pages and pixels of scans, read from their bytes."""

import io
import zlib

import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.files.scans import INFLATED_MAX, PAGES_MAX, PIXELS_MAX, SIDE_MAX, jpeg_size, opened, pages
from tests.hands import END, MAGIC, chunk, head
from tests.test_exhibits import JPEG, PDF, PNG


def pdf(count: int) -> bytes:
    writer, out = pypdf.PdfWriter(), io.BytesIO()
    for _ in range(count):
        writer.add_blank_page(595, 842)
    writer.write(out)
    return out.getvalue()


def packed(count: int, kind: bytes = b"/ObjStm") -> bytes:
    """Page objects inside an object stream, as most programs write them today."""
    body = zlib.compress(b" ".join(b"<</Type/Page/Parent 1 0 R>>" for _ in range(count)))
    return b"%PDF-1.7\n9 0 obj\n<</Type" + kind + b"/N %d/Filter/FlateDecode/Length %d>>\nstream\n" % (count, len(body)) + body + b"\nendstream\nendobj\n%%EOF\n"


def jpeg(width: int, height: int) -> bytes:
    return JPEG[:20] + b"\xff\xc2\0\x0b\x08" + height.to_bytes(2) + width.to_bytes(2) + b"\x01\x01\x11\0" + b"\xff\xda\0\2" + JPEG[20:]


@pytest.mark.parametrize("made", [pdf, packed])
def test_pages_are_counted_plain_and_packed(made) -> None:  # type: ignore[no-untyped-def]
    for count in (1, PAGES_MAX, PAGES_MAX + 1):
        assert pages(made(count)) == count
        assert (opened("application/pdf", made(count)) is None) is (count <= PAGES_MAX)


def test_escaped_names_are_read_and_what_is_no_page_is_not_counted() -> None:
    assert pages(b"/Type /P#61ge /Type/Pages /Type/PageLabel /Type\n/Page>") == 2
    assert pages(packed(5, b"/XObject")) == 0


def test_what_unpacks_to_more_than_a_scan_is_refused() -> None:
    bomb = zlib.compress(bytes(INFLATED_MAX + 1))
    assert opened("application/pdf", b"%PDF-1.7\n1 0 obj\n<</Type/ObjStm>>\nstream\n" + bomb + b"\nendstream\n%%EOF\n")


@pytest.mark.parametrize(("width", "height", "taken"), [(7000, 8000, True), (PIXELS_MAX // 4000, 4000, True), (PIXELS_MAX // 4000 + 1, 4000, False),
                                                        (SIDE_MAX, 10, True), (SIDE_MAX + 1, 10, False), (10, SIDE_MAX + 1, False)])
def test_pixels_of_images(width: int, height: int, taken: bool) -> None:
    assert jpeg_size(jpeg(width, height)) == (width, height)
    assert (opened("image/jpeg", jpeg(width, height)) is None) is taken
    assert (opened("image/png", MAGIC + head(width, height) + chunk(b"IDAT", b"") + END) is None) is taken


def test_plain_files_are_taken() -> None:
    assert [opened(media, content) for media, content in (("application/pdf", PDF), ("image/png", PNG), ("image/jpeg", JPEG))] == [None] * 3


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_without_a_fault(data: bytes) -> None:
    for media, start in (("application/pdf", b"%PDF-1.7\n1 0 obj /ObjStm stream\n"), ("image/png", b"\x89PNG"), ("image/jpeg", b"\xff\xd8\xff")):
        assert opened(media, start + data) is None or isinstance(opened(media, start + data), str)


@pytest.mark.parametrize(("media", "content", "words"), [
    ("application/pdf", PDF.replace(b"/Page", b"/Pages"), "No page"), ("image/png", PNG[:30] + b"x" + PNG[31:], "damaged"), ("image/png", MAGIC + head(1, 1) + END, "no pixels"),
    ("image/png", MAGIC + head(0, 9) + chunk(b"IDAT", b"") + END, "no pixels"), ("image/jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9", "no pixels"),
])
def test_what_shows_nothing_is_refused(media: str, content: bytes, words: str) -> None:
    assert words in str(opened(media, content))
