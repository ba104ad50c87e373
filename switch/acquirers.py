"""Every way to speak to an acquirer: the dialects of ISO 8583, and plug-ins by their entry point. Read once; a fault stops the start."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from messages import dialect as iso
from messages import trial
from messages.dialect import Dialect, DialectError
from messages.grammar import QueryRule
from switch import wallets
from switch.errors import StartError
from switch.plug_ins import VERBS, Account, Option, PlugIn, option_faults, orders

GROUP = "switch.acquirers"
BUILT_IN: Mapping[str, PlugIn] = MappingProxyType({wallets.PLUG_IN.name: wallets.PLUG_IN})
NEEDED = frozenset({"pay", "query", "cancel"})
PAY_WITHIN = "pay_within_s"
# What any acquirer may have beside the options of its plug-in: under what name a merchant's own QR code names it (EMVCo tag 26, sub-tag 00).
COMMON: Mapping[str, Option] = MappingProxyType({
    "qr_guid": Option("1 to 32 letters, digits and . - : a reverse domain name, or an application's identifier", "[A-Za-z0-9.-]{1,32}", ""),
})


@cache
def plug_ins() -> Mapping[str, PlugIn]:
    """All of them by name. Raises StartError: one cannot be loaded, or is none."""
    found = dict(BUILT_IN)
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN:
            continue
        try:
            loaded = point.load()
        except Exception as error:  # code of others, at the start
            raise StartError(f"the plug-in {point.name} ({point.value}) cannot be loaded: {type(error).__name__}; mend or uninstall it") from None
        if fault := _fault(point.name, loaded):
            raise StartError(f"the plug-in {point.name} ({point.value}) {fault}; mend or uninstall it")
        found[point.name] = loaded
    return MappingProxyType(found)


def _fault(name: str, loaded: object) -> str:
    if not isinstance(loaded, PlugIn) or loaded.name != name:
        return "is no PlugIn of that name"
    if name in iso.LITERALS:
        return "has the name of a dialect"
    if not NEEDED <= loaded.verbs <= VERBS:
        return f"must offer {', '.join(sorted(NEEDED))}, and nothing beside {', '.join(sorted(VERBS))}"
    return ""


def load(name: str) -> Dialect:
    """How an acquirer is spoken to. Raises LookupError, which names the known ones."""
    plug_in = plug_ins().get(name)
    if plug_in is not None:
        return _dialect(plug_in)
    if name not in iso.LITERALS:
        raise LookupError(f"no dialect {name[:60]!r}; known: {', '.join(sorted({*iso.LITERALS, *plug_ins()}))}")
    return iso.load(name)


@cache
def unsound(name: str) -> str:
    """What makes a dialect one that no acquirer may be added to, the first fault of it; "" for none, as for a plug-in, which is no dialect.
    Raises LookupError. Some 20 ms for each dialect, once."""
    if name in plug_ins():
        return ""
    try:
        load(name)
        # Built anew: what is tried would take places among the functions of the one that is spoken.
        return next(iter(trial.faults(iso.build(iso.LITERALS[name]))), "")
    except DialectError as error:
        return str(error)


@cache
def _dialect(plug_in: PlugIn) -> Dialect:
    return orders.dialect(plug_in)


def query_rule(name: str, options: Mapping[str, str]) -> QueryRule:
    """When an acquirer is asked for what it has not decided; the payer's time is the one that it was told."""
    rule, plug_in = load(name).query, plug_ins().get(name)
    known = plug_in.options.get(PAY_WITHIN) if plug_in is not None else None
    within = options.get(PAY_WITHIN) or (known.default if known is not None else None)
    return rule._replace(limit_s=float(within)) if within and within.isdecimal() else rule


def faults(name: str, account: Account) -> list[tuple[str, str]]:
    """(field, rule) for what is wrong with how an acquirer is set up."""
    plug_in = plug_ins().get(name)
    if plug_in is None:
        found = option_faults(COMMON, account.options)
        return [*found, ("secret", "none: this dialect has none")] if account.secret else found
    found = option_faults({**COMMON, **plug_in.options}, account.options)
    if plug_in.secret != bool(account.secret):
        found.append(("secret", "must be given" if plug_in.secret else "none: this plug-in has none"))
    return found or plug_in.faults(account)
