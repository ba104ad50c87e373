"""Scans and evidence: what they are from their first byte to their last, and how large when opened. Pure.

Sizes are read from the bytes and nothing is rendered: PNG (W3C PNG 3) says them in IHDR, JPEG (ITU-T T.81) in its frame header, and a PDF
(ISO 32000) has one `/Type /Page` for each page, plain or inside an object stream.
"""

import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType

from switch.files.png import NoPng, parts

BYTES_MAX = 4 << 20
PAGES_MAX = 40
SIDE_MAX, PIXELS_MAX = 20_000, 60_000_000
INFLATED_MAX = 8 << 20  # of all object streams of a file
ENDINGS: Mapping[str, str] = MappingProxyType({"application/pdf": "pdf", "image/png": "png", "image/jpeg": "jpg"})
NOT_IN_NAMES = frozenset('/\\:*?"<>|')
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z0-9#])")
_STREAM = re.compile(rb"stream\r?\n")
_NAME = re.compile(rb"#([0-9A-Fa-f]{2})")
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def sniffed(content: bytes) -> str | None:
    """The media type that the bytes are from their first to their last, or None. What begins as one thing and ends as another is nothing."""
    if content.startswith(b"%PDF-1.") or content.startswith(b"%PDF-2."):
        return "application/pdf" if b"%%EOF" in content[-1024:] and content.rstrip().endswith(b"%%EOF") else None
    if content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return "image/png" if content.endswith(b"\0\0\0\0IEND\xaeB`\x82") else None
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg" if content.endswith(b"\xff\xd9") else None
    return None


def fault(name: str, media_type: str, content: bytes) -> str | None:
    """Why a file is not taken, or None."""
    if not content:
        return "It is empty."
    if len(content) > BYTES_MAX:
        return f"It is larger than {BYTES_MAX >> 20} MB."
    if not 1 <= len(name) <= 120 or not name.isprintable() or name != name.strip() or name.startswith(".") or set(name) & NOT_IN_NAMES:
        return "Its name must be 1 to 120 printable characters, without a path."
    found = sniffed(content)
    if found is None:
        return "Its bytes are no whole PDF, PNG or JPEG."
    return opened(media_type, content) if found == media_type else "Its bytes are of another type than its Content-Type says."


def opened(media_type: str, content: bytes) -> str | None:
    """Why a file of that type shows nothing, or is too large to look at; or None."""
    if media_type == "application/pdf":
        found = pages(content)
        if found is None:
            return "It unpacks to more than a scan may; save it anew without embedded data."
        if found == 0:
            return "No page is found in it: it is empty, damaged or locked by a password; save it anew."
        return f"It has more than {PAGES_MAX} pages; send the pages of this document alone." if found > PAGES_MAX else None
    try:
        width, height = png_size(content) if media_type == "image/png" else jpeg_size(content)
    except NoPng as error:
        return str(error)
    if not width or not height:
        return "It has no pixels."
    if width > SIDE_MAX or height > SIDE_MAX or width * height > PIXELS_MAX:
        return f"It has more than {PIXELS_MAX // 1_000_000} million pixels, or a side longer than {SIDE_MAX}; scan it at a lower resolution."
    return None


def png_size(content: bytes) -> tuple[int, int]:
    """Raises NoPng: it is not whole, or has no picture."""
    head, chunks = parts(content)
    if b"IDAT" not in dict(chunks):
        raise NoPng("It has no pixels.")
    return head.width, head.height


def jpeg_size(content: bytes) -> tuple[int, int]:
    """The largest of its frames; (0, 0) when it has none, and then there is nothing to show."""
    at, width, height = 2, 0, 0
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2:at + 4])
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _FRAMES:
            height, width = max(height, int.from_bytes(content[at + 5:at + 7])), max(width, int.from_bytes(content[at + 7:at + 9]))
        if marker == 0xDA or length < 2:
            break
        at += 2 + length
    return width, height


def pages(content: bytes) -> int | None:
    """How many page objects there are; None: its object streams unpack to more than is looked at."""
    found, left = len(_PAGE.findall(_plain(content))), INFLATED_MAX
    for match in _STREAM.finditer(content):
        head = _plain(content[content.rfind(b"obj", 0, match.start()) + 3:match.start()])
        if b"/ObjStm" not in head:
            continue
        inflate = zlib.decompressobj()
        try:
            unpacked = inflate.decompress(content[match.end():], left + 1)
        except zlib.error:  # not deflated, and then its objects were counted where they stand
            continue
        left -= len(unpacked)
        if left < 0:
            return None
        found += len(_PAGE.findall(_plain(unpacked)))
    return found


def _plain(data: bytes) -> bytes:
    """Names without their escapes: /P#61ge is /Page."""
    return _NAME.sub(lambda match: bytes([int(match[1], 16)]), data) if b"#" in data else data
