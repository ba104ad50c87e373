"""One POST to somebody's address: resolved and checked by us, connected to exactly the checked IP, bounded in time and bytes. The door to h11."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import h11

from switch.notices.addresses import Address, Refused, checked, parsed
from switch.notices.webhooks import ANSWER_MAX, DEADLINE_S, HEAD_MAX, Result, shown_answer

Resolve = Callable[[str, int], Awaitable[list[str]]]

RESOLVERS = 8  # threads of their own: a name server that hangs must not hold up the acquirers' lines
BODY_S = 2.0  # an answer's body is for the log alone
CHUNK = 4096


class Resolver:
    """Names by the system's resolver."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(RESOLVERS, "resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses as text, in the system's order. Raises OSError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class Post:
    """`anywhere`: targets that are not public are allowed, and plain http: for a demo and tests."""

    def __init__(self, resolve: Resolve, anywhere: bool, deadline_s: float = DEADLINE_S, trust: ssl.SSLContext | None = None) -> None:
        self.resolve, self.anywhere, self.deadline_s = resolve, anywhere, deadline_s
        self.trust = trust or ssl.create_default_context()

    async def check(self, url: str) -> None:
        """Whether an address may be saved. Raises Refused."""
        address = parsed(url, self.anywhere)
        try:
            async with asyncio.timeout(self.deadline_s):
                checked(await self.resolve(address.host, address.port), self.anywhere)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            raise Refused("The name cannot be resolved") from None

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Result:
        """What came of one POST. Never raises for what the other side does. Redirects are answers as any other."""
        loop = asyncio.get_running_loop()
        until, writer = loop.time() + self.deadline_s, None
        try:
            address = parsed(url, self.anywhere)
            async with asyncio.timeout_at(until):
                addresses = checked(await self.resolve(address.host, address.port), self.anywhere)
                reader, writer = await self._connect(address, addresses)
                state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
                writer.write(_request(state, address, headers, body))
                await writer.drain()
                answer = await _head(state, reader)
            text = await _body(state, reader, min(until, loop.time() + BODY_S))
            after = dict(answer.headers).get(b"retry-after")
            return Result(answer.status_code, None, shown_answer(text), after.decode("latin-1") if after else None)
        except Refused:
            return Result(None, "address_refused")
        except TimeoutError:
            return Result(None, "timeout")
        except (socket.gaierror, UnicodeError):
            return Result(None, "unresolved")
        except ssl.SSLError:
            return Result(None, "tls_failed")
        except (h11.RemoteProtocolError, EOFError):
            return Result(None, "not_http")
        except OSError:
            return Result(None, "not_connected" if writer is None else "connection_lost")
        finally:
            if writer is not None:
                writer.transport.abort()  # no wait for a side that does not close

    async def _connect(self, address: Address, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the first checked address that takes it: the name is not looked up again, so it cannot lead elsewhere by now."""
        trust, name = (self.trust, address.host) if address.secure else (None, None)
        for at, each in enumerate(addresses):
            try:
                return await asyncio.open_connection(each, address.port, limit=HEAD_MAX, ssl=trust, server_hostname=name)
            except ssl.SSLError:
                raise
            except OSError:
                if at + 1 == len(addresses):
                    raise
        raise OSError("no address")


def _request(state: h11.Connection, address: Address, headers: Mapping[str, str], body: bytes) -> bytes:
    fixed = {"host": address.header, "user-agent": "payment-switch-webhooks/1", "content-type": "application/json", "accept": "*/*",
             "content-length": str(len(body)), "connection": "close"}
    request = h11.Request(method="POST", target=address.target, headers=list((fixed | dict(headers)).items()))
    parts = (state.send(request), state.send(h11.Data(data=body)), state.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


async def _head(state: h11.Connection, reader: asyncio.StreamReader) -> h11.Response:
    """Raises h11.RemoteProtocolError, EOFError, OSError."""
    while True:
        event = state.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(CHUNK)
            state.receive_data(data)
            if not data and state.their_state is h11.SEND_RESPONSE:
                raise ConnectionResetError
        elif isinstance(event, h11.Response):
            return event
        elif not isinstance(event, h11.InformationalResponse):
            raise EOFError


async def _body(state: h11.Connection, reader: asyncio.StreamReader, until: float) -> bytes:
    """Of the body what comes soon, and not more than the limit."""
    found = bytearray()
    with suppress(TimeoutError, OSError, h11.RemoteProtocolError):
        async with asyncio.timeout_at(until):
            while len(found) < ANSWER_MAX:
                event = state.next_event()
                if event is h11.NEED_DATA:
                    state.receive_data(await reader.read(CHUNK))
                elif isinstance(event, h11.Data):
                    found += event.data
                else:
                    break
    return bytes(found[:ANSWER_MAX])
