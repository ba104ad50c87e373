"""What the host decides: pure rules over a message and what the book already holds.

`decide` changes nothing and `Known.apply` is the only thing that changes the host's knowledge, live and when the book is read back,
so both are the same. Money: `net` is what is posted, `held` what an 0100 holds, both in minor units and signed (a refund is negative).

    0100 0200   amount modulo 100 is the response code if RULED lists it, 10 approves half rounded down, anything else approves
                DE3 31xxxx balance: 00 with DE54     33xxxx verification: 85     02xxxx void: cancels what stands of the DE90 original
    0120 0220   accepted and applied once; DE3 20xxxx takes back, everything else (capture, offline sale, tip amount) adds DE4
                with DE90 (capture, increment, tip, refund) 25 unless it names an approved message of ours: same currency, same DE38 if sent
    0400 0420   00 if DE90, DE37, DE41, DE42, amount and currency name one transaction of ours, else 25; DE95 keeps that much of it
    0500        00 with DE66: 1 if DE74 76 86 88 (refunds and sales, numbers and amounts) are what this book holds of the terminal in the
                currency of DE50 since its last 0500, else 2; the next one counts from here either way. A host that counts voids has a voided sale
                among the sales and its void among the refunds
    0320        00, and booked; the last of an upload says in DE74 how many transactions the others, by their DE76, have named: 95 if they have not
    0800        00
A request under a known key (MTI class and function, DE7, 11, 37, 41, 42) gets the stored decision; with other content it gets 94.
"""
import zlib
from collections import Counter
from typing import NamedTuple

from acquirer_stubs.codec import Message

RULED = {1: "01", 5: "05", 10: "10", 51: "51", 54: "54", 55: "55", 61: "61", 91: "91", 96: "96"}
KINDS = {"10": "request", "20": "request", "12": "advice", "22": "advice", "40": "reversal", "42": "reversal",
         "50": "batch", "52": "batch", "32": "upload", "80": "network", "82": "network"}
REQUIRED = (3, 4, 7, 11, 37, 41, 42, 49)
MONEY_MOVES = frozenset({"00", "10"})
APPROVED = frozenset({"00", "10", "85"})
BATCH_FIGURES = (74, 76, 86, 88)
PLACE = slice(19, 42)  # of a key: DE41 and DE42
UNKNOWN_ORIGINAL, AFTER_REVERSAL, KEY_REUSED, FORMAT_ERROR, UNSUPPORTED, NOT_SIGNED_ON = "25", "12", "94", "30", "40", "91"
BALANCE_MINOR_UNITS = 1_000_000

ECHOED_BEFORE_38 = (2, 3, 4, 7, 11, 12, 13, 18, 22, 25, 32, 37)
ECHOED_AFTER_39 = (41, 42, 49)
NETWORK_BEFORE_38 = (7, 11, 12, 13, 15, 32, 37)
NETWORK_AFTER_39 = (41, 42, 70)


class Decision(NamedTuple):
    """One verdict, complete enough to rebuild the host's knowledge from the book alone."""
    mti: str                # of the answer
    code: str
    reason: str = ""        # why it is not the plain rule: duplicate, unknown_original, ...
    key: str = ""           # remembered under this key; empty = not remembered
    original: str = ""      # the key it acts on
    role: str = ""          # plain | followup | void | reversal | batch | upload; empty = no effect on anything
    requested: int = 0
    amount: int = 0         # DE4 of the answer; of a batch DE66; of an upload the transactions that it names
    net: int = 0
    held: int = 0
    currency: str = ""
    rrn: str = ""
    terminal: str = ""
    approval: str = ""
    fingerprint: int = 0


class Record:
    """A decided message: its own standing effect, and that of what followed it."""
    __slots__ = ("amount", "approval", "code", "currency", "fingerprint", "held", "linked_held", "linked_net", "net", "original",
                 "requested", "role", "rrn", "voided_by")

    def __init__(self, decision: Decision) -> None:
        self.code, self.approval, self.rrn, self.currency = decision.code, decision.approval, decision.rrn, decision.currency
        self.requested, self.amount, self.fingerprint = decision.requested, decision.amount, decision.fingerprint
        self.original, self.role = decision.original, decision.role
        self.net, self.held = decision.net, decision.held
        self.linked_net = self.linked_held = 0
        self.voided_by = ""


