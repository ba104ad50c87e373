"""The commands `switch tariff show | set | check` and `switch fees estimate`: a file is checked here, the rest asks a running switch."""

import argparse
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from switch.api.strict import StrictError, parse
from switch.commands.files import unread
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.merchants import BRANDS
from switch.money import text
from switch.settings import Settings
from switch.settlement.fees import wording
from switch.settlement.fees.terms import TermsError, costs_from, tariff_from

FILE_MAX = 4 << 20


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    kinds = verbs.add_parser("tariff", help="tariffs of merchants, costs of acquirers: show, set, check a file").add_subparsers(
        dest="kind", required=True)
    shown = asking(kinds.add_parser("show", help="all that was agreed, in words, the latest first"))
    agreed = asking(kinds.add_parser("set", help="agree the terms of a file from a business date on; nothing is overwritten"))
    for parser in (shown, agreed):
        parser.add_argument("owner", help="mer_... for a tariff, acq_... for costs")
    agreed.add_argument("file", type=Path, help="a JSON document as in docs/fees.md")
    agreed.add_argument("--from", dest="effective_from", required=True, type=_date, metavar="DATE", help="business date, such as 2026-12-01")
    agreed.add_argument("--replaces", metavar="ID", help="what holds from the same date and shall no longer: tar_... or cst_...")
    checked = kinds.add_parser("check", help="whether a file is a sound tariff, and what it says")
    checked.add_argument("file", type=Path)
    checked.add_argument("--costs", action="store_true", help="it holds an acquirer's costs")
    kinds = verbs.add_parser("fees", help="what transactions cost").add_subparsers(dest="kind", required=True)
    estimated = asking(kinds.add_parser("estimate", help="prices a file as POST /v1/fees/estimates takes it"))
    estimated.add_argument("file", type=Path)
    estimated.add_argument("--merchant", help="mer_...: for an operator's key")


def _date(said: str) -> date:
    try:
        return date.fromisoformat(said)
    except ValueError:
        raise argparse.ArgumentTypeError("it must be a date such as 2026-12-01") from None


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the file is not sound, or the switch cannot be reached or refuses."""
    if (options.verb, options.kind) == ("tariff", "check"):
        return _check(options, say)
    return put(_question(options), options, settings, say)


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX + 1)
    except OSError as error:
        raise unread(path, error) from None
    if len(raw) > FILE_MAX:
        raise StartError(f"{path} has more than 4 MB")
    try:
        return parse(raw)
    except StrictError as error:
        raise StartError(f"{path} is not sound JSON ({error.code}): {error.detail}") from None


def _check(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    document = _read(options.file)
    try:
        if options.costs:
            told = wording.costs(costs_from(document, brands={*BRANDS, "unknown"}))
        else:
            told = wording.tariff(tariff_from(document, brands={*BRANDS, "unknown"}))
    except TermsError as error:
        raise StartError(f"{options.file} is refused:\n" + "\n".join(f"  {fault.place or '/'}: {fault.rule}" for fault in error.faults)) from None
    for sentence in told:
        say(sentence)
    return 0


def _question(options: argparse.Namespace) -> Question:
    if options.verb == "fees":
        body = _read(options.file)
        if options.merchant is not None and isinstance(body, dict):
            body = {**body, "merchant": options.merchant}
        return Question("POST", "/v1/fees/estimates", body, _estimate)
    path = f"/v1/acquirers/{quoted(options.owner)}/costs" if options.owner.startswith("acq_") else f"/v1/merchants/{quoted(options.owner)}/tariffs"
    if options.kind == "show":
        return Question("GET", f"{path}?limit=200", None, lambda body: (line for item in body["items"] for line in _terms(item)))
    wanted = {"effective_from": options.effective_from.isoformat(), "terms": _read(options.file)}
    return Question("POST", path, wanted | ({} if options.replaces is None else {"replaces": options.replaces}), _terms)


def _terms(item: Any) -> Iterator[str]:
    yield f"{item['id']}  from {item['effective_from']}  version {item['version']}  by {item['created_by']} at {item['created_at']}"
    yield from (f"  {sentence}" for sentence in item["in_words"])


def _estimate(body: Any) -> Iterator[str]:
    for each in body["transactions"]:
        yield f"{text(each['gross'], each['currency']):>24}  fee {text(each['fee'], each['currency'])}  {each['rule']}"
        for line in each["lines"]:
            yield f"{'':>26}{text(line['amount'], each['currency'])}: {line['words']}"
    for total in body["totals"]:
        currency = total["currency"]
        yield (f"{currency}: {total['sales_count']} sales of {text(total['sales'], currency)}, {total['refunds_count']} refunds of "
               f"{text(total['refunds'], currency)}, fees {text(total['fees'], currency)}, by the month {text(total['periodic'], currency)}")
        yield from (f"  {tax['name']}: {text(tax['amount'], currency)} {'contained in' if tax['inclusive'] else 'on'} {text(tax['base'], currency)}"
                    for tax in total["taxes"])
        yield f"  net {text(total['net'], currency)}"
