"""What can be wrong with a dialect, in words that name the part: parts that do not exist, values that cannot be said."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from messages.compiled import LENGTH_MAX
from messages.fields import CONTENT, check
from messages.grammar import (
    ADVICES,
    BATCH_NAMES,
    CODE_NAMES,
    CODINGS,
    ITEM_NAMES,
    KEY_ALGORITHMS,
    KEY_PURPOSES,
    KEYS,
    LIKE,
    MAC_ALGORITHMS,
    NAMES,
    NETWORK_NAMES,
    PREFIXES,
    PURPOSES,
    REASONS,
    REASONS_OF_THEIR_OWN,
    REQUIRED,
    REVERSAL_OUTCOMES,
    REVERSAL_STANS,
    TEXT_CODES,
    VERDICTS,
    Coding,
    Field,
    NetworkRule,
    ResponseCode,
)
from messages.subfields import Bitmapped, Tlv, places
from messages.templates import NAMED, TEMPLATE, answered

if TYPE_CHECKING:
    from messages.dialect import Dialect

FIELD_NUMBERS = frozenset(str(number) for number in range(2, 129)) - {"65"}  # 1 and 65 are the bits of further bitmaps
HELD = {"37": 12, "38": 6, "39": 4}  # characters that the books have for what a host gives
NEVER_SAID_AGAIN = frozenset({"2", "14", "35", "36", "45", "52", "55"})  # of a card: no message takes it from a stored answer
MTI_OF_SALE = re.compile("[0-9][12][0-9][0-9]").fullmatch
UNKNOWN_MAX = 5
SALES = frozenset({"purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification"})
_NONE = Field("", "", "", 0, 0)


def key_faults(literal: object) -> list[str]:
    """Keys that are missing or unknown."""
    if not isinstance(literal, Mapping):
        return ["not a mapping of keys"]
    given = {*literal, *(LIKE if literal.get("like") else ())}
    missing = [f"{name}: missing ({key.shape})" for name, key in KEYS.items() if key.default is REQUIRED and name not in given]
    unknown = [name for name in literal if name not in KEYS]
    more = [f"and {len(unknown) - UNKNOWN_MAX} unknown keys more"] if len(unknown) > UNKNOWN_MAX else []
    return missing + [f"{str(name)[:60]}: unknown key; known: {', '.join(KEYS)}" for name in unknown[:UNKNOWN_MAX]] + more + _part_faults(literal)


def _part_faults(literal: Mapping[str, Any]) -> list[str]:
    coding, rule = literal.get("coding") or {}, literal.get("network_rule") or {}
    if not isinstance(coding, Mapping) or not isinstance(rule, Mapping):
        return [f"{part}: a dict, {{...}}" for part, value in (("coding", coding), ("network_rule", rule)) if not isinstance(value, Mapping)]
    faults = [f"coding: no part {part}; known: {', '.join(Coding._fields)}" for part in coding if part not in Coding._fields]
    faults += [f"coding: {part} is {code!r}, none of {', '.join(CODINGS[part])}" for part, code in coding.items()
               if part in CODINGS and code not in CODINGS[part]]
    return faults + [f"network_rule: no part {part}; known: {', '.join(NetworkRule._fields)}" for part in rule if part not in NetworkRule._fields]


def faults(dialect: "Dialect") -> list[str]:
    """Contradictions within a dialect; those of the field table first, since the others read it."""
    rules = (_reference_faults, _code_faults, _message_faults, _template_faults, _network_faults, _query_faults, _batch_faults, _payment_code_faults,
             _mac_faults)
    return _field_faults(dialect) or _missing_faults(dialect) or [fault for find in rules for fault in find(dialect)]


def _field_faults(dialect: "Dialect") -> list[str]:
    found = []
    for field in dialect.fields.values():
        most = 10**field.prefix - 1 if field.length_code != "binary" else 255 if field.prefix == 2 else LENGTH_MAX
        if field.number not in FIELD_NUMBERS:
            found.append(f"field {field.number}: not a number from 2 to 128 (65 is a bitmap)")
        elif field.type not in CONTENT:
            found.append(f"field {field.number}: type {field.type} is none of {', '.join(CONTENT)}")
        elif field.code not in (*TEXT_CODES, "bcd", "binary") or field.length_code not in (*TEXT_CODES, "bcd", "binary"):
            found.append(f"field {field.number}: code is none of {', '.join(TEXT_CODES)}, bcd, binary: {field.code}, {field.length_code}")
        elif field.pad not in CODINGS["pad"]:
            found.append(f"field {field.number}: pad is none of {', '.join(CODINGS['pad'])}: {field.pad}")
        elif field.prefix not in PREFIXES or not 1 <= field.units() <= (most if field.prefix else 999):
            found.append(f"field {field.number}: length {field.length} does not fit a prefix of {field.prefix} digits")
        elif field.type == "b" and field.length % 2:
            found.append(f"field {field.number}: hex text of odd length")
        elif (field.code == "binary") != (field.type == "b") and (field.code == "binary" or field.code == "bcd"):
            found.append(f"field {field.number}: code {field.code} cannot hold type {field.type}")
        elif field.code == "bcd" and field.type not in ("n", "z", "x+n"):
            found.append(f"field {field.number}: code bcd cannot hold type {field.type}")
        elif field.code == "bcd" and field.type == "x+n" and (field.prefix or not field.length % 2):
            found.append(f"field {field.number}: a sign and digits in bcd are of fixed, odd length, and not {field.length}")
    return found


def _missing_faults(dialect: "Dialect") -> list[str]:
    found = [f"fields: {number} ({name}) is missing; every host has it" for number, name in (("11", "STAN"), ("39", "response code"))
             if number not in dialect.fields]
    found += [f"field {number}: the books keep at most {most} characters of it, and it has {dialect.fields[number].length}"
              for number, most in HELD.items() if number in dialect.fields and dialect.fields[number].length > most]
    if not dialect.messages:
        found.append("messages: none; a dialect says at least one verb")
    elif not {"reversal", "query"} & dialect.messages.keys():
        found.append("messages: no reversal, by which a sale without an answer is undone")
    return found


def _reference_faults(dialect: "Dialect") -> list[str]:
    named: dict[str, Iterable[str]] = {
        "match": [number for numbers in dialect.match.values() for number in numbers if number not in dialect.key_cuts],
        "agree": dialect.agree,
        "agree_if_present": dialect.agree_if_present,
        "request_fields": dialect.request_fields,
        "sub_fields": dialect.sub_fields,
        "composed": dialect.composed,
        "never_stored": dialect.never_stored,
        "shown": [number for number in dialect.shown if "." not in number],
    }
    found = [f"{part}: no field {number} in fields" for part, numbers in named.items() for number in numbers if number not in dialect.fields]
    if "*" not in dialect.match:
        found.append('match: no default "*"')
    # A match key is read back as one text: only fixed fields cannot run into each other.
    found += [f"match: field {number} is not fixed: only fields, and parts by position, of a fixed length" for number in named["match"]
              if dialect.fields.get(number, _NONE).prefix]
    keys = [(part, numbers) for part, numbers in dialect.match.items() if part == "*"]
    found += [f"match {part}: neither 11 nor 37, so two requests at once have one key" for part, numbers in keys
              if not ({"11", "37"} & set(numbers) or dialect.asks or not dialect.network)]
    found += [f"match: field {number} is in no request" for number in named["match"] if number in ("38", "39")]
    found += [f"shown: field {number} is never stored" for number in dialect.shown if number.partition(".")[0] in dialect.never_stored]
    return found + [f"field {number}: card data, so it belongs to never_stored" for number in ("35", "36", "45", "52")
                    if number in dialect.fields and number not in dialect.never_stored]


def _code_faults(dialect: "Dialect") -> list[str]:
    length = dialect.fields["39"].length if "39" in dialect.fields else 2
    words = {2: "two", 3: "three"}
    found = [f"code {code}: not {words.get(length, length)} characters" for code in (*dialect.codes, *dialect.reversal_codes) if len(code) != length]
    for code, response in dialect.codes.items():
        if response.verdict not in VERDICTS or response.advice not in ADVICES:
            found.append(f"code {code}: verdict {response.verdict}, advice {response.advice}")
    found += [f"reroute code {code}: not declined, so another acquirer may not be asked" for code in sorted(dialect.reroute_codes)
              if code not in dialect.codes or dialect.codes[code].verdict != "declined"]
    found += [f"codes_only_for: no code {code}" for code in dialect.codes_only_for if code not in dialect.codes]
    found += [f"outage code {code}: it must be in codes, and say that nothing was decided" for code in dialect.outage_codes
              if not says_outage(dialect.codes.get(code))]
    return found + [f"reversal code {code}: {to}" for code, to in dialect.reversal_codes.items() if to not in REVERSAL_OUTCOMES]


def says_outage(response: ResponseCode | None) -> bool:
    """Whether a code can count as an outage: an issuer's own decision never does."""
    return response is not None and (response.verdict == "doubt" or response.advice == "retry_new_key")