class Known:
    """All decided transactions, the originals refused in advance, and the totals per currency."""

    def __init__(self, counts_voids: bool = False) -> None:
        self.records: dict[str, Record] = {}
        self.at: dict[str, list[str]] = {}        # DE41 and DE42 -> keys
        self.counted: dict[str, int] = {}         # key -> what batches have counted of it so far
        self.uploaded: Counter[str] = Counter()   # DE41 and DE42 -> transactions named since the last batch
        self.counts_voids = counts_voids          # whether a batch has voided sales, and their voids
        self.refused_in_advance: set[str] = set()
        self.net: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.decisions: dict[str, Counter[str]] = {}
        self.duplicates = 0

    def slot(self, prefix: str, rrn: str) -> str:
        """The key of a transaction; DE37 is appended only where the rest of the key is taken by another DE37."""
        record = self.records.get(prefix)
        return prefix if record is None or record.rrn == rrn else prefix + rrn

    def apply(self, decision: Decision) -> None:
        """Books one decision; called once per decision line, live and on read-back."""
        if decision.reason == "duplicate":
            self.duplicates += 1
            return
        self.decisions.setdefault(decision.mti, Counter())[decision.code] += 1
        if decision.key:
            self.records[decision.key] = Record(decision)
            self.at.setdefault(decision.key[PLACE], []).append(decision.key)
        if decision.net or decision.held:
            self.net[decision.currency] += decision.net
            self.held[decision.currency] += decision.held
        if decision.role == "upload":
            self.uploaded[decision.key[PLACE]] += decision.amount
        elif decision.role == "batch":
            self.uploaded[decision.key[PLACE]] = 0
            self.counted |= {key: worth for key, worth in self._uncounted(decision.key[PLACE], decision.currency)}
        elif decision.role == "reversal":
            if decision.reason == "unknown_original":
                self.refused_in_advance.add(decision.original)
            elif decision.original:
                self._take_back(decision)
        elif decision.role in ("followup", "void"):
            self._link(decision.original, decision.net, decision.held)
            if decision.role == "void":
                self.records[decision.original].voided_by = decision.key

    def batch(self, place: str, currency: str) -> tuple[int, int, int, int]:
        """Numbers and amounts of refunds and sales since the last batch, as DE74, 76, 86 and 88 say them."""
        changes = [worth - self.counted.get(key, 0) for key, worth in self._uncounted(place, currency)]
        refunds, sales = [-change for change in changes if change < 0], [change for change in changes if change > 0]
        return len(refunds), len(sales), sum(refunds), sum(sales)

    def _uncounted(self, place: str, currency: str) -> list[tuple[str, int]]:
        found = []
        for key in self.at.get(place, ()):
            record = self.records[key]
            if record.currency == currency and record.role in ("plain", "followup", *(("void",) if self.counts_voids else ())):
                parent = self.records.get(record.original)
                voided = record.voided_by or (parent is not None and parent.voided_by)
                worth = 0 if voided and not self.counts_voids else record.net
                if worth != self.counted.get(key, 0):
                    found.append((key, worth))
        return found

    def _take_back(self, decision: Decision) -> None:
        record = self.records[decision.original]
        record.net += decision.net
        record.held += decision.held
        parent = self.records.get(record.original)
        if parent is not None:
            self._link(record.original, decision.net, decision.held)
            if parent.voided_by == decision.original:
                parent.voided_by = ""

    def _link(self, original: str, net: int, held: int) -> None:
        record = self.records[original]
        record.linked_net += net
        record.linked_held += held


def answerable(message: Message) -> bool:
    """Whether the MTI asks for an answer: responses and notifications do not."""
    return message[0][2] in "02"


def answer_mti(mti: str) -> str:
    """ISO 8583: the function digit plus one, the origin digit without its repeat mark."""
    return f"{mti[:2]}{int(mti[2]) + 1}{int(mti[3]) & ~1}"


def fingerprint(message: Message, token: str) -> int:
    """Tells a repeat from another message under the same key; survives a restart because it depends on nothing else."""
    return zlib.crc32(f"{message[3]}|{message[4]}|{message[49]}|{message.get(90, '')}|{message.get(95, '')}|{token}".encode())


