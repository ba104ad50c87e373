"""Where webhooks may go: addresses as they are saved and as they are connected to, and one POST to a side that behaves in any way it likes."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from switch.notices.addresses import Refused, checked, parsed, public
from switch.notices.post import Post
from switch.notices.webhooks import ANSWER_MAX, Result
from tests.receivers import Play, hangs, receiver, says, writes

# From the registries of special-purpose addresses, written down once more: what the switch knows is not asked here.
RESERVED = [ipaddress.ip_network(each) for each in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
    "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "255.255.255.255/32", "::/128", "::1/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23",
    "2001::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",
    "fec0::/10", "ff00::/8")]
METADATA = ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0", "11.0.0.0", "2606:4700:4700::1111", "2a00:1450::1")


def within(network: Any) -> st.SearchStrategy[str]:
    edges = st.sampled_from([0, network.num_addresses - 1])
    return (edges | st.integers(0, network.num_addresses - 1)).map(lambda at: str(network[at]))


@given(st.sampled_from(RESERVED).flatmap(within))
def test_no_reserved_address_is_public(address: str) -> None:
    assert not public(address)
    with pytest.raises(Refused):
        checked(["1.1.1.1", address], anywhere=False)
    with pytest.raises(Refused):
        parsed(f"https://[{address}]/" if ":" in address else f"https://{address}/", anywhere=False)


@given(st.integers(0, 2**32 - 1))
def test_no_address_of_ipv6_that_carries_one_of_ipv4_is_public(inner: int) -> None:
    for base in ("::ffff:0:0", "::", "64:ff9b::", "2002::", "::ffff:0:0:0"):
        shift = 80 if base == "2002::" else 0
        assert not public(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(base)) + (inner << shift))))


@given(st.integers(0, 2**32 - 1))
def test_every_address_of_ipv4_is_public_unless_it_is_reserved(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    assert public(str(address)) is not (any(address in network for network in RESERVED if network.version == 4) or str(address) in METADATA)


@pytest.mark.parametrize("address", METADATA)
def test_no_metadata_service_is_public(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is(address: str) -> None:
    assert public(address) and checked([address], anywhere=False) == [address]


@pytest.mark.parametrize("text", ["", "x", "1.1.1.1 ", "01.1.1.1", "1.1.1", "2606:4700:4700::1111%eth0", "fe80::1%1"])
def test_what_is_no_plain_address_is_not_public(text: str) -> None:
    assert not public(text)


def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(Refused):
        checked([], anywhere=True)


@pytest.mark.parametrize("url", [
    "http://shop.example.com/", "ftp://shop.example.com/", "//shop.example.com/", "shop.example.com", "https://", "https:///x", "https://localhost/", "https://shop/",
    "https://user@shop.example.com/", "https://user:word@shop.example.com/", "https://shop.example.com/#x", "https://shop.example.com\\@127.0.0.1/",
    "https://shop.example.com:0/", "https://shop.example.com:65536/", "https://shop.example.com:x/", "https://[::1", "https://shop..example.com/",
    "https://shop.example.com/ x", "https://shop.example.com/\r\nHost: x", "https://shöp.example.com/", "https://127.1/", "https://2130706433/", "https://0x7f000001/",
    "https://0x7f.0.0.1/", "https://017700000001/", "https://127.0.0.1./", "https://10.1.2.3.4/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/",
    "https://-x.example.com/", "https://example.com" + "/x" * 250, "https://" + "a." * 130 + "com/",
])
def test_an_address_that_is_unsound_or_inside_is_not_saved(url: str) -> None:
    with pytest.raises(Refused) as refused:
        parsed(url, anywhere=False)
    assert "example" not in str(refused.value)


@pytest.mark.parametrize(("url", "host", "port", "target", "header"), [
    ("https://shop.example.com", "shop.example.com", 443, "/", "shop.example.com"),
    ("https://Shop.Example.com:8443/a/b?c=d", "shop.example.com", 8443, "/a/b?c=d", "shop.example.com:8443"),
    ("https://xn--shp-sna.example.com/", "xn--shp-sna.example.com", 443, "/", "xn--shp-sna.example.com"),
    ("https://1.1.1.1/x", "1.1.1.1", 443, "/x", "1.1.1.1"),
    ("https://[2606:4700:4700::1111]:444/x", "2606:4700:4700::1111", 444, "/x", "[2606:4700:4700::1111]:444"),
])
def test_a_sound_address_is_taken_apart(url: str, host: str, port: int, target: str, header: str) -> None:
    found = parsed(url, anywhere=False)
    assert (found.secure, found.host, found.port, found.target, found.header) == (True, host, port, target, header)


# One POST over real sockets.


class Names:
    """A name server that changes its mind: each look-up gets the next answer, the last one for ever."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, int]]()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found


def sender(*answers: list[str] | Exception, anywhere: bool = True, deadline_s: float = 5.0, trust: ssl.SSLContext | None = None) -> Post:
    return Post(Names(*(answers or (["127.0.0.1"],))), anywhere, deadline_s, trust)