def _message_faults(dialect: "Dialect") -> list[str]:
    entry = dialect.fields.get("22")
    found = [f"entry_forms {form}: field 22 cannot be {text}: {_accepted(entry)}" for form, text in dialect.entry_forms.items()
             if entry is not None and not check(*_shape(entry))(text)]
    for verb, rule in dialect.messages.items():
        if verb in ("purchase", "cash_advance"):
            found.append(f"message {verb}: {verb}.single or {verb}.dual, as the acquirer's message_mode is")
        if not (len(rule.mti) == 4 and rule.mti.isdecimal()):
            found.append(f"message {verb}: MTI {rule.mti}")
        elif rule.mti[2] not in "0246" or (verb.partition(".")[0] in SALES and not MTI_OF_SALE(rule.mti)):
            found.append(f"message {verb}: MTI {rule.mti} is no request or advice of its class")
        found += [f"message {verb}: no field {number}" for number in (*rule.fixed, *rule.required, *rule.composed) if number not in dialect.fields]
        found += [f"message {verb}: field {number} is {value}: the books keep {width} digits of it" for number, width in (("25", 2),)
                  if (value := rule.fixed.get(number)) is not None and len(value) != width]
        for number, value in rule.fixed.items():
            field = dialect.fields.get(number)
            if field and not check(field.type, field.length, field.prefix)(value):
                found.append(f"message {verb}: field {number} cannot be {value}: {_accepted(field)}")
        if rule.mti[1:2] in ("1", "2") and "3" not in rule.fixed:
            found.append(f"message {verb}: field 3 is not fixed")
    known = {verb.partition(".")[0] for verb in dialect.messages}
    return found + [f"message {verb}: there is no message {of}" for verb in dialect.messages for of in [verb.removeprefix("reversal.")]
                    if of != verb and of not in known]


