"""What a dialect's literal is made of: each key with its shape, its default and what it says. docs/dialects.md is written from this file."""

from collections.abc import Mapping
from typing import NamedTuple

from messages.fields import CONTENT
from messages.framing import ECHOED, KINDS
from messages.headers import HEADERS

REQUIRED = object()  # the default of a key that must be there
TEXT_CODES = ("ascii", "latin-1", "cp500", "cp037")
PREFIXES = (0, 1, 2, 3, 4, 5, 6)
VERDICTS = frozenset({"approved", "partial", "declined", "doubt", "pending"})
ADVICES = frozenset({"none", "retry_new_key", "other_card", "enter_pin", "call_issuer", "capture_card", "new_payment_allowed", "ask_again"})
REVERSAL_OUTCOMES = frozenset({"acknowledged", "not_found", "retry", "park"})
REVERSAL_STANS = ("own", "original")
REASONS = ("unanswered", "answered")  # why a request is undone: nothing came in time, or an answer that may not stand
# And, where the dialect says it in a word of its own: an answer whose MAC was wrong, an approval that the chip refused (its ARPC: EMV book 2, 8.2).
MAC_ERROR, CHIP_DECLINED = "mac_error", "chip_declined"
REASONS_OF_THEIR_OWN = (MAC_ERROR, CHIP_DECLINED)
MAC_BYTES, MAC_BYTES_LEAST = 8, 4  # a shorter one is guessed too soon
MAC_ALGORITHMS = ("iso9797_1", "iso9797_3", "cmac", "unionpay_ecb", "xor_fold")
KEY_PURPOSES = ("pin", "mac", "track")
KEY_ALGORITHMS = ("des", "tdes", "aes", "sm4")
PURPOSES = ("sign_on", "sign_off", "echo", "cut_over", "key_change")
VERBS = ("purchase", "cash_advance", "preauthorization", "increment", "balance_inquiry", "account_verification", "capture", "offline_sale", "tip",
         "void", "refund", "reversal", "batch_close", "batch_upload", "batch_end", "query", "close")
MODES = ("manual", "magstripe", "chip", "contactless", "fallback", "qr", "pin_present", "pin_absent")
LIKE = ("codes", "codes_only_for", "reversal_codes", "entry_modes")  # tables that a dialect may take from another, entry by entry

