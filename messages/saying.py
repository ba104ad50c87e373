"""A message of the house as a dialect says it: what it does not know left out, what it has of its own made from its templates. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from messages.dialect import Dialect
from messages.grammar import MessageRule


def said(dialect: Dialect, rule: MessageRule, message: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """`message`: house fields by number; `names`: what templates may name (grammar.NAMES)."""
    found = {number: value for number, value in message.items() if number not in dialect.omitted}
    if "55" in found and dialect.icc_dataset is not None:
        found["55"] = f"{dialect.icc_dataset}{len(found['55']) // 2:04X}{found['55']}"
    found["22"] = dialect.entry_forms.get(found["22"], found["22"])
    found |= {number: value for number, value in rule.fixed.items() if number not in ("3", "25")}
    for number, text in filled((*dialect.composed.items(), *rule.composed.items()), names):
        if text:
            found[number] = text
        else:
            found.pop(number, None)
    return found


def filled(templates: Iterable[tuple[str, str]], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Fields with what their templates come to; an empty text is a field that is left out."""
    for number, template in templates:
        yield number, template.format_map(names)