def _template_faults(dialect: "Dialect") -> list[str]:
    templates = {f"composed {number}": (text, NAMES) for number, text in dialect.composed.items()}
    for verb, rule in dialect.messages.items():
        names = {**BATCH_NAMES, **ITEM_NAMES} if verb.startswith("batch_upload") else BATCH_NAMES if verb.startswith("batch_") else NAMES
        templates |= {f"message {verb}: composed {number}": (text, names) for number, text in rule.composed.items()}
    if dialect.batch.items is not None:
        templates["batch: items"] = dialect.batch.items[2], ITEM_NAMES
    templates |= {f"network_rule: composed {number}": (text, NETWORK_NAMES) for number, text in dialect.network_rule.composed.items()}
    found = [f"{place}: not a template: {text[:60]!r}; a text with names such as {{stan}} or, 16 wide, {{terminal:<16}}"
             for place, (text, _) in templates.items() if not TEMPLATE(text)]
    found += [f"{place}: no name {name}; known: {', '.join(names)}"
              for place, (text, names) in templates.items() for name in NAMED(text) if name not in names
              and not (names is NAMES and answered(name))]
    found += [f"{place}: {{{name}}}: {fault}" for place, (text, names) in templates.items() if names is NAMES for name in NAMED(text)
              if (path := answered(name)) and (fault := _answered_fault(dialect, path))]
    if dialect.reversal_stan not in REVERSAL_STANS:
        found.append(f"reversal_stan: {dialect.reversal_stan!r} is none of {', '.join(REVERSAL_STANS)}")
    found += [f"reversal_reasons: {cause} is none of {', '.join((*REASONS, *REASONS_OF_THEIR_OWN))}" for cause in dialect.reversal_reasons
              if cause not in (*REASONS, *REASONS_OF_THEIR_OWN)]
    if any("reversal_reason" in NAMED(text) for text, _ in templates.values()) and not set(dialect.reversal_reasons) >= set(REASONS):
        found.append(f"reversal_reasons: {', '.join(REASONS)} must be there, since a template names them")
    return found