# What a template such as "22{batch}000" may name. Values are of the row that is said; original_* are of the transaction that it follows or undoes.
NAMES: Mapping[str, str] = {
    "mti": "MTI",
    "stan": "DE11, 6 digits",
    "mcc": "ISO 18245, 4 digits",
    "rrn": "our DE37, 12 characters",
    "amount": "12 digits, minor units",
    "processing_code": "DE3, 6 digits",
    "transmitted_at": "DE7, MMDDhhmmss, UTC",
    "local_time": "hhmmss at the terminal",
    "local_date": "MMDD at the terminal",
    "local": "YYMMDDhhmmss at the terminal",
    "batch": "6 digits: the business date, YYMMDD",
    "expiry": "YYMM",
    "approval_code": "DE38, 6 characters, of the original or of an offline sale; blanks without one",
    "institution": "the acquirer's DE32, or nothing",
    "institution_length": "its length, 2 digits",
    "terminal": "DE41 as it is stored, without blanks around it",
    "merchant": "DE42 in the same way",
    "currency": "DE49, three digits",
    "original_mti": "MTI",
    "original_stan": "DE11",
    "original_transmitted_at": "DE7",
    "original_local_time": "hhmmss",
    "original_local_date": "MMDD",
    "original_local": "YYMMDDhhmmss",
    "original_batch": "as batch",
    "original_amount": "12 digits",
    "original_rrn": "the DE37 that the host gave, else ours",
    "reversal_reason": "one of reversal_reasons",
    "original_elements": "DE56 of 1993: MTI, DE11, DE12, LL and institution of the original",
    "transaction": "our own number of it, 32 hex digits",
    "original_transaction": "that of what it follows, else its own",
}
# Of the answer that the original got, for what follows or undoes it; names of fields that the dialect shows, since only those are stored.
ANSWER_NAMES: Mapping[str, str] = {
    "answer_N": "field N of the answer that the original got, such as `{answer_31}`; nothing where there was none. It must be in `shown`.",
    "answer_N_P": "part N.P of the same, such as `{answer_62_2}`",
}
# What the totals of a terminal's batch are made of: sales are debits of cardholders, refunds their credits (ISO 8583, DE74 to DE97).
FIGURES: Mapping[str, str] = {
    "debits_number": "of the dialect's own brands where it names them, else of all; so each of these four",
    "debits_amount": "minor units", "credits_number": "how many", "credits_amount": "minor units",
    "foreign_debits_number": "of all other brands; so each of these four", "foreign_debits_amount": "minor units",
    "foreign_credits_number": "how many", "foreign_credits_amount": "minor units",
    "net": "of all: C or D, then what it is",
    "currency": "ISO 4217, three digits",
    "date": "the business date, YYMMDD or its end",
    "zero": "what only an answer says",
}
BATCH_OUTCOMES = ("in_balance", "out_of_balance", "told", "again")
# What templates of batch messages may name: of the message, and of the transaction that an upload names.
BATCH_NAMES: Mapping[str, str] = {
    "stan": "DE11, 6 digits", "transmitted_at": "MMDDhhmmss, UTC", "local": "YYMMDDhhmmss, UTC", "batch": "6 digits: the business date, YYMMDD",
    "terminal": "DE41 as it is stored, without blanks around it", "merchant": "DE42 in the same way",
    "count": "of transactions that the host took in this upload, 4 digits",
}
ITEM_NAMES: Mapping[str, str] = {
    "kind": "00 for one of the dialect's own brands, else 01", "item_stan": "its DE11", "pan": "its card number, or nothing",
    "card": "its card number behind zeros, 20 digits", "amount": "12 digits, minor units", "currency": "ISO 4217, three digits",
    "rrn": "the DE37 that the host gave, else ours", "approval_code": "DE38, 6 characters",
    "original_batch": "of what it follows, else its own: YYMMDD", "original_stan": "DE11 of the same", "original_local_date": "MMDD of the same",
}
CODE_NAMES: Mapping[str, str] = {"code": "the payment code that was scanned", "code_length": "its length, three digits"}


class Coding(NamedTuple):
    """How parts are written on the wire, unless a field says otherwise."""

    text: str = "ascii"  # an, ans, x+n, and lengths, MTI and bitmaps where they are text: one of TEXT_CODES
    mti: str = "text"  # text (4 characters), bcd (2 bytes)
    bitmap: str = "text"  # text (16 upper-case hex characters), binary (8 bytes)
    digits: str = "text"  # n: text, bcd (two digits per byte)
    track: str = "text"  # z: text, bcd ('=' leaves as D)
    binary: str = "text"  # b: text (hex characters, which a length counts), binary (bytes, which a length counts)
    length: str = "text"  # of variable fields: text, bcd, binary (one byte for a prefix of 2, two for 3)
    pad: str = "left 0"  # of an odd number of digits in bcd: side and digit


CODINGS: Mapping[str, tuple[str, ...]] = {
    "text": TEXT_CODES, "mti": ("text", "bcd"), "bitmap": ("text", "binary"), "digits": ("text", "bcd"), "track": ("text", "bcd"),
    "binary": ("text", "binary"), "length": ("text", "bcd", "binary"),
    "pad": tuple(f"{side} {digit}" for side in ("left", "right") for digit in "0F"),
}


class Field(NamedTuple):
    """One data element."""

    number: str
    name: str
    type: str  # a key of fields.CONTENT
    length: int  # characters on our side: exact when prefix is 0, else the maximum; hex characters for type b
    prefix: int  # digits of the length prefix: 0 (fixed), 2 (LLVAR), 3 (LLLVAR)
    code: str = "ascii"  # a text code, bcd or binary
    length_code: str = "ascii"  # a text code, bcd or binary
    pad: str = "left 0"

    def units(self) -> int:
        """What a length counts: bytes of binary, else characters or digits."""
        return self.length // 2 if self.code == "binary" else self.length

    def width(self) -> int:
        """Bytes of the length."""
        if self.length_code == "binary":
            return self.prefix // 2 + self.prefix % 2
        return (self.prefix + 1) // 2 if self.length_code == "bcd" else self.prefix


