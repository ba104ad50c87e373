"""`make journey`: one company and one individual from the questionnaire to the first payout, through a week of business and
then to another acquirer, over HTTP alone.

Each step is printed. A demo switch of its own, its stub as the acquirer, another stub as the other one. Devices are those of loadtests/device.py;
people are keys of their own, and nobody decides alone what two must. A step that is not answered as it should be ends the walk with what was asked
and what was said, and exit 1.
"""
import hashlib
import http.client
import itertools
import json
import sys
import time
import urllib.parse
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.choice import Choice
from loadtests.device import Device, Refused, lose_power
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError, until
from loadtests.services import start_demo, start_stub
from loadtests.trial import drawn
from loadtests.week import WEEKLY, Week

CUT_OVER_S = 120.0
END = "2099-12-31"
COMPANY = {"name": "上海港湾面包有限公司", "trading_name": "Harbour Bakery", "phone": "+86 21 5555 0100", "email": "owner@bakery.example",
           "mcc": "5462", "time_zone": "Asia/Shanghai", "currency": "CNY", "monthly_volume": 8_000_000, "average_ticket": 4500,
           "years_in_business": 3,
           "store": {"name": "Bund", "city": "Shanghai"}, "terminals": 1}
LICENCE = {"number": "91110000600037341L", "name": COMPANY["name"]}
ACCOUNT = {"country": "CN", "account_number": "1001234567890", "bank_code": "102290000012"}
PERSON = {"name": "王芳", "trading_name": "Wang Fang", "phone": "+86 138 0013 8000", "email": "fang@noodles.example", "mcc": "5814",
          "time_zone": "Asia/Shanghai", "currency": "CNY", "monthly_volume": 300_000, "average_ticket": 3000, "years_in_business": 1,
          "store": {"name": "Night market", "city": "Shanghai"}, "terminals": 1}
MODEL, STEPS = "PX7", ("chip", "swipe", "contactless", "decline", "cancellation", "void", "refund", "receipt")
OUR_ACCOUNT = {"currency": "CNY", "holder": "Payment Service", "country": "CN", "account_number": "1009876543210", "bank_code": "102290000012"}
AHEAD = timedelta(hours=8)  # of Shanghai
FACTS = ("currency", "brand", "card_type", "entry_mode", "captured_at")  # of a sale, that its fee depends on
PDF = b"%PDF-1.7\n1 0 obj\n<</Type/Page>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


def resident_id(serial: int) -> str:
    """A resident id of somebody born on 1 January 1980, with its check character (GB 11643)."""
    base = f"11010119800101{serial:03}"
    weights = [pow(2, 17 - at, 11) for at in range(17)]
    return base + "10X98765432"[sum(int(sign) * weight for sign, weight in zip(base, weights, strict=True)) % 11]


def yuan(fen: int) -> str:
    return f"{Decimal(fen) / 100:.2f}"


