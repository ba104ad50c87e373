"""A message of the house as a dialect says it: what it does not know left out, what it has of its own made from its templates. Pure."""

from collections.abc import Iterable, Mapping

from messages.dialect import Dialect
from messages.grammar import MessageRule
from messages.templates import filled


def said(dialect: Dialect, rule: MessageRule, message: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """`message`: house fields by number; `names`: what templates may name (grammar.NAMES)."""
    found = {number: value for number, value in message.items() if number not in dialect.omitted}
    if "55" in found and dialect.icc_dataset is not None:
        found["55"] = f"{dialect.icc_dataset}{len(found['55']) // 2:04X}{found['55']}"
    found["22"] = dialect.entry_forms.get(found["22"], found["22"])
    found |= {number: value for number, value in rule.fixed.items() if number not in ("3", "25")}
    return put(found, (*dialect.composed.items(), *rule.composed.items()), names)


def asked(dialect: Dialect, purpose: str, names: Mapping[str, str]) -> dict[str, str]:
    """Our own network message for a purpose that `dialect.network` has. `names`: grammar.NETWORK_NAMES, but for the code."""
    rule, known = dialect.network_rule, {**names, "code": dialect.network[purpose]}
    return {"0": rule.mtis.get(purpose, rule.mti), **{number: template.format_map(known) for number, template in rule.composed.items()}}


def put(message: dict[str, str], templates: Iterable[tuple[str, str]], names: Mapping[str, str]) -> dict[str, str]:
    """The message with its composed fields; one that comes out empty is not said at all."""
    for number, template in templates:
        if text := filled(template, names):
            message[number] = text
        else:
            message.pop(number, None)
    return message