class ResponseCode(NamedTuple):
    """What a DE39 means for the payment."""

    verdict: str  # approved, partial, declined, doubt, pending (the payer decides: it is asked for again)
    reason: str
    advice: str  # what the terminal should do next: one of ADVICES


class MessageRule(NamedTuple):
    """How one verb is said: its MTI, the fields whose value the verb fixes, those it carries beyond `request_fields`, and its templates."""

    mti: str
    fixed: Mapping[str, str]
    required: tuple[str, ...]
    composed: Mapping[str, str] = {}  # field -> template: see NAMES


class QueryRule(NamedTuple):
    """How a host is asked for what it has not decided. Seconds."""

    first_s: float = 2.0  # until it is asked, and then about half as long again each time
    longest_s: float = 15.0
    limit_s: float = 90.0  # what the payer has; from then on the order is asked to be closed


class BatchRule(NamedTuple):
    """How the totals of a terminal are said, and where the host says what it thinks of them."""

    figures: Mapping[str, str] = {  # field, or sub-field by position, of batch_close -> one of FIGURES, in its width
        "15": "date", "28": "date", "50": "currency", "74": "credits_number", "76": "debits_number", "86": "credits_amount", "88": "debits_amount",
        "97": "net"}
    # DE39 -> in_balance, out_of_balance, told (what stands at `told` says it), again (nobody compared); any other refuses
    codes: Mapping[str, str] = {"00": "told", "95": "out_of_balance", **dict.fromkeys(("06", "09", "68", "90", "91", "96", "98"), "again")}
    told: tuple[str, ...] = ("66",)  # fields or sub-fields by position, all of which must say so; one that is not there says nothing
    says: Mapping[str, str] = {"1": "in_balance", "2": "out_of_balance"}
    accepted: tuple[str, ...] = ("00",)  # DE39 of an upload
    own_brands: tuple[str, ...] = ()  # whose figures stand apart from those of the rest; none: one sum for all
    voids: bool = False  # a sale that was voided counts as a debit and its void as a credit, instead of neither
    items: tuple[str, int, str] | None = None  # an upload's field of records behind a count, the most in one, a template; None: one in a message


class NetworkRule(NamedTuple):
    """How network management is said."""

    mti: str = "0800"
    code: str = "70"  # the field, or sub-field, whose value is one of `network`
    composed: Mapping[str, str] = {"7": "{transmitted_at}", "11": "{stan}", "70": "{code}"}
    echoed: tuple[str, ...] = ("7", "11", "70")  # in an answer of ours, and equal in an answer to us where they are there
    approved: str = "00"  # DE39
    refused: str = "30"
    mtis: Mapping[str, str] = {}  # purpose -> MTI, where it is another one


class MacRule(NamedTuple):
    """The last field of a message, over everything before it from the MTI on. Used with an acquirer that has keys."""

    fields: tuple[str, ...]  # the one, or 64 and 128: whichever is the last of the message
    algorithm: str  # one of MAC_ALGORITHMS
    classes: tuple[str, ...]  # second digits of the MTIs that carry one
    error: str  # the DE39 that says that a MAC was wrong
    length: int = MAC_BYTES  # its left bytes that are said, zeros behind them


class KeyPart(NamedTuple):
    """A working key in the answer to a sign-on: encrypted under the master key, then its check value."""

    purpose: str
    algorithm: str
    length: int  # bytes
    kcv: int  # bytes; 0 for a track key that comes without one
    mark: str = ""  # hex that stands before it and says what it is


