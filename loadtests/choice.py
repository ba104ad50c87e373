"""The two ends of the journey (loadtests/journey.py): what a business needs and which acquirer offers it, and the move to
another one a month later."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from loadtests.device import Device
from loadtests.measured import say
from loadtests.processes import RunError

OFFERS = (("Steady", 45, 2_000), ("Thrifty", 38, 3_000))  # name, basis points, rent of a terminal by the month
METHODS, PARTS = ["card"], [{"brand": "unionpay", "card_type": "debit", "share": 1}]
MONTH = timedelta(days=30)


class Person(Protocol):
    def ask(self, method: str, path: str, body: object = None, *, wants: tuple[int, ...] = (200, 201)) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """Asked by an operator, about two acquirers: of now, and the other one."""

    operator: Person
    now: str
    other: str

    def offered(self) -> None:
        """Each acquirer's offer, for everybody to see."""
        for acquirer, (name, points, rent) in zip((self.now, self.other), OFFERS, strict=True):
            terms = {"name": name, "currency": "CNY", "rules": [{"name": "All cards", "price": {"basis_points": points}}],
                     "periodic": [{"name": "Rent", "per": "terminal", "amount": rent}], "tax": {"name": "VAT", "basis_points": 600}}
            added = self.operator.ask("POST", "/v1/offers", {"acquirer": acquirer, "name": name, "terms": terms, "funding_days": 1})
            self.operator.ask("POST", f"/v1/offers/{added['id']}/activate", {})

    def advised(self, profile: dict[str, Any], place: str) -> None:
        """The questionnaire's answer, and the offers side by side: the same month costs the same in both."""
        asked = {"country": "CN", **{name: profile[name] for name in ("mcc", "currency", "monthly_volume", "average_ticket", "terminals")}}
        needs = asked | {"methods": METHODS, "place": place, "equipment": "rent", "budget": profile["monthly_volume"] // 20}
        found = self.operator.ask("POST", "/v1/recommendations", needs)
        if found["plan"] is None or not found["within_budget"]:
            raise RunError(f"nothing is recommended: {found}")
        cost = found["plan"]["cost"]
        fees = ", ".join(f"{line['rule']} {line['amount'] / 100:.2f}" for line in cost["lines"])
        methods = ", ".join(each["method"] for each in found["methods"])
        say(f"J1  {profile['trading_name']} needs {found['terminal']['model']} for {methods}; {found['plan']['name']}: "
            f"{cost['total'] / 100:.2f} a month ({fees})")
        beside = self.operator.ask("POST", "/v1/offers/comparisons", asked | {"parts": PARTS})["items"]
        costs = (f"{each['name']} {each['cost']['total'] / 100:.2f}" for each in beside)
        say(f"J2  side by side: {', '.join(costs)}")

    def moved_on(self, merchant: str, device: Device, sale: str, today: date) -> None:
        """The whole of the merchant's traffic goes to the other acquirer; what was sold before is given back where it was sold."""
        due = (today + MONTH).isoformat()
        move = self.operator.ask("POST", "/v1/moves", {"merchant": merchant, "from_acquirer": self.now, "to_acquirer": self.other, "planned_for": due,
                                                       "reason": "Lower fees, after a month"})
        path = f"/v1/moves/{move['id']}"
        owed = self.operator.ask("GET", f"{path}/obligations")["open"]
        say(f"J17 a change is planned for {due}; open at the old acquirer: {', '.join(each['kind'] for each in owed) or 'nothing'}")
        for step in ({"event": "register"}, {"event": "share", "percent": 50}, {"event": "share", "percent": 100}, {"event": "complete"}):
            state = self.operator.ask("POST", f"{path}/steps", {**step, "reason": "As planned"})["state"]
        sold = [device.sell(amount) for amount in (5_200, 6_300)]
        back = device.terminal.follow("refunds", sale, {"amount": 500})
        places = [self.operator.ask("GET", f"/v1/transactions/{each.id}")["acquirer"] for each in (*sold, back)]
        if not all(each.sold for each in (*sold, back)) or places != [self.other, self.other, self.now]:
            raise RunError(f"sold {sold}, given back {back}, at {places}")
        batch = device.terminal.close_batch(device.memory["terminal"])
        if not batch["in_balance"]:
            raise RunError(f"the batch is {batch}")
        say(f"J17 {state}: two sales went to the new acquirer, a refund of before to the old one; the batch is in balance")