def _answered_fault(dialect: "Dialect", path: str) -> str:
    """Why a template may not name this field, or part, of an answer."""
    number, _, part = path.partition(".")
    if number not in dialect.fields:
        return f"no field {number} in fields"
    if number in NEVER_SAID_AGAIN or number in dialect.never_stored:
        return f"field {number} is never taken from an answer"
    if number not in dialect.shown:
        return f"field {number} is not in shown, so an answer is stored without it"
    how = dialect.sub_fields.get(number)
    known = isinstance(how, Tlv) or (isinstance(how, Bitmapped) and part in map(str, how.parts))
    answers = {f"{rule.mti[:2]}{int(rule.mti[2]) | 1}{rule.mti[3]}" for rule in dialect.messages.values()}
    return "" if not part or known or any(_place(dialect, path, mti) for mti in answers) else f"no part {path} in sub_fields"


def _query_faults(dialect: "Dialect") -> list[str]:
    """What is pending must be asked for, and what is asked for is one message: a capture of its own would need an outcome first."""
    first_s, longest_s, limit_s = dialect.query
    found = [] if 0 < first_s <= longest_s and limit_s > 0 else [
        f"query: {first_s} {longest_s} {limit_s}, but 0 < first_s <= longest_s, and 0 < limit_s"]
    if "query" not in dialect.messages:
        return found + [f"code {code}: pending, but there is no message query" for code, said in dialect.codes.items() if said.verdict == "pending"]
    return found + [f"message {verb}: not beside a message query" for verb in dialect.messages if verb.endswith(".dual")]


def _batch_faults(dialect: "Dialect") -> list[str]:
    """Where a host says what it thinks of totals must exist, and an upload has an end."""
    rule, said = dialect.batch, dialect.messages.get("batch_close")
    uploads = [verb for verb in ("batch_upload", "batch_end") if verb in dialect.messages]
    if said is None:
        return [f"message {verb}: there is no message batch_close" for verb in uploads]
    asked, answered = said.mti, f"{said.mti[:2]}{int(said.mti[2]) | 1}{said.mti[3]}"
    found = [f"batch: figures {path}: no such place in a {asked}" for path in rule.figures
             if path.partition(".")[0] in said.required and not _place(dialect, path, asked)]
    found += [f"message batch_close: no figure for field {number}" for number in said.required
              if number not in {path.partition(".")[0] for path in rule.figures}]
    if "told" in rule.codes.values():
        found += [f"batch: told {path}: no such place in a {answered}" for path in rule.told if not _place(dialect, path, answered)]
        found += ["batch: codes say told, but told names no place"] * (not rule.told)
    if len(uploads) == 1:
        found.append(f"message {uploads[0]}: batch_upload and batch_end go together")
    if rule.items is not None and rule.items[0] not in dialect.fields:
        found.append(f"batch: items: no field {rule.items[0]}")
    return found