class KeyExchange(NamedTuple):
    """Working keys that a sign-on brings. The length of the field decides what is in it."""

    field: str
    layouts: Mapping[int, tuple[KeyPart, ...]]  # bytes -> parts
    sign_on_after: Mapping[str, int]  # DE39 -> so many running make the line sign on anew; a wrong MAC counts as the MAC rule's code


NETWORK_NAMES: Mapping[str, str] = {
    "code": "of the purpose, from network", "stan": "a new DE11", "transmitted_at": "MMDDhhmmss, UTC", "local_time": "hhmmss, UTC",
    "local_date": "MMDD, UTC", "local": "YYMMDDhhmmss, UTC", "rrn": "YDDDhh and the DE11",
}


class Key(NamedTuple):
    """One key of a literal."""

    shape: str
    default: object
    says: str


KEYS: Mapping[str, Key] = {
    "name": Key("text", REQUIRED, "The name that settings rows and commands use."),
    "like": Key("name", None, f"A dialect of ours in which {', '.join(LIKE)} begin: an entry of this literal stands instead, None takes one out."),
    "framing": Key("(kind, bytes[, polls])", REQUIRED, "How messages are cut out of the stream, and the most that one may have, its header included. "
                   f"With {ECHOED!r} a frame without a message (a length of zero, or of 2 where it counts itself) is a poll: it goes back as it "
                   "came, and shows that the host lives; else it loses the framing, or is passed over in kinds that say so."),
    "header": Key("(kind, hex)", None, "What stands before the MTI, and the one that our requests carry."),
    "coding": Key("{part: code}", {}, "How parts are written on the wire; see below."),
    "fixed_bitmap": Key("bool", False, "Two bitmaps always, with bit 1 clear: a quirk of some hosts."),
    "fields": Key("{number: (name, type, length, prefix[, {option: code}])}", REQUIRED,
                  "The data elements; x+n in bcd is a sign in text, then digits. "
                  "Options: code (a text code, bcd, binary), length_code, pad."),
    "sub_fields": Key("{number: layout}", {}, "How a field is divided; see below."),
    "match": Key('{class or "*": (number, ...)}', REQUIRED,
                 "What an answer is matched by, per second digit of the MTI. Sub-fields by position may be named."),
    "agree": Key("(number, ...)", REQUIRED, "What must be in the answer as it was in the request; DE4 may be less in a partial approval."),
    "agree_if_present": Key("(number, ...)", REQUIRED, "What must be the same where the answer has it."),
    "approval_code_required": Key("(MTI, ...)", REQUIRED, "Answers that approve an amount only with DE38."),
    "approval_code_exempt": Key("(two digits, ...)", REQUIRED, "Starts of DE3 for which they may come without."),
    "codes": Key("{code: (verdict, reason, advice)}", REQUIRED, "DE39 of requests. A code that is not here is doubt."),
    "codes_only_for": Key("{code: (two digits, ...)}", REQUIRED, "Codes that hold only for these starts of DE3."),
    "reroute_codes": Key("(code, ...)", (), "DE39 of declined requests after which another acquirer may be asked for the same sale."),
    "outage_codes": Key("(code, ...)", (), "DE39 by which a host says that it, or who stands behind it, cannot serve: breakers count them."),
    "reversal_codes": Key("{code: outcome}", REQUIRED, "DE39 of reversals. A code that is not here is sent again."),
    "reversal_first": Key("bool", REQUIRED, "Whether a terminal's open reversal must be done before its next sale."),
    "not_reversed": Key("(verb, ...)", (), "What has no effect at the host, which takes no reversal for it: what is owed for it is closed unsaid."),
    "reversal_stan": Key(" | ".join(REVERSAL_STANS), "own", "DE11 of a reversal: a number of its own, or that of its original."),
    "repeat_mark": Key("bool", True, "Whether a repeat says so in its MTI (0421) or is the same message again (0420)."),
    "reject_code": Key("code", None,
                       "The DE39 by which a request that came back under a reject header counts as answered; without it, it times out."),
    "reversal_reasons": Key("{cause: text}", {},
                            f"What {{reversal_reason}} is for the causes {', '.join(REASONS)} and, if it has its own, "
                            f"{', '.join(REASONS_OF_THEIR_OWN)}."),
    "mac": Key("(number or (64, 128), algorithm, (class, ...), code[, bytes])", None,
               "The field with the MAC, always the last one, or ('64', '128'): 128 in a message with a field above 64, else 64; "
               f"one of {', '.join(MAC_ALGORITHMS)}; second digits of the MTIs that carry it; the DE39 that says it was wrong; "
               f"how many of its {MAC_BYTES} bytes are said, from {MAC_BYTES_LEAST}, with zeros behind them (AS 2805.4, ANSI X9.9)."),
    "key_exchange": Key("(number, {bytes: ((purpose, algorithm, bytes, bytes of check value[, mark]), ...)}, {code: count})", None,
                        "The field of a sign-on's answer, or of a host's key change, "
                        "with working keys, its layouts by length, a mark being hex that stands before a key; "
                        "after how many answers with a code, running, "
                        "the line signs on anew (a wrong MAC counts as the code of mac)."),
    "with_pin": Key("{number: value}", {}, "What goes with a PIN block."),
    "request_fields": Key("(number, ...)", REQUIRED, "What every request carries beside what its verb fixes."),
    "omitted": Key("(number, ...)", (), "House fields that this dialect never says."),
    "composed": Key("{number: template}", {}, "Fields of every money message that are made from a template."),
    "icc_dataset": Key("hex", None, "Identifier of the dataset in which DE55 carries chip data; two bytes of its length stand behind it."),
    "entry_forms": Key("{three digits: text}", {}, "DE22 as this dialect writes it, by the house form (two digits entry, one PIN)."),
    "messages": Key("{verb: (MTI, {number: value}, (number, ...)[, {number: template}])}", REQUIRED,
                    "What is said for each verb. A verb that is not here is not offered. void.capture is a capture's void where that is another "
                    "message, reversal.capture the reversal of what was said as a capture; so for other verbs."),
    "network": Key("{purpose: code}", REQUIRED, f"Codes of {', '.join(PURPOSES)}. A purpose that is not here is not done. "
                   "A host names the business date that it opens in DE15, as MMDD or YYMMDD."),
    "network_rule": Key("{part: value}", {}, "How network management is said; see below."),
    "batch": Key("{part: value}", {}, "How a terminal's totals are said and answered; see below."),
    "qr_code": Key("(number, template)", None, "The field that holds the payment code of a QR sale, made of {code} and {code_length}."),
    "query": Key("{part: seconds}", {}, "When an order is asked for that the host has not decided: first_s, longest_s, limit_s."),
    "entry_modes": Key("{mode: two digits or one}", REQUIRED, "House forms of DE22: two digits per way of reading, one for the PIN."),
    "never_stored": Key("(number, ...)", REQUIRED, "Written nowhere, in no form."),
    "shown": Key("text of numbers", REQUIRED, "Shown as they are; every other field is masked by rule or shown by its length."),
}