def decide(message: Message, known: Known, *, token: str, serial: int, forced: str = "", refused: str = "",
           signed_on: bool = True) -> Decision:
    """The verdict on one answerable message; nothing is changed.

    token: keyed hash of the card number; serial: number of the received line, from which DE38 is made; forced: the response code
    ordered by a fault (money moves only for 00 and 10; a refused advice or reversal is not remembered, so its repeat is judged anew); refused: the
    code of a message that is not processed at all.
    """
    mti = answer_mti(message[0])
    kind = KINDS.get(message[0][1:3])
    if kind == "network":
        return Decision(mti, forced or "00")
    if refused:
        return Decision(mti, refused, "refused")
    if kind is None:
        return Decision(mti, forced or UNSUPPORTED, "unsupported")
    if not signed_on:
        return Decision(mti, forced or NOT_SIGNED_ON, "not_signed_on")
    if kind in ("batch", "upload"):
        return (_close if kind == "batch" else _upload)(message, known, mti, forced)
    missing = [de for de in REQUIRED if de not in message]
    if kind == "reversal" and 90 not in message:
        missing.append(90)
    if missing or not message.get(95, "0" * 42)[:12].isdigit():
        return Decision(mti, forced or FORMAT_ERROR, f"missing_de{missing[0]}" if missing else "bad_de95")
    place = message[41] + message[42]
    prefix = message[0][:3] + message[7] + message[11] + place
    rrn = message[37]
    key = known.slot(prefix, rrn)
    amount = int(message[4])
    draft = Decision(mti, "00", "", key, "", "plain", amount, amount, 0, 0, message[49], rrn, message[41], "",
                     fingerprint(message, token if kind == "request" else ""))
    stored = known.records.get(key)
    if stored is not None:
        if stored.fingerprint != draft.fingerprint:
            return draft._replace(code=KEY_REUSED, reason="key_reused", key="", role="")
        return draft._replace(code=stored.code, reason="duplicate", key="", role="", amount=stored.amount, approval=stored.approval)
    if kind == "reversal":
        return _reverse(message, known, draft, forced)
    if prefix + rrn in known.refused_in_advance:
        return draft._replace(code=AFTER_REVERSAL, reason="after_its_reversal", role="")
    original = _named_by_de90(message, known)
    if message[3][:2] == "02" and kind == "request":
        return _void(message, known, draft, original, forced, serial)
    if 90 in message and not forced and not _follows(message, draft, known.records.get(original)):
        return draft._replace(code=UNKNOWN_ORIGINAL, reason="unknown_original", key="" if kind == "advice" else draft.key, role="")
    return _book(message, draft, kind, original, forced, serial)


def _close(message: Message, known: Known, mti: str, forced: str) -> Decision:
    """Totals of a terminal. A repeat is told what the first one was told."""
    missing = [de for de in (7, 11, 41, 42, 50, *BATCH_FIGURES) if de not in message]
    if missing or forced:
        return Decision(mti, forced or FORMAT_ERROR, f"missing_de{missing[0]}" if missing else "fault")
    place = message[41] + message[42]
    key = message[0][:3] + message[7] + message[11] + place
    figures = tuple(int(message[de]) for de in BATCH_FIGURES)
    drawn = zlib.crc32(f"{figures}|{message[50]}".encode())
    stored = known.records.get(key)
    if stored is not None:
        same = stored.fingerprint == drawn
        return Decision(mti, stored.code if same else KEY_REUSED, "duplicate" if same else "key_reused", amount=stored.amount if same else 0,
                        terminal=message[41], currency=message[50])
    agrees = figures == known.batch(place, message[50])
    return Decision(mti, "00", "in_balance" if agrees else "out_of_balance", key, "", "batch", 0, 1 if agrees else 2, 0, 0, message[50], "",
                    message[41], "", drawn)


def _upload(message: Message, known: Known, mti: str, forced: str) -> Decision:
    """Transactions of a batch that did not agree, or the end of them. A repeat is told what the first one was told."""
    if forced or not {74, 76} & message.keys():  # a host that knows no uploads, or what is none
        return Decision(mti, forced or UNSUPPORTED, "fault" if forced else "unsupported")
    missing = [de for de in (7, 11, 41, 42) if de not in message]
    if missing:
        return Decision(mti, FORMAT_ERROR, f"missing_de{missing[0]}")
    place = message[41] + message[42]
    key = message[0][:3] + message[7] + message[11] + place
    drawn = zlib.crc32(f"{message.get(74)}|{message.get(76)}|{message.get(48)}|{message.get(4)}".encode())
    stored = known.records.get(key)
    if stored is not None:
        same = stored.fingerprint == drawn
        return Decision(mti, stored.code if same else KEY_REUSED, "duplicate" if same else "key_reused", terminal=message[41])
    whole = 74 not in message or int(message[74]) == known.uploaded[place]
    return Decision(mti, "00" if whole else "95", "" if whole else "upload_not_whole", key, "", "upload", 0, int(message.get(76, 0)), 0, 0, "", "",
                    message[41], "", drawn)


def _follows(message: Message, draft: Decision, record: Record | None) -> bool:
    """Whether DE90 names something that was approved, in the same currency and under the approval code that is given with it."""
    return (record is not None and record.code in APPROVED and record.role not in ("reversal", "void") and record.currency == draft.currency
            and message.get(38, record.approval).strip() == record.approval.strip())


def _named_by_de90(message: Message, known: Known) -> str:
    """Key of the original of a void, capture or refund, which carries a DE37 of its own; empty if there is none."""
    if 90 not in message:
        return ""
    prefix = _original_prefix(message)
    return prefix if prefix in known.records else ""


def _original_prefix(message: Message) -> str:
    """DE90 = MTI 4, DE11 6, DE7 10, then institutions (zeros in this dialect)."""
    named = message[90]
    return named[:3] + named[10:20] + named[4:10] + message[41] + message[42]


