"""TLS of a line over real sockets, under asyncio and uvloop: what is checked, how a refusal is named, and that a renewed file needs no restart."""

import asyncio
import socket
import ssl
import tempfile
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest

from switch.links import LinkSettings, Reply, Tls
from switch.links.acquirer import AcquirerLink
from switch.links.tls import Unusable, context, refusal
from tests.certificates import DAY, Authority
from tests.test_link_connection import DIALECT, FAST, Host, approving, both_loops, numbered, until

NAME = "host.bank.example"


class Bank:
    """A CA, another one that nobody trusts, and a host behind a certificate."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ca, self.other = Authority(self.folder, "ca"), Authority(self.folder, "other")
        self.trusting = Tls(NAME, str(self.ca.certificate))

    def shown(self, pair):
        return self.trusting._replace(certificate_file=str(pair.certificate), key_file=str(pair.key))


def served(pair, client_ca=None):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pair.certificate, pair.key)
    if client_ca is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(client_ca)
    return made


@asynccontextmanager
async def line(server_context, tls, port=None):
    """A line to a host of its own, or to `port`."""
    host, stans, states = Host(approving), iter(f"{n:06d}" for n in range(900001, 999999)), []
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=server_context)
    link = AcquirerLink("acq", "test host", DIALECT, LinkSettings("127.0.0.1", port or server.sockets[0].getsockname()[1], tls=tls, **FAST),
                        next_stan=lambda: next(stans), on_unmatched=lambda _: None, on_cut_over=lambda _: None,
                        on_state=lambda _, state, why: states.append(state))
    link.start()
    try:
        yield link, host
    finally:
        await link.close()
        server.close()
        others = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve"]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def bank():
    with tempfile.TemporaryDirectory() as folder:
        yield Bank(folder)


def on_both_loops(scenario):
    """As both_loops, with the bank."""
    def test(new_loop, bank):
        both_loops_body(new_loop, scenario(bank))

    test.__name__ = scenario.__name__
    return pytest.mark.parametrize("new_loop", BOTH, ids=["asyncio", "uvloop"])(test)


BOTH = both_loops(lambda: None).args[1]


def both_loops_body(new_loop, scenario):
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario, 8))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def pay(link, n=1):
    return link.request(numbered(n), send_not_after=monotonic() + 1, deadline=monotonic() + 2)


async def refused(link, state, error):
    await until(lambda: link.state == state)
    assert error in (link.snapshot()["last_error"] or ""), link.snapshot()
    assert not link.usable()


@on_both_loops
async def test_a_line_is_up_over_tls_and_payments_cross_it(bank):
    pair = bank.ca.issue(NAME, ends=20 * DAY)
    async with line(served(pair), bank.trusting) as (link, host):
        await until(link.usable)
        assert [type(await pay(link, n)) for n in (1, 2)] == [Reply, Reply]
        assert abs(link.health_now.certificate_ends - datetime.now(UTC) - 20 * DAY) < timedelta(minutes=5)
        assert host.faults == []
        shown = link.snapshot()["lines"][0]
        assert (shown["tls"], shown["state"]) == (True, "up")


@on_both_loops
async def test_both_sides_show_a_certificate(bank):
    ours = bank.ca.issue("switch", client=True, ends=3 * DAY)
    async with line(served(bank.ca.issue(NAME), bank.ca.certificate), bank.shown(ours)) as (link, _):
        await until(link.usable)
        assert isinstance(await pay(link), Reply)
        assert link.health_now.certificate_ends - datetime.now(UTC) < 3 * DAY, "ours ends first"


@on_both_loops
async def test_a_certificate_that_is_over_is_refused_by_name(bank):
    async with line(served(bank.ca.issue(NAME, begins=-3 * DAY, ends=-DAY)), bank.trusting) as (link, host):
        await refused(link, "certificate_refused", "certificate_expired")
        assert host.received == []


@on_both_loops
async def test_a_certificate_of_another_name_is_refused_by_name(bank):
    async with line(served(bank.ca.issue("host.other.example")), bank.trusting) as (link, _):
        await refused(link, "certificate_refused", "certificate_of_another_name")


@on_both_loops
async def test_a_certificate_of_another_ca_is_refused_by_name(bank):
    async with line(served(bank.other.issue(NAME)), bank.trusting) as (link, _):
        await refused(link, "certificate_refused", "certificate_not_trusted")


@on_both_loops
async def test_a_certificate_of_the_future_is_refused_by_name(bank):
    async with line(served(bank.ca.issue(NAME, begins=DAY)), bank.trusting) as (link, _):
        await refused(link, "certificate_refused", "certificate_not_yet_valid")


@on_both_loops
async def test_a_certificate_that_no_ca_of_the_machine_signed_is_refused(bank):
    async with line(served(bank.ca.issue(NAME)), Tls(NAME)) as (link, _):
        await refused(link, "certificate_refused", "certificate_not_trusted")


@contextmanager
def blunt(server_context):
    """A host that says by an alert that it does not take a certificate, as hosts do and servers of asyncio do not. Yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), server_context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2)


