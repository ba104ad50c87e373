"""What is said to manage a line, and what counts as said: built from the dialect alone. Pure: no clock, no state."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime

from messages.dialect import Dialect, answer_mti
from messages.headers import answering
from messages.saying import asked

APART_MAX = 31  # days that a host's business day, with its year, may be from today
LEAP_YEAR = "2000"


def asking(dialect: Dialect, purpose: str, stan: str, utc: datetime) -> dict[str, str]:
    """Our own network message for a purpose that `dialect.network` has."""
    return asked(dialect, purpose, {
        "stan": stan, "transmitted_at": f"{utc:%m%d%H%M%S}", "local_time": f"{utc:%H%M%S}", "local_date": f"{utc:%m%d}",
        "local": f"{utc:%y%m%d%H%M%S}", "rrn": f"{utc:%y%j%H}"[1:] + stan})


def purpose_of(dialect: Dialect, message: Mapping[str, str]) -> str | None:
    """What a host's network message is for, by the names of `dialect.network`; None: nothing that we know. One that signs on and brings keys
    unasked changes them."""
    code, exchange = dialect.value(message, dialect.network_rule.code), dialect.key_exchange
    purpose = next((name for name, known in dialect.network.items() if known == code), None)
    return "key_change" if purpose == "sign_on" and exchange is not None and exchange.field in message else purpose


def answer(dialect: Dialect, message: Mapping[str, str], fault: str | None) -> dict[str, str]:
    """The answer to a host's network message; `fault` is the field that was not understood."""
    rule = dialect.network_rule
    said = {"0": answer_mti(message["0"]), **{number: value for number, value in message.items() if number in rule.echoed}}
    if dialect.header is not None:
        said["h"] = answering(dialect.header, message["h"])
    return {**said, "39": rule.refused if fault else rule.approved}


def day_opened(text: str, today: date) -> str | None:
    """MMDD of the business day that a host says it opened, by DE15 as MMDD or YYMMDD (1987 and 1993). None: no day of the calendar, or by its
    year none of these days."""
    with suppress(ValueError):
        if not (text.isascii() and text.isdigit()):
            return None
        if len(text) == 6 and abs((date.fromisoformat(f"20{text}") - today).days) <= APART_MAX:
            return text[2:]
        if len(text) == 4 and date.fromisoformat(LEAP_YEAR + text):
            return text
    return None


def differing(dialect: Dialect, request: Mapping[str, str], message: Mapping[str, str]) -> str | None:
    """The first echoed field of an answer that is not the request's."""
    return next((number for number in dialect.network_rule.echoed if number in message and message[number] != request.get(number)), None)


def reject_answer(dialect: Dialect, request: Mapping[str, str]) -> dict[str, str] | None:
    """What a reject header comes to as an answer, where the dialect says so: the host did not process the request."""
    if dialect.reject_code is None:
        return None
    numbers = {*dialect.agree, *dialect.match["*"]}
    known = {number: value for number, value in request.items() if number in numbers}
    return {"0": answer_mti(request["0"]), **known, "39": dialect.reject_code}