async def test_a_name_that_leads_inside_between_the_check_and_the_attempt_gets_nothing() -> None:
    async with receiver() as inside:
        post = sender(["1.1.1.1"], ["127.0.0.1"], anywhere=False)
        url = f"https://shop.example.com:{inside.port}/"
        await post.check(url)
        assert await post.send(url, {}, b"{}") == Result(None, "address_refused")
        with pytest.raises(Refused):
            await post.check(url)
        assert inside.open_most == 0


@pytest.mark.parametrize("found", [["1.1.1.1", "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], []])
async def test_one_address_that_is_not_public_refuses_the_whole_name(found: list[str]) -> None:
    assert (await sender(found, anywhere=False).send("https://shop.example.com/", {}, b"{}")).fault == "address_refused"


async def test_the_socket_goes_to_the_address_that_was_checked_and_the_name_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that would lead elsewhere at a second look-up cannot: there is none."""
    asked_of_the_system = []

    def getaddrinfo(host: str, *rest: Any, **named: Any) -> Any:
        asked_of_the_system.append(host)
        raise socket.gaierror

    async with receiver() as shop:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        names = Names(["127.0.0.1"], ["203.0.113.1"])
        result = await Post(names, anywhere=True).send(f"http://shop.example.com:{shop.port}/a?b=c", {"webhook-id": "msg_1"}, b'{"a":1}')
        assert result.status == 200
        assert names.asked == [("shop.example.com", shop.port)] and asked_of_the_system == []
        (got,) = shop.got
        assert got.line == "POST /a?b=c HTTP/1.1" and got.headers["host"] == f"shop.example.com:{shop.port}"
        assert got.headers["webhook-id"] == "msg_1" and got.headers["content-type"] == "application/json" and got.body == {"a": 1}


async def test_the_next_address_of_a_name_is_tried_when_nobody_listens_at_the_first() -> None:
    async with receiver() as shop:
        assert (await sender(["127.0.0.2", "127.0.0.1"]).send(f"http://shop.example.com:{shop.port}/", {}, b"{}")).status == 200


@pytest.mark.parametrize(("play", "fault"), [
    (hangs, "timeout"), (writes(b"HTTP/1.1 200 OK\r\nX: ", 0.05, 100), "timeout"), (writes(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, 100), "timeout"),
    (writes(b""), "connection_lost"), (writes(b"HTTP/1.1 200 OK\r\nX: 1\r\n"), "connection_lost"), (writes(b"SSH-2.0-x\r\n\r\n"), "not_http"),
    (writes(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000), "not_http"), (writes(b"HTTP/1.1 200 OK\r\nX: 1\r\n" * 2 + b"\r\n"), "not_http"),
])
async def test_a_side_that_does_not_answer_is_a_fault_within_the_deadline(play: Play, fault: str) -> None:
    async with receiver(play) as shop:
        began = asyncio.get_running_loop().time()
        assert await sender(deadline_s=0.5).send(shop.url, {}, b"{}") == Result(None, fault)
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_of_a_huge_answer_little_is_read_and_of_a_slow_one_what_comes_soon() -> None:
    written = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with receiver(endless) as shop:
        result = await sender().send(shop.url, {}, b"{}")
        assert (result.status, result.answer) == (200, "x" * 200)
        await asyncio.sleep(0.1)
        assert written < 8_000_000 > ANSWER_MAX, "what the system's buffers hold, and no more"
    async with receiver(writes(b"HTTP/1.1 201 OK\r\n\r\nab", 60)) as shop:
        began = asyncio.get_running_loop().time()
        assert (await sender(deadline_s=0.5).send(shop.url, {}, b"{}")) == Result(201, None, "ab")
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with receiver() as other, receiver(says(307, Location="x")) as shop:
        shop.usual = says(307, Location=other.url, Retry_After="7")
        assert await sender().send(shop.url, {}, b"{}") == Result(307, None, "", "7")
        await asyncio.sleep(0.1)
        assert other.open_most == 0


async def test_a_name_that_is_not_found_and_a_port_where_nobody_listens_are_told_apart() -> None:
    async with receiver() as gone:
        url = gone.url
    assert await sender().send(url, {}, b"{}") == Result(None, "not_connected")
    assert await sender(socket.gaierror()).send("http://shop.example.com/", {}, b"{}") == Result(None, "unresolved")
    with pytest.raises(Refused):
        await sender(socket.gaierror()).check("http://shop.example.com/")


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and one that trusts it."""
    key, subject, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, hashes.SHA256())
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                     + signed.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=signed.public_bytes(serialization.Encoding.PEM).decode())


async def test_the_certificate_must_be_trusted_and_of_the_name_although_the_socket_goes_to_an_address(tmp_path: Path) -> None:
    server, trust = certificate(tmp_path, "shop.example.com")
    async with receiver(trust=server) as shop:
        url = f"https://shop.example.com:{shop.port}/"
        assert (await sender(trust=trust).send(url, {}, b"{}")).status == 200
        assert await sender(trust=trust).send(url.replace("shop", "other"), {}, b"{}") == Result(None, "tls_failed")
        assert await sender().send(url, {}, b"{}") == Result(None, "tls_failed")
        assert len(shop.got) == 1
