"""Evidence files: what they are by their own bytes, and what is refused."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.files.scans import BYTES_MAX, fault, sniffed
from switch.security.vault import Keyring, Vault, VaultError

PDF = b"%PDF-1.7\n1 0 obj\n<</Type/Page>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PNG = (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0") + _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND", b""))
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9"
SOUND = {"application/pdf": PDF, "image/png": PNG, "image/jpeg": JPEG}


@pytest.mark.parametrize("media_type", SOUND)
def test_a_whole_file_is_what_it_says(media_type: str) -> None:
    assert sniffed(SOUND[media_type]) == media_type
    assert fault("slip 4711.pdf", media_type, SOUND[media_type]) is None


HOSTILE = {
    "cut pdf": PDF[:-8], "cut png": PNG[:-1], "cut jpeg": JPEG[:-1], "zip": b"PK\3\4" + bytes(40), "html": b"<html><script>alert(1)</script>", "svg": b"<svg xmlns='x' onload='x'/>",
    "gif": b"GIF89a" + bytes(20), "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]>', "png and zip": PNG + b"PK\3\4" + bytes(40), "jpeg and html": JPEG + b"<script>",
    "pdf and zip": PDF + b"PK\3\4" + bytes(2000), "html before pdf": b"<script>" + PDF, "elf": b"\x7fELF" + bytes(40), "png without head": b"\x89PNG\r\n\x1a\n" + bytes(40), "text": b"hello",
    "tiff": b"II*\0" + bytes(20), "webp": b"RIFF\0\0\0\0WEBP", "blank": bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused(name: str) -> None:
    for media_type in SOUND:
        assert fault("slip", media_type, HOSTILE[name]) is not None


def test_a_file_that_says_it_is_another_is_refused() -> None:
    for claimed in SOUND:
        for real, content in SOUND.items():
            assert (fault("slip", claimed, content) is None) == (claimed == real)


def test_size_has_a_bound_and_nothing_is_no_file() -> None:
    assert fault("slip", "image/jpeg", b"") is not None
    assert fault("slip", "image/jpeg", JPEG[:-2] + bytes(BYTES_MAX - len(JPEG)) + JPEG[-2:]) is None
    assert fault("slip", "image/jpeg", JPEG[:-2] + bytes(BYTES_MAX - len(JPEG) + 1) + JPEG[-2:]) is not None


@pytest.mark.parametrize("name", ["", " x", "x ", ".x", "../x", "a/b", "a\\b", "a\nb", "a\0b", "a\u202eb", "x" * 121, 'a"b', "C:x", "a;b\r\nSet-Cookie: x"])
def test_a_name_is_no_path_and_holds_no_control(name: str) -> None:
    assert fault(name, "image/png", PNG) is not None


@given(st.binary(max_size=60))
def test_any_bytes_have_a_type_or_none(content: bytes) -> None:
    assert sniffed(content) in {None, *SOUND}


def test_a_seal_opens_for_its_own_row_alone(tmp_path: Path) -> None:
    vault = Vault(Keyring.create(tmp_path / "keys.json"))
    key_id, blob = vault.seal_row("evidence", PDF, b"row")
    assert PDF[:20] not in blob and len(blob) == len(PDF) + 28 and vault.open_row("evidence", key_id, blob, b"row") == PDF
    for wrong in ((key_id, blob, b"other"), (key_id, blob[:-1] + bytes([blob[-1] ^ 1]), b"row"), (key_id, blob[:20], b"row"), ("k9", blob, b"row")):
        with pytest.raises(VaultError):
            vault.open_row("evidence", *wrong)
