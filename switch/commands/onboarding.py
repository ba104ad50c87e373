"""`switch onboard | acquirer`: rows of the directory, written on the database itself."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from switch import database
from switch.api.answers import stamp
from switch.api.onboard import shown
from switch.commands import files
from switch.custody import open_vault
from switch.errors import Problem, StartError
from switch.ids import read, show
from switch.merchants import Acquirer, IssuedKey
from switch.merchants.accounts import Accounts, account_of
from switch.merchants.catalogue import PAGE_MAX
from switch.merchants.onboarding import SUBJECTS, Onboarding
from switch.merchants.reversal_terms import ReversalTerms
from switch.payments.timers import Limits
from switch.rights import PEOPLE
from switch.security.credentials import Role
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    kinds = verbs.add_parser("onboard", help="make an organisation, merchant, store, terminal or key").add_subparsers(dest="kind", required=True)
    organisation = kinds.add_parser("organisation", help="whom merchants belong to")
    merchant = kinds.add_parser("merchant", help="who sells")
    merchant.add_argument("--organisation", required=True, help="org_...")
    merchant.add_argument("--mcc", required=True, help="merchant category code, four digits")
    merchant.add_argument("--duplicate-policy", default="warn", choices=("warn", "refuse"),
                          help="what is done about a sale that looks like one just made; default: warn")
    store = kinds.add_parser("store", help="where a merchant sells")
    store.add_argument("--merchant", required=True, help="mer_...")
    store.add_argument("--city", default="")
    store.add_argument("--country", default="CN", help="two letters; default: CN")
    merchant.add_argument("--time-zone", default="Asia/Shanghai", help="default: Asia/Shanghai")
    store.add_argument("--time-zone", help="default: the merchant's")
    terminal = kinds.add_parser("terminal", help="a till of a store")
    terminal.add_argument("--store", required=True, help="sto_...")
    for part in (organisation, merchant, store, terminal):
        part.add_argument("--name", required=True)
    key = kinds.add_parser("key", help="a key of a terminal, a merchant or a person, shown once")
    key.add_argument("--person", help="with --staff: whose key it is")
    owner = key.add_mutually_exclusive_group(required=True)
    owner.add_argument("--terminal", metavar="TRM", help="trm_...: to sell with")
    owner.add_argument("--merchant", metavar="MER", help="mer_...: for its owner")
    owner.add_argument("--staff", metavar="STO", help="sto_...: for what this store sold, with --person")
    owner.add_argument("--operator", metavar="PERSON", help="for the day's work")
    owner.add_argument("--support", metavar="PERSON", help="for tickets alone")
    owner.add_argument("--reviewer", metavar="PERSON", help="for applications and licences alone")
    owner.add_argument("--administrator", metavar="PERSON", help="for keys alone")
    acquirers = verbs.add_parser("acquirer", help="acquirers: add, change, list, show, set up").add_subparsers(dest="kind", required=True)
    added = acquirers.add_parser("add", help="a new one with its first line")
    changed = acquirers.add_parser("change", help="what is given changes, on every worker")
    added.add_argument("name")
    added.add_argument("--dialect", default="iso87_ascii")
    added.add_argument("--host", required=True)
    added.add_argument("--port", required=True, type=int)
    added.add_argument("--message-mode", default="single", choices=("single", "dual"))
    added.add_argument("--answer-timeout", type=_milliseconds, default=30_000, metavar="SECONDS")
    added.add_argument("--time-zone", default="UTC", metavar="ZONE", help="of its business dates, such as Asia/Shanghai")
    added.add_argument("--institution-code", metavar="DIGITS", help="our number at the acquirer, 1 to 11 digits: DE32")
    added.add_argument("--numbers-come", action="store_true",
                       help="the acquirer gives its terminals' numbers: none are made here, since a number never changes")
    changed.add_argument("name")
    changed.add_argument("--host")
    changed.add_argument("--port", type=int)
    changed.add_argument("--status", choices=("active", "down", "draining"))
    changed.add_argument("--answer-timeout", type=_milliseconds, metavar="SECONDS")
    for parser in (added, changed):
        _terms(parser)
    acquirers.add_parser("list", help="all of them, newest first")
    acquirers.add_parser("show", help="one with how it is set up; of a secret only since when it is there").add_argument("name")
    account = acquirers.add_parser("account", help="how we are set up at an acquirer: options of its plug-in, and its secret")
    account.add_argument("name")
    account.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="all of them; what is not given is taken away")
    account.add_argument("--secret-file", type=Path, metavar="FILE", help="holds the secret alone; without it the one that stands stays")


def _milliseconds(seconds: str) -> int:
    try:
        return round(float(seconds) * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("it must be a number of seconds, such as 30") from None


def _terms(parser: argparse.ArgumentParser) -> None:
    """How reversals go to the acquirer; what is not said is the default, or stays."""
    parser.add_argument("--reversal-codes", type=_codes, metavar="CODE=MEANING,...",
                        help="over the dialect's: acknowledged, not_found, retry or park, such as 21=acknowledged; '' for none")
    parser.add_argument("--reroute-codes", type=lambda said: [code for code in said.split(",") if code], metavar="CODE,...",
                        help="declines after which another acquirer may be asked, instead of the dialect's; '' for none")
    parser.add_argument("--reversal-max-age", dest="reversal_max_age_s", type=int, metavar="SECONDS")
    parser.add_argument("--reversals-per-second", type=int, metavar="N", help="of all workers together")
    parser.add_argument("--reversals-at-once", type=int, metavar="N", help="of all workers together")
    parser.add_argument("--reversal-first", action=argparse.BooleanOptionalAction, help="a terminal's reversal before its next sale")


def _codes(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return {code: meaning for code, _, meaning in pairs}


def _terms_of(options: argparse.Namespace) -> ReversalTerms:
    return {"reversal_codes": options.reversal_codes, "reversal_max_age_s": options.reversal_max_age_s,
            "reversals_per_second": options.reversals_per_second, "reversals_at_once": options.reversals_at_once,
            "reversal_first": options.reversal_first, "reroute_codes": options.reroute_codes}


def _id(kind: str, text: str) -> Any:
    found = read(kind, text)
    if found is None:
        article = "an" if kind[0] in "ao" else "a"
        raise Problem("not_found", f"{text[:60]} is not the id of {article} {kind}")
    return found


async def _made(options: argparse.Namespace, onboarding: Onboarding) -> Any:
    match options.verb, options.kind:
        case "onboard", "organisation":
            return await onboarding.organisation(options.name)
        case "onboard", "merchant":
            return await onboarding.merchant(_id("organisation", options.organisation), options.name, options.mcc, options.time_zone,
                                             options.duplicate_policy)
        case "onboard", "store":
            return await onboarding.store(_id("merchant", options.merchant), options.name, options.city, options.country, options.time_zone)
        case "onboard", "terminal":
            return await onboarding.terminal(_id("store", options.store), options.name)
        case "onboard", "key":
            role: Role = next(role for role in SUBJECTS if getattr(options, role))
            of = getattr(options, role)
            named = {kind: _id(kind, of) if role == of_role else None
                     for kind, of_role in (("terminal", "terminal"), ("merchant", "merchant"), ("store", "staff"))}
            return await onboarding.key(role, terminal_id=named["terminal"], merchant_id=named["merchant"], store_id=named["store"],
                                        person=of if role in PEOPLE else options.person)
        case "acquirer", "change":
            known = await onboarding.acquirer_named(options.name)
            if all(value is None for value in (options.status, options.host, options.port, options.answer_timeout, *_terms_of(options).values())):
                raise StartError("nothing is to be changed; `switch acquirer change --help` shows what can be")
            return await onboarding.change_acquirer(known.acquirer_id, status=options.status, host=options.host, port=options.port,
                                                    answer_timeout_ms=options.answer_timeout, **_terms_of(options))
        case _:
            await onboarding.install_bins()
            return await onboarding.acquirer(options.name, options.dialect, options.host, options.port, message_mode=options.message_mode,
                                             institution_code=options.institution_code, time_zone=options.time_zone,
                                             number_terminals=not options.numbers_come, answer_timeout_ms=options.answer_timeout,
                                             **_terms_of(options))


async def _account(options: argparse.Namespace, pool: database.Pool, settings: Settings) -> dict[str, Any]:
    """Sets an acquirer up. Raises Problem, StartError."""
    try:
        secret = options.secret_file.read_text("ascii").rstrip("\r\n") if options.secret_file is not None else None
    except (OSError, UnicodeError) as error:
        raise StartError(f"--secret-file {options.secret_file} cannot be read: {files.why(error)}") from None
    pairs = {name: value for name, _, value in (pair.partition("=") for pair in options.option)}
    known = await Onboarding(pool).acquirer_named(options.name)
    account = await Accounts(pool, open_vault(settings)).set(known.acquirer_id, pairs, secret)
    return {"acquirer": show("acquirer", known.acquirer_id), **account._asdict(), "secret_at": stamp(account.secret_at)}


async def _listed(pool: database.Pool, say: Callable[[str], None]) -> None:
    after: UUID | None = None
    while True:
        page = await Onboarding(pool).page(Acquirer, PAGE_MAX, after)
        for each in page.items:
            say(f"{each.name}  {show('acquirer', each.acquirer_id)}  {each.status}  {each.dialect} {each.message_mode}  {each.host}:{each.port}  "
                f"business date {each.business_date}")
        if page.next is None:
            return
        after = page.items[-1].acquirer_id


async def _whole(name: str, pool: database.Pool) -> dict[str, Any]:
    """As GET /v1/acquirers/{id} and its account say it. Raises Problem not_found."""
    known = await Onboarding(pool).acquirer_named(name)
    account = await account_of(pool, known.acquirer_id)
    return {**shown(known), "options": account.options, "secret_at": stamp(account.secret_at)}


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """Tells what was made, a key once and never again. Raises Problem."""
    pool = await database.pool(url, "switch_writer", 2)
    try:
        if (options.verb, options.kind) == ("acquirer", "account"):
            say(json.dumps(await _account(options, pool, settings)))
            return 0
        if (options.verb, options.kind) == ("acquirer", "list"):
            await _listed(pool, say)
            return 0
        if (options.verb, options.kind) == ("acquirer", "show"):
            say(json.dumps(await _whole(options.name, pool)))
            return 0
        made = await _made(options, Onboarding(pool, Limits(settings.commit_budget_s, settings.http_deadline_s)))
    finally:
        await pool.close()
    say(json.dumps({**shown(made.key), "key": made.text} if isinstance(made, IssuedKey) else shown(made)))
    return 0