def page() -> str:
    """docs/dialects.md, whole."""
    return "\n".join([
        "# The grammar of a dialect", "",
        "Written from the types by `switch dialect grammar`; a test keeps it so. A dialect is one file with one literal, `DIALECT = {...}`, or the",
        "literal alone: texts, numbers, True, False, None, tuples, lists and dicts, no key twice in one dict. It is read and never run.",
        "`switch dialect check FILE` says what is wrong, and in which line; no acquirer is added to an unsound one.",
        "What a host cannot do is left out.", "",
        *_table("Keys", ("key", "shape", "default", "says"),
                [(f"`{name}`", f"`{key.shape}`", _default(key.default), key.says) for name, key in KEYS.items()]),
        *_table("coding", ("part", "one of", "default"),
                [(f"`{part}`", " ".join(f"`{code}`" for code in CODINGS[part]), f"`{Coding._field_defaults[part]}`") for part in Coding._fields]),
        "`text` as the code of a part means the code named by `text`. Lengths count characters of text, digits of bcd, bytes of binary.",
        "`length` in `fields` counts characters on our side, where binary is hex text.", "",
        *_table("Content types", ("type", "characters"), [(f"`{name}`", f"`{form}`".replace("|", "\\|")) for name, form in CONTENT.items()]),
        *_table("Framings", ("kind", "says"), [(f"`{name}`", kind.says) for name, kind in KINDS.items()]),
        *_table("Headers", ("kind", "says"), [(f"`{name}`", says) for name, says in HEADERS.items()]),
        *_table("Sub-fields", ("layout", "says"), [(f"`{form}`", says) for form, says in LAYOUTS.items()]),
        *_table("network_rule", ("part", "default"), [(f"`{part}`", f"`{NetworkRule._field_defaults[part]!r}`") for part in NetworkRule._fields]),
        *_table("batch", ("part", "default"), [(f"`{part}`", f"`{BatchRule._field_defaults[part]!r}`") for part in BatchRule._fields]),
        "`batch_close` carries 7, 11, 41 and 42 unless they are omitted, and the figures of the fields that it requires. Where the totals do not",
        "agree and there is `batch_upload`, each transaction is said (by `batch_upload.refund`, one in a message, a credit), then `batch_end`.", "",
        *_table("query", ("part", "default"), [(f"`{part}`", f"`{QueryRule._field_defaults[part]!r}`") for part in QueryRule._fields]),
        *_table("Names in templates", ("name", "value"), [(f"`{{{name}}}`", says) for name, says in {**NAMES, **ANSWER_NAMES}.items()]),
        "A name may have a width of 1 to 99, in Python's format for text: `{terminal:16}` and `{terminal:<16}` fill with blanks behind it,",
        "`{terminal:>16}` before it, `{institution:0>11}` with another character; nothing is cut. A field of a money message that comes out empty",
        "(all that it names is empty, and it says nothing else or only `{institution_length}`) is left out; what a width fills is not empty.", "",
        *_table("Figures of a batch", ("name", "value"), [(f"`{name}`", says) for name, says in FIGURES.items()]),
        *_table("Names in templates of batches", ("name", "value"),
                [(f"`{{{name}}}`", says) for name, says in {**BATCH_NAMES, **ITEM_NAMES}.items()]),
        *_table("Names in the template of qr_code", ("name", "value"), [(f"`{{{name}}}`", says) for name, says in CODE_NAMES.items()]),
        *_table("Names in templates of network_rule", ("name", "value"), [(f"`{{{name}}}`", says) for name, says in NETWORK_NAMES.items()]),
        "Verbs: " + ", ".join(VERBS) + ". Modes of entry: " + ", ".join(MODES) + ".", "",
        "Verdicts: " + ", ".join(sorted(VERDICTS)) + ". Advices: " + ", ".join(sorted(ADVICES)) + ". Outcomes of a reversal: "
        + ", ".join(sorted(REVERSAL_OUTCOMES)) + ".", "",
    ])


LAYOUTS: Mapping[str, str] = {
    '("positional", ((name, type, length[, digits]), ...))':
        "One after the other, of fixed lengths, or of at most that behind a length of so many digits; what stands at the end may be absent from "
        "some point on.",
    '("records", digits, ((name, type, length), ...))': "A count of so many digits, then that many records; 0: as many as there are.",
    '("tlv", tag, length[, head])': "Tags of so many characters, lengths of so many digits, values; before them so many characters, part 0.",
    '("ber",)': "BER-TLV (EMV book 3, annex B) in hex.",
    '("bitmapped", bytes, {bit: (name, code, bytes[, digits])})':
        "Hex of a bitmap of its own, then the parts whose bits are set; codes: bcd, binary and those of text. With digits: at most that many bytes, "
        "behind a length in the part's own code.",
    '("by_mti", {start: layout})': "One of several, by how the MTI starts.",
    '("by_length", {characters: layout}, layout)': "One of several, by how long the field is; the last one for any other length.",
}


def _default(value: object) -> str:
    return "must be there" if value is REQUIRED else f"`{value!r}`"


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [f"## {title}", "", *lines, *("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |" for row in rows), ""]