class Person:
    """Somebody with a key."""

    def __init__(self, url: str, key: str, name: str) -> None:
        self.url, self.key, self.name = urllib.parse.urlsplit(url), key, name

    def ask(self, method: str, path: str, body: object = None, *, wants: tuple[int, ...] = (200, 201), media: str = "application/json") -> Any:
        """What the answer says, JSON or bytes. Raises RunError when its status is none of `wants`."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=30)
        try:
            connection.request(method, path, data, {"Authorization": f"Bearer {self.key}", **({} if data is None else {"Content-Type": media})})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        if answer.status not in wants:
            raise RunError(f"{self.name}: {method} {path} was answered {answer.status}, not {wants[0]}: {raw.decode(errors='replace')[:600]}")
        return json.loads(raw) if "json" in (answer.getheader("Content-Type") or "") else raw


class Shop(NamedTuple):
    """A merchant that trades."""

    name: str
    owner: Person
    device: Device
    merchant: str


class Journey:
    """The people of a demo: two operators, and those who come to it."""

    def __init__(self, demo: dict[str, Any], home: Path, other_port: int) -> None:
        self.demo, self.home, self.url = demo, home, str(demo["base_url"])
        self.operator = Person(self.url, demo["operator_key"], "operator")
        self.second = Person(self.url, demo["second_operator_key"], "second operator")
        self.acquirer = self.operator.ask("GET", "/v1/links")["items"][0]["acquirer"]
        other = self.operator.ask("POST", "/v1/acquirers", {"name": "other", "dialect": "iso87_ascii", "host": "127.0.0.1", "port": other_port,
                                                                  "time_zone": "Asia/Shanghai"})
        self.choice = Choice(self.operator, self.acquirer, other["id"])
        self.week = Week(self.operator, self.acquirer, (datetime.now(UTC) + AHEAD).date(), self.cut_over, self.pay)
        self.sales: dict[str, str] = {}  # terminal -> a sale of its first day
        self.serials = itertools.count(int(time.time()) % 1_000_000 * 1000)

    def person(self, key: str, name: str, path: str) -> Person:
        """Somebody whose key is known by now: every worker reads new keys within a second."""
        found = Person(self.url, key, name)
        until(lambda: "code" not in found.ask("GET", path, wants=(200, 401)), f"the key of {name} is not known")
        return found

    def agreed(self, path: str, body: dict[str, object], method: str = "PUT") -> Any:
        """Asked for by one operator and decided by the other."""
        asked = self.operator.ask(method, path, body, wants=(202,))
        return self.second.ask("POST", f"/v1/approvals/{asked['id']}")

    # J3, J4, J5

    def apply(self, entity_type: str, profile: dict[str, Any], documents: list[tuple[str, dict[str, str], str | None]]) -> tuple[str, Person]:
        """The application as its applicant makes it: every document with its scan, until nothing is missing."""
        begun = self.operator.ask("POST", "/v1/applications", {"entity_type": entity_type, "country": "CN", "profile": profile})
        path = f"/v1/applications/{begun['id']}"
        applicant = self.person(begun["key"], "applicant", path)
        say(f"J3  {profile['trading_name']} applies; missing: {', '.join(each['kind'] for each in applicant.ask('GET', f'{path}/missing')['items'])}")
        for kind, fields, expires_on in documents:
            added = applicant.ask("POST", f"{path}/documents", {"kind": kind, "fields": fields, **({"expires_on": expires_on} if expires_on else {})})
            document = next(each["id"] for each in reversed(added["documents"]) if each["kind"] == kind)
            applicant.ask("POST", f"{path}/documents/{document}/file?name=scan", PDF, media="application/pdf")
        if left := applicant.ask("GET", f"{path}/missing")["items"]:
            raise RunError(f"still missing: {left}")
        state = applicant.ask("POST", f"{path}/submit", {})["state"]
        say(f"J3  {len(documents)} documents with their scans, nothing is missing; the application is {state}")
        return str(begun["id"]), applicant

    def review(self, application: str) -> str:
        """Each document looked at, the score read, the decision by as many people as the rules want; the merchant that it makes."""
        path = f"/v1/applications/{application}"
        if self.operator.ask("GET", path)["state"] == "submitted":
            self.operator.ask("POST", f"{path}/take", {"reason": "Next in the queue"})
            for document in self.operator.ask("GET", path)["documents"]:
                self.operator.ask("POST", f"{path}/documents/{document['id']}/verdicts", {"verdict": "accepted", "reason": "Looked at"})
            score = self.operator.ask("GET", f"{path}/score")
            decision = {"decision": "approve", "version": score["version"], "reason": "As looked at"}
            decided = self.operator.ask("POST", f"{path}/decisions", decision, wants=(200, 202))
            if decided.get("state") != "approved":
                self.second.ask("POST", f"/v1/approvals/{decided['id']}")
            say(f"J5  score {score['score']}; approved by {'two people' if score['two_people'] else 'a reviewer'}")
        shown = self.operator.ask("GET", path)
        if shown["state"] != "approved":
            raise RunError(f"the application is {shown['state']}: {shown}")
        return str(shown["merchant"])

    # J6

    def contract(self, merchant: str, applicant: Person) -> None:
        """The draft that came with the approval, with payouts once a week, the first on the same day, which is below the standard: two people
        offer it. Signed by both."""
        self.agreed(f"/v1/merchants/{merchant}/bank-account/agreement", {"currency": "CNY", "reason": "Seen on the card"}, "POST")
        (draft,) = self.operator.ask("GET", f"/v1/contracts?merchant={merchant}")["items"]
        path = f"/v1/contracts/{draft['id']}"
        terms = self.operator.ask("GET", path)["terms"]
        begins = str(self.week.first)  # today, where the merchant is
        while self.operator.ask("GET", f"/v1/acquirers/{self.acquirer}")["business_date"] < begins:
            self.settle()
        terms = {**terms, "settlement": {**terms["settlement"], "calendar": WEEKLY, "funding_days": 0},
                 "term": {**terms["term"], "from": begins, "deposit": 0}}
        revised = self.operator.ask("PUT", f"{path}/terms", {"terms": terms, "reason": "Paid once a week"})
        self.agreed(f"{path}/offer", {"version": revised["version"], "reason": "As agreed on the phone"}, "POST")
        digest = hashlib.sha256(applicant.ask("GET", f"{path}/document")).hexdigest()
        for who, name in ((applicant, "Wang+Fang"), (self.operator, "Li+Wei")):
            signed = who.ask("POST", f"{path}/signature?sha256={digest}&name={name}", drawn(), media="image/png")
        rates = ", ".join(f"{rule['name']} {rule['price'].get('basis_points')} bp" for rule in terms["tariff"]["rules"])
        say(f"J6  the contract from {begins} on is {signed['state']}: {rates}; document {digest[:12]}..., signed by both")

    # J7

    def install(self, merchant: str) -> Device:
        """From stock to the till: a device with a key, its parameters, and a heartbeat; live."""
        (store,) = self.of("stores", merchant)
        (till,) = self.of("terminals", merchant)
        serial = f"PX7-{next(self.serials):09}"
        device = self.operator.ask("POST", "/v1/devices", {"serial_number": serial, "model": MODEL, "reason": "Delivery"})
        path = f"/v1/devices/{device['id']}"
        for step in ({"event": "order", "store": store["id"]}, {"event": "ship"}, {"event": "install", "terminal": till["id"]}):
            self.operator.ask("POST", f"{path}/moves", {**step, "reason": "Journey"})
        code = self.operator.ask("POST", f"{path}/activation-codes", {})["code"]
        till_device = Device(self.home / serial)
        till_device.activate(self.url, serial, code)
        until(lambda: self.beats(till_device), "the device's key is not known")
        self.accepted(till_device, path)
        live = self.operator.ask("POST", f"{path}/moves", {"event": "go_live", "reason": "Journey"})
        until(lambda: till_device.heartbeat(battery_percent=90)["sells"], "the device does not sell")
        values = till_device.sign_in()
        say(f"J7  keys: a master key with the activation, working keys by sign-in: {', '.join(f'{name} {kcv}' for name, kcv in values.items())}")
        say(f"J7  {serial}: ordered, shipped, installed, activated by its code, {live['state']}")
        return till_device

    def accepted(self, device: Device, path: str) -> None:
        """The acceptance test of the model, on the real path, and nothing of it left."""
        test = self.operator.ask("POST", f"{path}/acceptance-tests", {"reason": "Before the opening"})["id"]
        self.operator.ask("POST", f"/v1/acceptance-tests/{test}/moves", {"event": "begin", "reason": "At the till"})
        done = until(lambda: found if (found := device.accept()).get("shown") else None, "the test does not run")
        if done["missing"] or done["standing"]:
            raise RunError(f"the acceptance test: {done}")
        self.operator.ask("POST", f"/v1/acceptance-tests/{test}/moves", {"event": "pass", "reason": "All shown"})
        say(f"J9  the acceptance test is passed: {', '.join(done['shown'])}")

    def of(self, what: str, merchant: str) -> list[Any]:
        return [each for each in self.operator.ask("GET", f"/v1/{what}?limit=100")["items"] if each["merchant"] == merchant]

    @staticmethod
    def beats(device: Device) -> bool:
        try:
            device.heartbeat(battery_percent=95, paper="ok")
        except Refused:
            return False
        return True

    # J10

    def trade(self, device: Device, merchant: Person) -> None:
        """Sold, declined, voided, refunded in part, and a power loss in the middle of a sale."""
        sales = [device.sell(amount) for amount in (10_000, 4_500, 12_000)]
        declined = device.sell(2_551)
        if not all(sale.sold for sale in sales) or declined.sold:
            raise RunError(f"sold {sales}, declined {declined}")
        undone = [device.terminal.follow("voids", str(sales[1].id), {}), device.terminal.follow("refunds", str(sales[2].id), {"amount": 2_000})]
        lost = lose_power(device, 3_000, "CNY")
        receipt = merchant.ask("GET", f"/v1/transactions/{sales[0].id}/receipt?format=text").decode()
        batch = device.terminal.close_batch(device.memory["terminal"])
        if not all(each.sold for each in undone) or any(each.sold for each in lost) or not batch["in_balance"]:
            raise RunError(f"undone {undone}, after the power loss {lost}, batch {batch}")
        self.sales[device.memory["terminal"]] = str(sales[0].id)
        say("J10 three sales, one declined, one voided, one refunded in part, one undone after a power loss; the batch is in balance")
        say("\n".join(f"      {line}" for line in receipt.splitlines()))

    # J12, J16

    def settle(self) -> None:
        say(f"J12 the acquirer's day {self.cut_over()} is cut over")

    def cut_over(self) -> str:
        """Of the acquirer's day: its date."""
        day = self.operator.ask("GET", f"/v1/acquirers/{self.acquirer}")["business_date"]
        self.operator.ask("POST", f"/v1/acquirers/{self.acquirer}/cutovers", {"business_date": day}, wants=(200, 201, 202))

        def done() -> Any:
            runs = self.operator.ask("GET", f"/v1/acquirers/{self.acquirer}/cutovers")["items"]
            return next((run for run in runs if run["business_date"] == day and run["ended_at"]), None)

        until(done, f"the day {day} is not cut over", CUT_OVER_S)
        return str(day)

    def explained(self, merchant: Person) -> Any:
        """The merchant's settlement: what it sold less its fees is what it gets, and each line names the rule that priced it."""
        (settlement,) = merchant.ask("GET", "/v1/settlements")["items"]
        lines = merchant.ask("GET", f"/v1/settlements/{settlement['id']}/transactions")["items"]
        monthly = [each for each in settlement["extra_fees"] if each["monthly"]]
        gross, fees = sum(line["gross"] for line in lines), sum(line["fee"] for line in lines) + sum(each["amount"] for each in monthly)
        told = settlement["sales"] - settlement["refunds"], settlement["fees"] + settlement["tax"], settlement["net"]
        if (gross, fees, gross - fees) != told:
            raise RunError(f"the lines say {gross} less {fees}, the settlement {settlement}")
        sold, back, net = (yuan(settlement[name]) for name in ("sales", "refunds", "net"))
        say(f"J12 sold {sold}, given back {back}, fees {yuan(fees)} with {yuan(settlement['tax'])} of tax, net {net} CNY; line by line:")
        for line in reversed(lines):
            say(f"      {line['kind']:7} {yuan(line['gross']):>8}  fee {yuan(line['fee']):>6}  {line['rule']}")
        for each in monthly:
            say(f"      {'month':7} {'':8}  fee {yuan(each['amount']):>6}  {each['name']}")
        return settlement

    def estimated(self, merchant: Person, settlement: Any) -> None:
        """What the estimate asks for the same sales is what the settlement took for them."""
        lines = merchant.ask("GET", f"/v1/settlements/{settlement['id']}/transactions")["items"]
        sales = [line for line in lines if line["kind"] == "sale"]
        asked = [{"amount": line["gross"], **{name: line[name] for name in FACTS}} for line in sales]
        estimate = merchant.ask("POST", "/v1/fees/estimates", {"transactions": asked, "month_to_date": {}})
        (total,) = estimate["totals"]  # of the transactions alone: the month's charges are not asked for
        if total["fees"] != sum(line["fee"] for line in sales):
            raise RunError(f"the estimate is {total}, the bill {sales}")
        say(f"J12 the estimate of the same {len(sales)} sales is their bill: {yuan(total['fees'])}")

    def pay(self, on: date) -> None:
        """What is due to all goes to the bank in a file, and the bank says that it was paid."""
        self.operator.ask("POST", "/v1/payouts/run", {"currency": "CNY", "on": str(on)})
        file = self.operator.ask("POST", "/v1/payouts/files", {"currency": "CNY", "format": "csv"})
        path = f"/v1/payouts/files/{file['id']}"
        orders = [line.split(",") for line in self.operator.ask("GET", f"{path}/content").decode().splitlines() if line[:2] == "P,"]
        self.operator.ask("POST", f"{path}/sent", {})
        today, total = datetime.now(UTC).date(), sum(Decimal(order[8]) for order in orders)
        answer = [f"H,ANSWER,1,{OUR_ACCOUNT['account_number']},CNY,{today},ANSWER-{file['id'][-12:]}",
                  *[f"A,{order[1]},{order[2]},confirmed,{order[8]},CNY,{today},BANK-{order[2][-8:]}," for order in orders],
                  f"T,{len(orders)},{total}", ""]
        self.operator.ask("POST", "/v1/payouts/answers", "\n".join(answer).encode(), media="text/csv")
        say(f"J12 a file of {len(orders)} payouts, {total} CNY, went to the bank, which has paid them")

    @staticmethod
    def paid(merchant: Person) -> None:
        (payout,) = merchant.ask("GET", "/v1/payouts")["items"]
        if payout["state"] != "confirmed":
            raise RunError(f"the payout is {payout}")
        say(f"J12 the merchant sees it: {yuan(payout['amount'])} CNY {payout['state']}")

    # the whole way

    def company(self) -> tuple[str, Person]:
        serial = next(self.serials) % 1000
        documents = [("business_licence", LICENCE, None), ("tax_registration", {"number": LICENCE["number"]}, None),
                     ("bank_account", {"holder": COMPANY["name"], **ACCOUNT}, None),
                     ("representative_identity", {"number": resident_id(serial), "name": "王芳"}, END),
                     ("food_licence", {"number": "JY13101010000001"}, END)]
        application, applicant = self.apply("company", COMPANY, documents)
        return self.review(application), applicant

    def individual(self) -> tuple[str, Person]:
        """By the light path: rules decide within the answer to the submission, with low limits."""
        serial = next(self.serials) % 1000
        documents = [("bank_account", {"holder": PERSON["name"], **ACCOUNT, "account_number": "1001234567891"}, None),
                     ("representative_identity", {"number": resident_id(serial), "name": PERSON["name"]}, END)]
        application, applicant = self.apply("individual", PERSON, documents)
        merchant = self.review(application)
        limits = self.operator.ask("GET", f"/v1/applications/{application}")["limits"]
        say(f"J4  decided by rules; limits: {json.dumps(limits)}")
        return merchant, applicant

    def walk(self) -> None:
        self.operator.ask("PUT", f"/v1/acceptance-plans/{MODEL}", {"steps": [{"step": each} for each in STEPS], "reason": "New model"})
        self.agreed("/v1/payouts/bank-account", {**OUR_ACCOUNT, "reason": "Opened on 1 March"})
        self.week.arranged()
        shops = list[Shop]()
        until(lambda: "other" in {each["name"] for each in self.operator.ask("GET", "/v1/links")["items"]
                                  if each["state"] == "up"}, "the other acquirer's line is not up")
        self.choice.offered()
        for begin, profile, place in ((self.company, COMPANY, "counter"), (self.individual, PERSON, "outdoors")):
            self.choice.advised(profile, place)
            merchant, applicant = begin()
            self.contract(merchant, applicant)
            device = self.install(merchant)
            key = self.operator.ask("POST", "/v1/keys", {"role": "merchant", "merchant": merchant})["key"]
            owner = self.person(key, "merchant", "/v1/balance")
            self.trade(device, owner)
            shops.append(Shop(str(profile["trading_name"]), owner, device, merchant))
        self.week.begins()
        self.settle()
        for shop in shops:
            self.estimated(shop.owner, self.explained(shop.owner))
        self.pay(self.week.first)
        for shop in shops:
            self.paid(shop.owner)
        self.week.passed(shops)
        for shop in shops:
            self.choice.moved_on(shop.merchant, shop.device, self.sales[shop.device.memory["terminal"]], self.week.first)
            shop.device.close()


def main() -> int:
    parser("journey", __doc__).parse_args()

    def run(result: Result, processes: Processes, home: Path) -> list[str]:
        started = time.monotonic()
        Journey(start_demo(processes, home), home, start_stub(processes, home).port).walk()
        result["seconds"] = round(time.monotonic() - started, 1)
        return []

    return measured("journey", run)


if __name__ == "__main__":
    sys.exit(main())
