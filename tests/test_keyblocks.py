"""TR-31 key blocks: those of the standard, every change refused, and another implementation's read and read by it."""

import os
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.security.ciphers import ClearKey, CryptoError
from switch.security.keyblocks import Header, unwrap, wrap

TDES = ClearKey("tdes", bytes.fromhex("DD7515F2BFC17F85CE48F3CA25CB21F6"))
AES = ClearKey("aes", bytes.fromhex("88E1AB2A2E3DD38C1FA039A536500CC8A87AB9D62DC92C01058FA79F44657DE6"))
BLOCK_B = "B0080P0TE00E000094B420079CC80BA3461F86FE26EFC4A3B8E4FA4C5F5341176EED7B727B8A248E"
BLOCK_D = "D0112P0AE00E0000B82679114F470F540165EDFBF7E250FCEA43F810D215F8D207E2E417C07156A27E8E31DA05F7425509593D03A457DC34"


@pytest.mark.parametrize(("block", "under", "key"), [(BLOCK_B, TDES, "3F419E1CB7079442AA37474C2EFBF8B8"), (BLOCK_D, AES, "3F419E1CB7079442AA37474C2EFBF8B8")],
                         ids=["B", "D"])
def test_the_blocks_of_the_standard_are_opened(block: str, under: ClearKey, key: str) -> None:
    opened = unwrap(block, under)
    assert opened.key.reveal().hex().upper() == key
    assert (opened.header.version, opened.header.usage, opened.header.mode, opened.header.exportability) == (block[0], "P0", "E", "E")


@pytest.mark.parametrize(("block", "under"), [(BLOCK_B, TDES), (BLOCK_D, AES)], ids=["B", "D"])
def test_a_block_with_any_character_changed_left_out_or_added_is_refused(block: str, under: ClearKey) -> None:
    changed = [block[:at] + ("0" if block[at] != "0" else "1") + block[at + 1:] for at in range(len(block))]
    cut = [block[:at] for at in range(len(block))]
    for each in (*changed, *cut, block + "0", block.lower(), "A" + block[1:], "C" + block[1:], "é" + block[1:]):
        with pytest.raises(CryptoError) as caught:
            unwrap(each, under)
        assert caught.value.code == "key_block"
        assert caught.value.__cause__ is None


def test_a_block_is_for_its_key_alone() -> None:
    for block, under in ((BLOCK_B, AES), (BLOCK_D, TDES), (BLOCK_B, ClearKey("tdes", bytes(16))), (BLOCK_D, ClearKey("aes", bytes(32)))):
        with pytest.raises(CryptoError):
            unwrap(block, under)
    with pytest.raises(CryptoError):
        wrap(Header("D", "P0", "T", "E"), AES, TDES, os.urandom)


@given(octets=st.sampled_from([16, 24]).flatmap(lambda size: st.binary(min_size=size, max_size=size)), usage=st.sampled_from(["K0", "P0", "M3", "B0"]))
def test_what_is_wrapped_is_unwrapped(octets: bytes, usage: str) -> None:
    for under, version in ((TDES, "B"), (ClearKey("tdes", bytes(range(24))), "B"), (AES, "D"), (ClearKey("aes", bytes(range(24))), "D"), (ClearKey("aes", bytes(16)), "D")):
        header = Header(version, usage, "T", "N", "00", "E")
        text = wrap(header, ClearKey("tdes", octets), under, os.urandom)
        opened = unwrap(text, under)
        assert opened.header == header and opened.key.reveal() == octets
        assert octets.hex().upper() not in text


@pytest.mark.filterwarnings("ignore")
@given(octets=st.binary(min_size=16, max_size=16))
def test_another_implementation_reads_ours_and_we_read_its(octets: bytes) -> None:
    tr31 = import_module("psec.tr31")
    for under, version in ((TDES, "B"), (AES, "D")):
        ours = wrap(Header(version, "P0", "T", "E", "00", "E"), ClearKey("tdes", octets), under, os.urandom)
        header, key = tr31.unwrap(under.reveal(), ours)
        assert (key, header.key_usage, header.version_id) == (octets, "P0", version)
        theirs = tr31.wrap(under.reveal(), tr31.Header(version, "M3", "T", "C", "00", "N"), octets)
        opened = unwrap(theirs, under)
        assert (opened.key.reveal(), opened.header.usage) == (octets, "M3")


@pytest.mark.filterwarnings("ignore")
def test_optional_blocks_are_passed_over_and_authenticated() -> None:
    tr31 = import_module("psec.tr31")
    header = tr31.Header("D", "P0", "A", "E", "00", "E")
    header.blocks["KS"] = "00604B120F9292800000"
    text = tr31.wrap(AES.reveal(), header, bytes(range(16)))
    assert unwrap(text, AES).key.reveal() == bytes(range(16))
    with pytest.raises(CryptoError):
        unwrap(text.replace("00604B12", "00604B13"), AES)
