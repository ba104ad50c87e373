"""Who is calling, and what may they: one function per question, over the directory's records."""

from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from switch.alike import ApiKey
from switch.clock import clock
from switch.directory import Directory
from switch.errors import Problem
from switch.records import Merchant, Store, Terminal
from switch.rights import NARROW
from switch.security import credentials

RECOGNISED_MAX = 4096


class Caller(NamedTuple):
    """A known key. Terminals and staff see what their store made, merchants all of the merchant's, operators all (`merchant_id` None), applicants
    their application alone, support tickets alone (`merchant_id` None too: whoever reads by it asks the role first). `held`: the role of the key
    where it acts in another one's place."""

    role: str
    key_id: str
    merchant_id: UUID | None
    store_id: UUID | None
    terminal_id: UUID | None
    person: str | None
    application_id: UUID | None = None
    held: str | None = None

    @property
    def role_of_key(self) -> str:
        return self.held or self.role


class TerminalCaller(NamedTuple):
    """A terminal with the records that a sale needs."""

    merchant: Merchant
    store: Store
    terminal: Terminal


def identify(directory: Directory, authorization: str | bytes | None) -> Caller:
    """The caller behind an Authorization header. Raises Problem unauthenticated: the same for absent, wrong, expired and revoked."""
    text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization or ""
    scheme, _, token = text.partition(" ")
    if scheme.lower() != "bearer":
        raise Problem("unauthenticated")
    found: ApiKey | None = None

    def digest_of(key_id: str) -> bytes | None:  # the end is the database's instant, and so is the clock
        nonlocal found
        found = directory.keys.find(key_id)
        return found.secret_digest if found is not None and (found.ends_at is None or found.ends_at > clock.now().timestamp()) else None

    key_id = credentials.authenticate(token, digest_of)
    key = found
    if key_id is None or key is None:
        raise Problem("unauthenticated")
    terminal = directory.terminals.get(key.terminal_id) if key.terminal_id is not None else None
    if key.role == "terminal" and terminal is None:
        raise Problem("unauthenticated")
    return Caller(key.role, key_id, key.merchant_id, terminal.store_id if terminal else key.store_id, key.terminal_id, key.person, key.application_id)


class Recognised:
    """Terminals whose key was right before, by the digest of their whole header: a terminal says the same one with each sale. Good for as long as
    the directory holds that very key and that very terminal; keys that end are asked each time.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.known: dict[bytes, tuple[Caller, bytes, Terminal]] = {}

    def identify(self, authorization: bytes | None) -> Caller:
        """As `identify`."""
        directory, digest = self.directory, sha256(authorization or b"").digest()
        if (found := self.known.get(digest)) is not None:
            caller, held, terminal = found
            if directory.keys.get(caller.key_id) is held and directory.terminals.get(terminal.terminal_id) is terminal:
                return caller
        caller = identify(directory, authorization)
        key = directory.keys.get(caller.key_id)
        if isinstance(key, bytes) and caller.terminal_id is not None:  # as alike.Keys holds a terminal's key that does not end
            if len(self.known) >= RECOGNISED_MAX:
                self.known.clear()
            self.known[digest] = caller, key, directory.terminals[caller.terminal_id]
        return caller


def working(directory: Directory, caller: Caller) -> TerminalCaller:
    """The terminal that goes on with what it sold. Raises Problem forbidden: not a terminal's key, or terminal or merchant not active."""
    if caller.role != "terminal" or caller.terminal_id is None:
        raise Problem("forbidden", "Only a terminal's key may make payments.")
    terminal = directory.terminals[caller.terminal_id]
    merchant = directory.merchants[terminal.merchant_id]
    if terminal.status != "active" or merchant.status != "active":
        raise Problem("forbidden", "This terminal or its merchant is not active; ask the operator.")
    return TerminalCaller(merchant, directory.stores[terminal.store_id], terminal)


def selling(directory: Directory, caller: Caller) -> TerminalCaller:
    """The terminal that wants to sell. Raises Problem forbidden: as `working`, or its merchant's contract has ended."""
    found = working(directory, caller)
    ends = found.merchant.sells_until
    if ends is not None and clock.now().timestamp() >= ends:
        raise Problem("forbidden", "The contract of this merchant has ended: nothing more is sold; what was sold before goes on. Ask the operator.")
    return found


def following_up(directory: Directory, caller: Caller) -> UUID:
    """Whose keys the follow-ups of this caller are: the terminal, or the merchant for all of the merchant's keys. Raises Problem forbidden."""
    if caller.role == "terminal":
        return working(directory, caller).terminal.terminal_id
    if caller.role != "merchant" or caller.merchant_id is None:
        raise Problem("forbidden", "Follow-ups are for terminals and merchants.")
    if directory.merchants[caller.merchant_id].status != "active":
        raise Problem("forbidden", "This merchant is not active; ask the operator.")
    return caller.merchant_id


def admitted(caller: Caller, method: str, pattern: str) -> Caller:
    """Whoever has a key of a narrow role, as whom its routes know. Raises Problem forbidden on every other route."""
    narrow = NARROW.get(caller.role)
    if narrow is None:
        return caller
    if f"{method} {pattern}" not in narrow.routes:
        raise Problem("forbidden", narrow.words)
    return caller._replace(role=narrow.acts_as, held=caller.role)


def no_applicant(caller: Caller) -> Caller:
    """Every address but those of applications and tickets. Raises Problem forbidden."""
    if caller.role == "support":
        raise Problem("forbidden", "A key of support is for tickets alone.")
    if caller.role == "applicant":
        raise Problem("forbidden", "An applicant's key is for its application alone.")
    return caller


def require(caller: Caller, *roles: str) -> Caller:
    if caller.role not in roles:
        raise Problem("forbidden", f"This address is for: {', '.join(roles)}.")
    return caller