def _approval(serial: int) -> str:
    return f"{serial % 1_000_000:06d}"


def _book(message: Message, draft: Decision, kind: str, original: str, forced: str, serial: int) -> Decision:
    """A request or an advice that moves or holds money."""
    code, amount = forced or "00", draft.requested
    if kind == "request":
        code = forced or ("85" if message[3][:2] == "33" else RULED.get(amount % 100, "00"))
        if code == "10":
            amount //= 2
    if code not in APPROVED:
        return draft._replace(code=code, reason="fault" if forced else "", key="" if kind == "advice" else draft.key, role="")
    moved = 0 if message[3][:2] in ("31", "33") or code not in MONEY_MOVES else -amount if message[3][:2] == "20" else amount
    hold = message[0][:3] == "010"
    return draft._replace(code=code, original=original, role="followup" if original else "plain", amount=amount,
                          net=0 if hold else moved, held=moved if hold else 0,
                          approval=message[38] if kind == "advice" and 38 in message else _approval(serial))


def _void(message: Message, known: Known, draft: Decision, original: str, forced: str, serial: int) -> Decision:
    if forced and forced not in MONEY_MOVES:
        return draft._replace(code=forced, reason="fault", role="")
    record = known.records.get(original)
    if record is None or not _follows(message, draft, record) or 38 not in message or draft.requested not in (
            record.requested, record.amount, abs(record.net + record.linked_net), abs(record.held + record.linked_held)):
        return draft._replace(code=forced or UNKNOWN_ORIGINAL, reason="unknown_original", role="")
    net, held = record.net + record.linked_net, record.held + record.linked_held
    if not (net or held):
        return draft._replace(code=forced or "12", reason="nothing_stands", role="")
    return draft._replace(code=forced or "00", original=original, role="void", net=-net, held=-held, approval=_approval(serial))


def _reverse(message: Message, known: Known, draft: Decision, forced: str) -> Decision:
    if forced and forced not in MONEY_MOVES:
        return draft._replace(code=forced, reason="fault", key="", role="")
    prefix = _original_prefix(message)
    original = known.slot(prefix, draft.rrn)
    record = known.records.get(original)
    if prefix[:2] == "04":
        return draft._replace(code=forced or UNKNOWN_ORIGINAL, reason="not_reversible", role="")
    if record is None:
        return draft._replace(code=forced or UNKNOWN_ORIGINAL, reason="unknown_original", original=prefix + draft.rrn, role="reversal")
    kept = int(message[95][:12]) if 95 in message else 0
    own = record.net or record.held
    if draft.requested not in (record.requested, record.amount) or draft.currency != record.currency or \
            (kept and (0 < abs(own) < kept or record.role == "void")):
        return draft._replace(code=forced or UNKNOWN_ORIGINAL, reason="amount_mismatch", role="")
    if not own or record.voided_by:
        return draft._replace(code=forced or "00", reason="nothing_stands", role="")
    return draft._replace(code=forced or "00", original=original, role="reversal",
                          net=_change(record.net, kept), held=_change(record.held, kept))


def _change(standing: int, kept: int) -> int:
    """What brings a standing effect, of either sign, down to the part that is kept."""
    return (kept if standing > 0 else -kept) - standing if standing else 0


def answer(message: Message, decision: Decision) -> Message:
    """The answer's elements in ascending order: what the request carried, plus 39, 38 when approved, 54 for balance and partial."""
    if decision.mti[1] in "35":
        return _batch_answer(message, decision)
    network = decision.mti[1] == "8"
    reply: Message = {0: decision.mti}
    for de in NETWORK_BEFORE_38 if network else ECHOED_BEFORE_38:
        if de in message:
            reply[de] = message[de]
    if decision.amount != decision.requested:
        reply[4] = f"{decision.amount:012d}"
    if decision.approval:
        reply[38] = decision.approval
    reply[39] = decision.code
    for de in NETWORK_AFTER_39 if network else ECHOED_AFTER_39:
        if de in message:
            reply[de] = message[de]
    if decision.approval and message[3][:2] == "31":
        reply[54] = f"{message[3][2:4]}02{decision.currency}C{BALANCE_MINOR_UNITS:012d}"
    elif decision.amount != decision.requested:
        reply[54] = f"{message[3][2:4]}57{decision.currency}D{decision.requested:012d}"
    return reply


def _batch_answer(message: Message, decision: Decision) -> Message:
    reply: Message = {0: decision.mti, **{de: message[de] for de in (7, 11, 15) if de in message}, 39: decision.code,
                      **{de: message[de] for de in (41, 42, 50) if de in message}}
    if decision.amount and decision.mti[1] == "5":
        reply[66] = str(decision.amount)
    return reply
