"""python -m acquirer_stubs [options] runs a host, python -m acquirer_stubs wallet [options] a QR wallet; python -m acquirer_stubs book FILE prints
what a book says about money."""
import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from acquirer_stubs import wallet_control
from acquirer_stubs.behaviours import Known
from acquirer_stubs.book import Book, BookError, effects
from acquirer_stubs.control import Control
from acquirer_stubs.dialects import SPEECHES
from acquirer_stubs.host import Host
from acquirer_stubs.issuer import Issuer
from acquirer_stubs.keys import FORMS, Keys

# uvloop makes the same protocol calls for less CPU, where it is installed.
new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):
    from uvloop import new_event_loop

PR_SET_PDEATHSIG = 1


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("acquirer_stubs", description="A simulated acquirer host.")
    parser.add_argument("--host", default="127.0.0.1", help="address the lines come to")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--control-port", type=int, default=0, help="HTTP control on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--book", type=Path, required=True, help="the book's file; its key stands beside it as FILE.key")
    parser.add_argument("--dialect", choices=tuple(SPEECHES), default="iso87_ascii", help="what the host hears and speaks")
    parser.add_argument("--fast", action="store_true", help="no fsync; the book is written all the same")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before every answer")
    parser.add_argument("--require-sign-on", action="store_true", help="91 for money messages on a line without 0800 DE70=001")
    parser.add_argument("--master-key", type=bytes.fromhex, metavar="HEX",
                        help=f"terminal master key of a test, 16 bytes: {' and '.join(FORMS)} then have MACs and PINs")
    parser.add_argument("--key-grace", type=float, default=60.0, metavar="SECONDS", help="how long keys that were replaced are still good")
    parser.add_argument("--imk", type=bytes.fromhex, metavar="HEX",
                        help="issuer master key of a test, 16 bytes: the cryptograms of chips are then verified and answered")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="lines speak TLS 1.2 or later with this certificate and its chain")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="and only switches whose certificate this CA has signed")
    parser.add_argument("--die-with-parent", action="store_true", help="SIGTERM when the thread that started this process ends (Linux)")
    options = parser.parse_args(argv)
    if (options.tls_cert is None) != (options.tls_key is None) or (options.tls_ca and not options.tls_cert):
        parser.error("--tls-cert and --tls-key go together, --tls-ca with both")
    if options.master_key and options.dialect not in FORMS:
        parser.error(f"--master-key: with --dialect {' or '.join(FORMS)}")
    if options.imk is not None and len(options.imk) != 16:
        parser.error("--imk: 16 bytes, 32 hex characters")
    return options


def secured(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Raises OSError: a file cannot be read, or is none."""
    if options.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(options.tls_cert, options.tls_key)
    if options.tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(options.tls_ca)
    return context


def die_with_parent() -> None:
    """Linux prctl(2): the kernel signals us when our parent ends. It may have ended just before we asked."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def print_effects(path: Path) -> None:
    """One JSON line per (DE37, DE41, DE49) with net and held in minor units, then one with the totals."""
    net: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for (rrn, terminal, currency), (moved, hold, code) in sorted(effects(path).items()):
        net[currency] += moved
        held[currency] += hold
        print(json.dumps({"rrn": rrn, "terminal": terminal, "currency": currency, "net": moved, "held": hold, "code": code}))
    print(json.dumps({"totals": {"net": net, "held": held}}))


async def serve(options: argparse.Namespace) -> str:
    """Runs until SIGTERM or SIGINT; returns the fault that ended it, or an empty text."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def end(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, "")
    known = Known(SPEECHES[options.dialect].counts_voids)
    book = Book(options.book, fast=options.fast)
    book.failed = lambda error: end(f"{options.book}: {error}")
    book.open(known)
    keys = Keys(options.master_key, options.key_grace, options.dialect) if options.master_key else None
    host = Host(book, known, delay=options.delay, require_sign_on=options.require_sign_on, dialect=options.dialect, keys=keys,
                issuer=Issuer(options.imk, options.dialect) if options.imk is not None else None)
    control = Control(host)
    at = f"{options.host}:{options.port}"
    try:
        port = await host.start(options.host, options.port, secured(options))
        at = f"127.0.0.1:{options.control_port}"
        control_port = await control.start(options.control_port)
    except ssl.SSLError as error:
        end(f"cannot use the certificate, its key or the CA: {error.reason or type(error).__name__}")
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        end(f"cannot listen on {at}: {reason}")
    else:
        print(json.dumps({"port": port, "control_url": f"http://127.0.0.1:{control_port}"}), flush=True)
    reason = await ended
    control.stop()
    await host.stop()
    return reason


def main(argv: list[str]) -> int:
    if argv[:1] == ["book"] and len(argv) == 2:
        try:
            print_effects(Path(argv[1]))
        except (BookError, OSError) as error:
            print(f"acquirer_stubs: {error}", file=sys.stderr)
            return 1
        return 0
    if argv[:1] == ["wallet"]:
        return wallet_control.main(argv[1:])
    options = arguments(argv)
    if options.die_with_parent:
        die_with_parent()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            reason = runner.run(serve(options))
    except BookError as error:
        reason = str(error)
    if reason:
        print(f"acquirer_stubs: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
