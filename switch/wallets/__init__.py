"""QR wallets: hosts that take a scanned payment code as JSON over HTTP. The example of a plug-in (docs/plug-ins.md)."""

import ipaddress
import secrets
import ssl
from datetime import datetime

from switch.plug_ins import Account, Asked, Leave, Option, PlugIn, Said, Unknown, Unsent
from switch.wallets import wire
from switch.wallets.https import NotHttp, Pool

SECRET_MIN = 16


class WalletHost:
    """One account at one wallet."""

    def __init__(self, account: Account, trust: ssl.SSLContext | None = None) -> None:
        """`trust`: whose certificates are believed, beside plain HTTP; the system's when not given."""
        self.client, self.secret = account.option(PLUG_IN, "client"), account.secret
        secure = account.option(PLUG_IN, "scheme") == "https"
        self.pool = Pool(account.host, account.port, int(account.option(PLUG_IN, "connections")),
                         (trust or ssl.create_default_context()) if secure else None)

    async def reach(self) -> None:
        await self.pool.reach()

    async def close(self) -> None:
        self.pool.close()

    async def ask(self, asked: Asked, leave: Leave, now: datetime) -> Said:
        """One signed exchange. Whatever the host does, it is an answer or Unknown."""
        try:
            connection = await self.pool.take()
        except (OSError, ValueError):
            return Unsent("not_connected")
        request, nonce, whole = wire.call(asked), secrets.token_hex(16), False
        try:
            signed = wire.headers(self.secret, self.client, request, int(now.timestamp()), nonce)
            if not leave():
                whole = True  # nothing was said on it
                return Unsent(leave.refusal)
            connection.write(self.pool.header, request, signed)
            reply = await connection.read()
            whole = True
            return wire.answer(asked, self.secret, nonce, reply)
        except NotHttp as error:
            return Unknown("unreadable", "http", error.size)
        except OSError:
            return Unknown("line_lost")
        finally:
            self.pool.give(connection, whole)


def faults(account: Account) -> list[tuple[str, str]]:
    """Plain HTTP is for a host on this machine; a secret is long enough to sign with."""
    found = []
    if account.option(PLUG_IN, "scheme") == "http" and not _loopback(account.host):
        found.append(("options.scheme", "https: http is for a host on this machine"))
    if len(account.secret) < SECRET_MIN:
        found.append(("secret", f"at least {SECRET_MIN} characters, as agreed with the wallet"))
    return found


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


PLUG_IN = PlugIn(
    "qr_wallet", frozenset({"pay", "query", "close", "cancel", "refund", "void"}), WalletHost,
    {
        "client": Option("how the wallet knows us: 1 to 64 of A-Z a-z 0-9 _ . -", "[A-Za-z0-9_.-]{1,64}"),
        "scheme": Option("https, or http for a host on this machine", "https?", "https"),
        "connections": Option("1 to 512 connections of a worker", "[1-9][0-9]?|[1-4][0-9]{2}|50[0-9]|51[0-2]", "32"),
        "pay_within_s": Option("10 to 900 seconds that the payer has", "[1-9][0-9]|[1-8][0-9]{2}|900", "90"),
    },
    secret=True, faults=faults)
