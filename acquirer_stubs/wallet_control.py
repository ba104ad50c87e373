"""Control of the wallet over HTTP on loopback, and its command line.

    POST   /faults {match: "any" | {verb}, action, value?, count?}      DELETE /faults      GET /book?after=N      GET /stats
    POST   /host {order, word: "paid" | "declined", reason?}            the payer decides what is pending     POST /host {delay: seconds}
"""
import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from acquirer_stubs.book import PAGE_LINES_MAX, BookError
from acquirer_stubs.control import Control, Refused
from acquirer_stubs.faults import FAULTS_MAX
from acquirer_stubs.wallet import Wallet, totals
from acquirer_stubs.wallet_host import WalletBook, WalletHost, parse


class WalletControl(Control):
    """The routes of this host; reading and answering are those of the others."""

    def __init__(self, wallet_host: WalletHost) -> None:
        self.wallet_host, self._server = wallet_host, None
        self.tasks: set[asyncio.Task[bool]] = set()
        self.routes = {("POST", "/faults"): self.order, ("DELETE", "/faults"): self.forget, ("GET", "/book"): self.book,
                       ("POST", "/host"): self.act, ("GET", "/stats"): self.stats}

    def order(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        faults = self.wallet_host.faults
        if len(faults) >= FAULTS_MAX:
            raise Refused(400, f"at most {FAULTS_MAX} faults")
        try:
            faults.append(parse(order))
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return 201, json.dumps({"faults_left": len(faults)})

    def forget(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        deleted = len(self.wallet_host.faults)
        self.wallet_host.faults.clear()
        return 200, json.dumps({"deleted": deleted})

    def book(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        after = query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 16):
            raise Refused(400, "after: a whole number")
        lines, following = self.wallet_host.book.page(int(after), PAGE_LINES_MAX)
        return 200, f'{{"items":[{",".join(lines)}],"next":{json.dumps(following)}}}'

    def act(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        if isinstance(order, dict) and order.keys() == {"delay"} and type(order["delay"]) in (int, float) and 0 <= order["delay"] <= 3600:
            self.wallet_host.delay = float(order["delay"])
            return 200, "{}"
        known = isinstance(order, dict) and self.wallet_host.wallet.orders.get(str(order.get("order", "")))
        if not known or known.word != "pending" or order.get("word") not in ("paid", "declined"):
            raise Refused(400, "an order that is pending and word paid or declined, or delay, is expected")
        task = asyncio.get_running_loop().create_task(self.wallet_host.person(order["order"], order["word"], str(order.get("reason", ""))))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return 200, "{}"

    def stats(self, query: dict[str, str], order: Any) -> tuple[int, str]:
        host = self.wallet_host
        return 200, json.dumps({**totals(host.wallet), **host.counts, "faults_left": len(host.faults), "book_lines": host.book.seq})


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("acquirer_stubs wallet", description="A simulated QR wallet.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--control-port", type=int, default=0, help="HTTP control on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--client", default="shop", help="who may ask")
    parser.add_argument("--secret", default="a secret for tests only", help="what both sides sign with")
    parser.add_argument("--pays-after", type=float, default=1.0, metavar="SECONDS", help="when an amount that ends in 09 is paid")
    parser.add_argument("--fast", action="store_true", help="no fsync; the book is written all the same")
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> str:
    """Runs until SIGTERM or SIGINT; returns the fault that ended it, or an empty text."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def end(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, "")
    wallet, book = Wallet(options.pays_after), WalletBook(options.book, fast=options.fast)
    book.open(wallet)
    host = WalletHost(book, wallet, options.client, options.secret)
    control = WalletControl(host)
    try:
        port = await host.start(options.host, options.port)
        control_port = await control.start(options.control_port)
    except (OSError, OverflowError) as error:
        end(f"cannot listen: {error}")
    else:
        print(json.dumps({"port": port, "control_url": f"http://127.0.0.1:{control_port}"}), flush=True)
    reason = await ended
    control.stop()
    await host.stop()
    return reason


def main(argv: list[str]) -> int:
    try:
        reason = asyncio.run(serve(arguments(argv)))
    except BookError as error:
        reason = str(error)
    if reason:
        print(f"acquirer_stubs: {reason}", file=sys.stderr)
    return 1 if reason else 0
