"""How large a scan is when it is opened: pages of a PDF, pixels of an image. Pure.

Sizes are read from the bytes and nothing is rendered: PNG (ISO/IEC 15948) says them in IHDR, JPEG (ITU-T T.81) in its frame header, and a PDF
(ISO 32000) has one `/Type /Page` for each page, plain or inside an object stream.
"""

import re
import zlib

PAGES_MAX = 40
SIDE_MAX, PIXELS_MAX = 20_000, 60_000_000
INFLATED_MAX = 8 << 20  # of all object streams of a file
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z0-9#])")
_STREAM = re.compile(rb"stream\r?\n")
_NAME = re.compile(rb"#([0-9A-Fa-f]{2})")
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def fault(media_type: str, content: bytes) -> str | None:
    """Why a whole file is too large to look at, or None."""
    if media_type == "application/pdf":
        found = pages(content)
        if found is None:
            return "It unpacks to more than a scan may; save it anew without embedded data."
        return f"It has more than {PAGES_MAX} pages; send the pages of this document alone." if found > PAGES_MAX else None
    width, height = png_size(content) if media_type == "image/png" else jpeg_size(content)
    if width > SIDE_MAX or height > SIDE_MAX or width * height > PIXELS_MAX:
        return f"It has more than {PIXELS_MAX // 1_000_000} million pixels, or a side longer than {SIDE_MAX}; scan it at a lower resolution."
    return None


def png_size(content: bytes) -> tuple[int, int]:
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


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
