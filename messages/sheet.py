"""A dialect's data sheet: what a host that is to speak it must know, in the words of the grammar."""

from collections.abc import Iterator

from messages.dialect import Dialect
from messages.framing import KINDS
from messages.grammar import MAC_BYTES, VERBS, Field, MessageRule
from messages.headers import HEADERS
from messages.subfields import Ber, Bitmapped, ByLength, ByMti, Layout, Part, Positional, Records, Tlv

WHEN_GIVEN = ("23", "32", "35", "38", "43", "52", "53", "54", "55")


def sheet(dialect: Dialect) -> Iterator[str]:
    """Lines of text."""
    frame, coding = dialect.framing, dialect.coding
    yield f"{dialect.name}: the wire; words are those of docs/dialects.md"
    yield f"frame      {frame.kind}: {KINDS[frame.kind].says} At most {frame.max_length} bytes{', ' * bool(frame.polls)}{frame.polls}."
    if dialect.header is not None:
        yield f"header     {dialect.header.kind}, ours {dialect.header.default.upper()}: {HEADERS[dialect.header.kind]}"
    yield f"coding     text {coding.text}, MTI {coding.mti}, bitmaps {coding.bitmap}{', always two' if dialect.fixed_bitmap else ''}"
    yield from _fields(dialect)
    yield from _requests(dialect)
    yield from _answers(dialect)
    yield from _line(dialect)
    if "batch_close" in dialect.messages:
        yield from _totals(dialect)
    yield from _codes(dialect)


def _fields(dialect: Dialect) -> Iterator[str]:
    yield "\nfields: number, name, type and length (LL: behind a length of so many digits), how it is written"
    for number, field in dialect.fields.items():
        size = f"{field.type}{'..' if field.prefix else ' '}{field.units()}"
        yield f"{number:>4}  {field.name:38} {size:10} {'L' * field.prefix:6} {_written(field)}"
        if number in dialect.sub_fields:
            yield from (f"      parts: {line}" for line in _parts(dialect.sub_fields[number]))


def _parts(of: Layout) -> Iterator[str]:
    """A layout in words, numbered as 60.3 names a part: one line, or one for each of several."""
    match of:
        case Positional(parts):
            yield _listed(parts)
        case Records(digits, parts):
            yield f"{f'a count of {digits} digits, then ' * bool(digits)}records of {_listed(parts)}"
        case Tlv(tag, length, head):
            yield f"{f'{head} characters, then ' * bool(head)}tags of {tag} characters, lengths of {length} digits, values"
        case Ber():
            yield "BER-TLV"
        case Bitmapped(size, inner):
            yield f"a bitmap of {size} bytes, then for each bit that is set " + ", ".join(
                f"{bit} {part.name} {part.code} {_size(part.bytes, part.prefix)} bytes" for bit, part in inner.items())
        case ByMti(layouts):
            yield from (f"in {start}..: {line}" for start, inner in layouts.items() for line in _parts(inner))
        case ByLength(layouts, other):
            yield from (f"{length} long: {line}" for length, inner in layouts.items() for line in _parts(inner))
            yield from (f"else {line}" for line in _parts(other))


def _listed(parts: tuple[Part, ...]) -> str:
    return ", ".join(f"{position} {part.name} {part.type} {_size(part.length, part.prefix)}" for position, part in enumerate(parts, 1))


def _size(length: int, prefix: int) -> str:
    return f"at most {length} behind a length of {prefix} digits" if prefix else str(length)


def _written(field: Field) -> str:
    padded = f", odd: {field.pad}" if field.code == "bcd" else ""
    counted = f", length {field.length_code} in {field.width()} bytes" if field.prefix else ""
    return f"{field.code}{padded}{counted}"


def _requests(dialect: Dialect) -> Iterator[str]:
    always = [number for number in dialect.request_fields if number not in dialect.omitted]
    given = [number for number in WHEN_GIVEN if number in dialect.fields and number not in {*always, *dialect.omitted}]
    yield f"\nrequests: always {', '.join(always)}; when given {', '.join(given)}"
    for number, template in {**dialect.composed, **({dialect.qr_code[0]: dialect.qr_code[1]} if dialect.qr_code else {})}.items():
        yield f"      {number} is made as {template}"
    if dialect.with_pin:
        yield f"      with 52: {' '.join(f'{number}={value}' for number, value in dialect.with_pin.items())}"
    if dialect.icc_dataset is not None:
        yield f"      55 begins with {dialect.icc_dataset}, then 2 bytes with the length of what follows"
    if dialect.entry_forms:
        forms = " ".join(f"{form}={said}" for form, said in dialect.entry_forms.items())
        yield f"      22, by how it was read and with a PIN (1) or none (2): {forms}"
    for verb, rule in dialect.messages.items():
        yield f"      {verb:22} {rule.mti}  {_said(rule)}"
    offered = {verb.partition(".")[0] for verb in dialect.messages}
    yield f"      not offered: {', '.join(verb for verb in VERBS if verb not in offered) or 'nothing'}"
    marked = "the last digit of a repeat's MTI is 1" if dialect.repeat_mark else "a repeat is the same message again"
    first = "; a terminal's reversal goes before its next sale" if dialect.reversal_first else ""
    yield f"      reversals have DE11 {'of their own' if dialect.reversal_stan == 'own' else 'of what they undo'}; {marked}{first}"
    if dialect.not_reversed:
        yield f"      without a reversal, since it has no effect: {', '.join(sorted(dialect.not_reversed))}"
    if dialect.reversal_reasons:
        yield f"      reversal_reason: {', '.join(f'{cause} {said}' for cause, said in dialect.reversal_reasons.items())}"