@on_both_loops
async def test_a_host_that_wants_a_certificate_and_gets_none_is_named(bank):
    with blunt(served(bank.ca.issue(NAME), bank.ca.certificate)) as port:
        async with line(None, bank.trusting, port) as (link, _):
            await refused(link, "certificate_refused", "our certificate is refused: certificate_required")


@on_both_loops
async def test_a_host_that_does_not_trust_ours_is_named(bank):
    with blunt(served(bank.ca.issue(NAME), bank.ca.certificate)) as port:
        async with line(None, bank.shown(bank.other.issue("switch", client=True)), port) as (link, _):
            await refused(link, "certificate_refused", "our certificate is refused: unknown_ca")


@on_both_loops
async def test_a_refusal_stays_shown_while_it_is_tried_again_and_is_called_no_other_name(bank):
    with blunt(served(bank.ca.issue(NAME), bank.ca.certificate)) as port:
        async with line(None, bank.trusting, port) as (link, _):
            await refused(link, "certificate_refused", "certificate_required")
            for _ in range(20):
                await asyncio.sleep(0.01)
                assert link.state == "certificate_refused"


def test_nothing_less_than_tls_1_2_is_spoken_and_chain_and_name_are_checked(bank):
    for tls in (bank.trusting, Tls(NAME), bank.shown(bank.ca.issue("switch", client=True))):
        made, _ = context(tls)
        assert (made.minimum_version, made.verify_mode, made.check_hostname) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED, True)


@on_both_loops
async def test_a_plain_host_is_no_host_for_a_line_with_tls(bank):
    async with line(None, bank.trusting) as (link, host):
        await asyncio.sleep(0.3)
        assert not link.usable() and [message for message in host.received if message[0] != "0800"] == []


@on_both_loops
async def test_a_renewed_file_is_used_at_the_next_connection(bank):
    renewed = bank.folder / "renewed.pem"
    renewed.write_bytes(bank.other.certificate.read_bytes())
    async with line(served(bank.ca.issue(NAME)), bank.trusting._replace(ca_file=str(renewed))) as (link, _):
        await refused(link, "certificate_refused", "certificate_not_trusted")
        renewed.write_bytes(bank.ca.certificate.read_bytes())
        await until(link.usable)


@on_both_loops
async def test_a_file_that_is_missing_or_wrong_is_named_and_nothing_is_sent(bank):
    ours = bank.ca.issue("switch", client=True)
    for tls, said in ((bank.trusting._replace(ca_file=str(bank.folder / "none.pem")), "ca_file"),
                      (bank.shown(ours)._replace(key_file=str(bank.folder / "none.key")), "certificate_file or key_file"),
                      (bank.shown(ours)._replace(key_file=str(bank.ca.issue("x").key)), "certificate_file or key_file")):
        async with line(served(bank.ca.issue(NAME)), tls) as (link, host):
            await refused(link, "certificate_unusable", said)
            assert host.connections == 0


def test_an_encrypted_key_is_refused_instead_of_asking_the_terminal(bank):
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - beside its only use

    pair = bank.ca.issue("switch", client=True)
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")))
    with pytest.raises(Unusable, match="key_file"):
        context(bank.shown(pair))


@pytest.mark.parametrize("error", [None, OSError(), ConnectionResetError(), TimeoutError(), ssl.SSLError(1, "x")])
def test_other_errors_are_no_refusals(error):
    assert refusal(error) is None
