"""What a business needs: answers to a few questions in, terminals and payment methods out, each with its reason. Pure; the tables are the rules."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

METHODS: Mapping[str, str] = MappingProxyType({
    "card": "cards by chip, contactless and magnetic stripe", "qr": "QR payment codes of wallets", "register": "a link from the cash register",
})
PLACES = ("counter", "table", "outdoors", "unattended")
EQUIPMENT = ("rent", "buy")


class Model(NamedTuple):
    """A kind of terminal. `price`: to buy one, in minor units of CNY; what renting costs is said by the offer."""

    name: str
    what: str
    methods: frozenset[str]
    price: int


MODELS: Mapping[str, Model] = MappingProxyType({each.name: each for each in (
    Model("code_speaker", "a standing code with a speaker", frozenset({"qr"}), 9_900),
    Model("countertop", "a countertop terminal with printer", frozenset({"card", "qr"}), 59_900),
    Model("handheld", "a handheld terminal with battery, SIM and printer", frozenset({"card", "qr"}), 79_900),
    Model("smart", "a smart terminal that runs programs for stock and members", frozenset({"card", "qr", "register"}), 149_900),
    Model("pin_pad", "a PIN pad beside the cash register", frozenset({"card", "qr", "register"}), 69_900),
    Model("unattended", "a reader to be built into a machine", frozenset({"card", "qr", "register"}), 119_900),
)})


class Answers(NamedTuple):
    """Of the questionnaire. `monthly_volume`, `average_ticket`, `budget`: minor units; `budget` a month, None: not said."""

    country: str
    mcc: str
    currency: str
    monthly_volume: int
    average_ticket: int
    methods: frozenset[str]
    place: str
    stores: int
    terminals: int
    equipment: str
    membership: bool = False
    stock: bool = False
    budget: int | None = None


class Rule(NamedTuple):
    """Which terminal fits where all that is said agrees; None is any. The first rule that fits, and whose model can all methods, decides."""

    model: str
    why: str
    places: frozenset[str] | None = None
    methods: frozenset[str] | None = None  # exactly these
    wants: frozenset[str] | None = None  # any of: membership, stock, register
    ticket_below: int | None = None


RULES: Sequence[Rule] = (
    Rule("unattended", "nobody stands beside it", places=frozenset({"unattended"})),
    Rule("smart", "members or stock are kept on the terminal itself", wants=frozenset({"membership", "stock"})),
    Rule("pin_pad", "the cash register says the amount", wants=frozenset({"register"})),
    Rule("code_speaker", "codes alone and small tickets: no printer and no card reader is paid for", methods=frozenset({"qr"}), ticket_below=20_000),
    Rule("handheld", "it goes to the guest or the customer", places=frozenset({"table", "outdoors"})),
    Rule("countertop", "it stands at the counter"),
)
# Payment methods worth adding, and why; by MCC or by ticket.
FOOD = frozenset({"5411", "5422", "5441", "5451", "5462", "5499", "5811", "5812", "5813", "5814"})


class Advice(NamedTuple):
    model: Model
    pieces: int
    why: str


class Suggested(NamedTuple):
    method: str
    why: str
    asked: bool


def fits(rule: Rule, answers: Answers) -> bool:
    said = {"membership": answers.membership, "stock": answers.stock, "register": "register" in answers.methods}
    wants = {name for name, wanted in said.items() if wanted}
    return ((rule.places is None or answers.place in rule.places) and (rule.methods is None or answers.methods == rule.methods)
            and (rule.wants is None or bool(rule.wants & wants)) and (rule.ticket_below is None or answers.average_ticket < rule.ticket_below)
            and answers.methods <= MODELS[rule.model].methods)


def advice(answers: Answers) -> Advice:
    """The terminals: at least one for each store. The smart one can everything, so something always fits."""
    found = next((rule for rule in RULES if fits(rule, answers)), Rule("smart", "it can all of the methods at once"))
    return Advice(MODELS[found.model], max(answers.terminals, answers.stores), found.why)


def methods(answers: Answers) -> list[Suggested]:
    """What was asked for, and what is worth adding."""
    found = [Suggested(each, METHODS[each], True) for each in METHODS if each in answers.methods]
    if "qr" not in answers.methods and (answers.country == "CN" or answers.mcc in FOOD):
        found.append(Suggested("qr", "most small payments here are made by code", False))
    if "card" not in answers.methods and answers.average_ticket >= 50_000:
        found.append(Suggested("card", "tickets of this size are often paid by credit card", False))
    if "register" not in answers.methods and answers.terminals >= 3:
        found.append(Suggested("register", "with three tills or more, amounts typed twice go wrong", False))
    return found
