"""Messages that no one here has seen: a stranger's bytes give the stated values, leave as the same bytes, and what is broken is refused by field and place."""

from importlib import import_module

import pytest

from messages.codec import DecodeError, decode, encode
from messages.dialect import LITERALS, load
from messages.subfields import split
from tests.unseen.wire import Broken, Said

LEAST = 30  # a dialect
TABLES = {name: import_module(f"tests.unseen.{name}") for name in LITERALS}
SAID = [(name, said) for name, table in TABLES.items() for said in table.SAID]
BROKEN = [(name, broken) for name, table in TABLES.items() for broken in table.BROKEN]


def named(row: object) -> str:
    return row if isinstance(row, str) else str(getattr(row, "name", row)).replace(" ", "-")


@pytest.mark.parametrize(("name", "said"), SAID, ids=named)
def test_a_strangers_message_gives_its_values_and_leaves_as_the_same_bytes(name: str, said: Said) -> None:
    dialect = load(name)
    message = decode(dialect, said.wire)
    header = message.pop("h", None)
    assert message == dict(said.fields)
    assert list(message) == ["0", *sorted(set(message) - {"0"}, key=int)]
    again = message if header is None else {"h": header, **message}
    for _ in range(4):  # from the fourth time on by compiled functions
        assert encode(dialect, again) == said.wire
        assert decode(dialect, said.wire) == again
    found = {part.path: part.value for number in message if number in dialect.sub_fields
             for part in split(number, dialect.sub_fields[number], message[number], message["0"])}
    assert {path: found.get(path) for path in said.parts} == dict(said.parts)


@pytest.mark.parametrize(("name", "broken"), BROKEN, ids=named)
def test_what_is_no_message_is_refused_by_its_field_and_place(name: str, broken: Broken) -> None:
    for _ in range(5):
        with pytest.raises(DecodeError) as caught:
            decode(load(name), broken.wire)
        error = caught.value
        assert (error.field, error.position) == (broken.field, broken.position), str(error)
        assert broken.says in error.reason
        assert str(error).startswith(f"field {error.field} at byte {error.position}: ") and error.reason
        assert "62123456" not in str(error) and "62123456" not in repr(error.decoded)


@pytest.mark.parametrize("name", sorted(LITERALS))
def test_every_dialect_has_met_enough_strangers(name: str) -> None:
    assert len(TABLES[name].SAID) + len(TABLES[name].BROKEN) >= LEAST
    assert len({row.name for row in (*TABLES[name].SAID, *TABLES[name].BROKEN)}) == len(TABLES[name].SAID) + len(TABLES[name].BROKEN)