def _said(rule: MessageRule) -> str:
    fixed = [f"{number}={value}" for number, value in {**rule.fixed, **rule.composed}.items()]
    return " ".join([*fixed, *(number for number in rule.required if number not in {**rule.fixed, **rule.composed})])


def _answers(dialect: Dialect) -> Iterator[str]:
    yield "\nanswers: matched by the class of the MTI and " + "; ".join(
        f"{', '.join(numbers)}{'' if kind == '*' else f' (class {kind})'}" for kind, numbers in dialect.match.items())
    yield f"      echo {', '.join(dialect.agree)}; {', '.join(dialect.agree_if_present)} where it comes back; 39 always"
    yield (f"      38 in an approval of {', '.join(dialect.approval_code_required) or 'none'}"
           + (f", not where DE3 begins with {', '.join(dialect.approval_code_exempt)}" if dialect.approval_code_exempt else ""))
    if dialect.mac is not None:
        classes = ", ".join(dialect.mac.classes)
        most = f", its left {dialect.mac.length} bytes" if dialect.mac.length < MAC_BYTES else ""
        where = " or ".join(dialect.mac.fields)
        yield f"      MAC in {where}, {dialect.mac.algorithm}{most}, of classes {classes}, once there are keys (docs/keys.md)"
    if dialect.key_exchange is not None:
        yield f"      keys in {dialect.key_exchange.field}: {', '.join(map(str, dialect.key_exchange.layouts))} bytes (docs/keys.md)"


def _line(dialect: Dialect) -> Iterator[str]:
    rule = dialect.network_rule
    codes = ", ".join(f"{purpose} {rule.mtis.get(purpose, rule.mti)}/{code}" for purpose, code in dialect.network.items())
    yield f"\nnetwork management: {codes or 'none'}; the code is in {rule.code}"
    yield f"      ours: {' '.join(f'{number}={template}' for number, template in rule.composed.items())}"
    yield f"      an answer echoes {', '.join(rule.echoed)}; 39 is {rule.approved}, else {rule.refused} or another"


def _totals(dialect: Dialect) -> Iterator[str]:
    rule, carried = dialect.batch, dialect.messages["batch_close"].required
    figures = [f"{number} {figure}" for number, figure in rule.figures.items() if number.partition(".")[0] in carried]
    yield f"\ntotals of a terminal: {', '.join(figures)}"
    yield f"      a sale that was voided in its batch is {'a debit, and its void a credit' if rule.voids else 'neither, nor is its void'}"
    if rule.own_brands:
        yield f"      figures without foreign_ are of {', '.join(rule.own_brands)} alone"
    means: dict[str, list[str]] = {}
    for code, outcome in rule.codes.items():
        means.setdefault(outcome, []).append(code)
    yield "      39: " + "; ".join(f"{' '.join(codes)} {outcome}" for outcome, codes in means.items()) + "; any other refuses"
    if "told" in means:
        says = ", ".join(f"{said} {outcome}" for said, outcome in rule.says.items())
        yield f"      told by {', '.join(rule.told)}, each: {says}; any other refuses"
    if "batch_upload" in dialect.messages:
        held = f"at most {rule.items[1]} in {rule.items[0]}, each {rule.items[2]}; " if rule.items is not None else ""
        yield f"      an upload follows what is out of balance: {held}39 of its answers {' '.join(rule.accepted)}"


def _codes(dialect: Dialect) -> Iterator[str]:
    yield "\nDE39 of requests (any other is doubt: reversed)"
    said: dict[tuple[str, str], list[str]] = {}
    for code, meaning in dialect.codes.items():
        said.setdefault((meaning.verdict, meaning.reason), []).append(code)
    yield from (f"      {verdict:9} {reason:32} {' '.join(codes)}" for (verdict, reason), codes in said.items())
    yield "DE39 of reversals (any other: sent again)"
    outcomes: dict[str, list[str]] = {}
    for code, outcome in dialect.reversal_codes.items():
        outcomes.setdefault(outcome, []).append(code)
    yield from (f"      {outcome:12} {' '.join(codes)}" for outcome, codes in outcomes.items())
