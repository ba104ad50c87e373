"""Kept connections to a wallet: bounded, used again, never after a torn answer; and TLS that is verified."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from switch.plug_ins import Account, Answer, Asked, Unknown, Unsent
from switch.wallets import WalletHost
from switch.wallets.https import NotHttp, Pool
from switch.wallets.wire import BODY_MAX, Call

GET = Call("GET", "/orders/x", b"")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def host(handler: Handler, trust: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=trust)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(*answers: bytes, seen: list[bytes] | None = None, connections: list[int] | None = None) -> Handler:
    """One answer after the other on each connection, then it is closed."""
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(1)
        try:
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                if seen is not None:
                    seen.append(head)
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError):
            pass
        writer.close()

    return handler


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def exchange(pool: Pool) -> bytes:
    connection, whole = await pool.take(), False
    try:
        connection.write(pool.header, GET, {"x-signed": "yes"})
        reply = await connection.read()
        whole = True
        return reply.body
    finally:
        pool.give(connection, whole)


async def test_a_connection_is_used_again() -> None:
    seen, connections = list[bytes](), list[int]()
    async with host(answering(OK, OK, OK, seen=seen, connections=connections)) as port:
        pool = Pool("127.0.0.1", port, 4, None)
        assert [await exchange(pool) for _ in range(3)] == [b"{}"] * 3
        assert len(connections) == 1 and b"host: 127.0.0.1:" in seen[0].lower() and b"x-signed: yes" in seen[0]
        pool.close()


async def test_one_that_the_host_closed_is_not_used_again() -> None:
    connections = list[int]()
    async with host(answering(OK, connections=connections)) as port:
        pool = Pool("127.0.0.1", port, 4, None)
        await exchange(pool)
        await asyncio.sleep(0.05)
        assert await exchange(pool) == b"{}" and len(connections) == 2
        pool.close()


@pytest.mark.parametrize("answer", [b"\xff\xfe nothing of HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * (BODY_MAX + 1),
                                    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"])
async def test_a_torn_or_endless_answer_is_none_and_ends_its_connection(answer: bytes) -> None:
    async with host(answering(answer)) as port:
        pool = Pool("127.0.0.1", port, 4, None)
        with pytest.raises((NotHttp, OSError)):
            await exchange(pool)
        assert pool.resting == [] and not pool.used
        pool.close()


async def test_chunks_are_joined_and_a_redirect_is_an_answer_as_any_other() -> None:
    chunked = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    seen = list[bytes]()
    async with host(answering(chunked, seen=seen)) as port:
        pool = Pool("127.0.0.1", port, 4, None)
        assert await exchange(pool) == b"{}" and len(seen) == 1
        pool.close()


async def test_there_are_never_more_connections_than_places() -> None:
    open_now, most = [0], [0]

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now[0] += 1
        most[0] = max(most[0], open_now[0])
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.02)
        open_now[0] -= 1
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    async with host(slow) as port:
        pool = Pool("127.0.0.1", port, 3, None)
        assert await asyncio.gather(*(exchange(pool) for _ in range(20))) == [b"{}"] * 20
        assert most[0] == 3
        pool.close()


async def test_a_place_comes_back_from_one_that_was_given_up() -> None:
    async with host(answering(OK, OK)) as port:
        pool = Pool("127.0.0.1", port, 1, None)
        held = await pool.take()
        waiting = asyncio.ensure_future(pool.take())
        await asyncio.sleep(0)
        waiting.cancel()
        pool.give(held, False)
        assert await asyncio.wait_for(exchange(pool), 2) == b"{}"
        pool.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, subject, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
            .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)]), False)
            .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256()))
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return folder / f"{name}.crt", folder / f"{name}.key"


class Always:
    refusal = ""

    def __call__(self) -> bool:
        return True


@pytest.mark.parametrize(("name", "trusted", "spoken_to"), [("127.0.0.1", True, True), ("127.0.0.1", False, False), ("wallet.example", True, False)])
async def test_only_a_host_with_a_certificate_of_its_name_from_who_is_trusted_is_spoken_to(tmp_path: Path, name: str, trusted: bool, spoken_to: bool) -> None:
    crt, key = certificate(tmp_path, name)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(crt, key)
    seen = list[bytes]()
    async with host(answering(OK, seen=seen), server) as port:
        trust = ssl.create_default_context(cafile=str(crt)) if trusted else None
        wallet = WalletHost(Account("w", "127.0.0.1", port, {"client": "shop"}, b"sixteen letters!"), trust)
        asked = Asked("query", "a" * 32, None, 100, "CNY", "M", "T")
        said = await wallet.ask(asked, Always(), datetime.datetime.now(datetime.UTC))
        assert said == (Unknown("not_authentic", "wallet-signature", 2) if spoken_to else Unsent("not_connected"))
        assert not isinstance(said, Answer) and bool(seen) == spoken_to
        if not spoken_to:
            with pytest.raises(OSError, match=r".*"):
                await wallet.reach()
        await wallet.close()