def _place(dialect: "Dialect", path: str, mti: str) -> bool:
    number = path.partition(".")[0]
    return path in dialect.fields or (number in dialect.sub_fields and path in places(number, dialect.sub_fields[number], mti))


def _payment_code_faults(dialect: "Dialect") -> list[str]:
    if dialect.qr_code is None:
        return ["entry_modes: qr needs qr_code"] if "qr" in dialect.entry_modes else []
    number, template = dialect.qr_code
    found = [] if "qr" in dialect.entry_modes else ["qr_code: entry_modes has no qr"]
    if number not in dialect.never_stored:
        found.append(f"qr_code: field {number} belongs to never_stored")
    if not TEMPLATE(template) or "code" not in NAMED(template) or not CODE_NAMES.keys() >= set(NAMED(template)):
        found.append("qr_code: not a template of {code} and {code_length}")
    return found


def _network_faults(dialect: "Dialect") -> list[str]:
    rule = dialect.network_rule
    found = [f"network: {purpose} is none of {', '.join(PURPOSES)}" for purpose in dialect.network if purpose not in PURPOSES]
    found += [f"network_rule: no field {number}" for number in (*rule.composed, *rule.echoed) if number not in dialect.fields]
    if rule.code not in dialect.fields and rule.code not in dialect.key_cuts:
        found.append(f"network_rule: no field {rule.code}")
    if "11" not in rule.composed:
        found.append("network_rule: composed has no field 11, by which answers are matched")
    return found


def _mac_faults(dialect: "Dialect") -> list[str]:
    found = [f"with_pin: no field {number} with {value}" + (f": {_accepted(dialect.fields[number])}" if number in dialect.fields else "")
             for number, value in dialect.with_pin.items()
             if number not in dialect.fields or not check(*_shape(dialect.fields[number]))(value)]
    rule, exchange = dialect.mac, dialect.key_exchange
    if rule is not None:
        fields, last = [dialect.fields.get(number, _NONE) for number in rule.fields], max(map(int, dialect.fields))
        found += [f"mac: field {number} is not the last one ({last} is), of 16 hex characters"
                  for number, field in zip(rule.fields, fields, strict=True)
                  if (field.type, field.length, field.prefix) != ("b", 16, 0) or (len(fields) == 1 and int(number) != last)]
        if len(fields) != 1 and (rule.fields != ("64", "128") or len({field.code for field in fields}) != 1):
            found.append(f"mac: {rule.fields} are not one field, nor ('64', '128') written alike")
        if rule.algorithm not in MAC_ALGORITHMS:
            found.append(f"mac: {rule.algorithm} is none of {', '.join(MAC_ALGORITHMS)}")
    if exchange is not None:
        found += [f"key_exchange: no field {exchange.field} of type b"] * (dialect.fields.get(exchange.field, _NONE).type != "b")
        for length, parts in exchange.layouts.items():
            have = sum(len(part.mark) // 2 + part.length + part.kcv for part in parts)
            if have != length:
                found.append(f"key_exchange: the parts of {length} bytes are not as long, they have {have}")
            found += [f"key_exchange: mark {part.mark!r} is no hex of whole bytes" for part in parts if not check("b", 16, 2)(part.mark)]
            found += [f"key_exchange: {part.purpose} {part.algorithm}, none of {', '.join(KEY_PURPOSES)} and {', '.join(KEY_ALGORITHMS)}"
                      for part in parts if part.purpose not in KEY_PURPOSES or part.algorithm not in KEY_ALGORITHMS
                      or not (2 <= part.kcv <= 8 or (part.purpose, part.kcv) == ("track", 0))]
    return found


def _accepted(field: Field) -> str:
    return f"{'at most' if field.prefix else 'exactly'} {field.length} characters of type {field.type}"


def _shape(field: Field) -> tuple[str, int, int]:
    return field.type, field.length, field.prefix
