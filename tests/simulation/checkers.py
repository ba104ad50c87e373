"""What must hold, asked at every step and at the end. Numbers are the invariants of the reliability notes (docs)."""

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from switch.payments.transaction import APPROVED, CONFIRMED, PARKED, REVERSED, REVERSING, SENT
from tests.simulation.host import original_of

if TYPE_CHECKING:
    from tests.simulation.host import Entry, Host
    from tests.simulation.lines import Line
    from tests.simulation.terminal import Receipt
    from tests.simulation.world import World

Message = dict[str, str]
COMMIT_BUDGET_S = 3.0
MERCHANT = UUID(int=50)
BEYOND = 1500, 2000  # basis points that the acquirers allow beyond what is authorised (world.BASIS_POINTS)
FORWARD = frozenset({APPROVED, CONFIRMED})
SETTLED = frozenset({"APPROVED", "DECLINED", "NOT_SENT", "REVERSED", "PARKED", "CONFIRMED"})


class Violated(AssertionError):
    """An invariant does not hold; the text begins with its number."""


class Checkers:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.pairs: Counter[tuple[str, str]] = Counter()  # state, event
        self.written_times: Counter[tuple[int, str]] = Counter()  # (acquirer, original or reversal) -> how often written
        self.reversed_at: dict[tuple[int, str], float] = {}
        self.approvals: set[tuple[int, str]] = set()  # acquirer, RRN of approvals that reached a worker as the host said them
        self.duties_made = 0
        self.named: dict[tuple[int, str], Any] = {}  # acquirer, RRN -> transaction

    def fail(self, text: str) -> None:
        """Raises, and is remembered: a task of the switch may swallow what is raised in it."""
        violated = Violated(f"{text} (at {self.world.loop.now:.3f} s)")
        self.world.loop.faults.append(violated)
        self.world.loop.stop = True
        raise violated

    # at every step

    def changed(self, table: str, key: Any, old: Any, new: Any) -> None:
        """A committed change of a row."""
        if table == "transaction" and old is not None:
            if old["state"] in (REVERSING, REVERSED, PARKED) and new["state"] == APPROVED:
                self.fail(f"I-6: {key} went from {old['state']} to {new['state']}")
            if new["state"] == APPROVED and old["state"] == SENT and (new["acquirer_id"].int, new["rrn"]) not in self.approvals:
                self.fail(f"I-15: {key} is approved, and no answer that fits it ever came")
            if old["state"] == SENT and new["state"] == REVERSING and new["reason"] == "crash":
                self._taken_over(key, old)
            if event := self._decided(key, old, new):
                self.world.pairs[old["state"], event] += 1
            if old["state"] != new["state"]:
                self.world.trace("row", key, old["state"], "->", new["state"], new["reason"], "version", new["version"])
            self._amounts(new)
        elif table == "transaction":
            self.named[new["acquirer_id"].int, new["rrn"]] = key
            self.world.trace("row", key, "SENT", new["type"], new["amount"], new["rrn"], "of", new["original_id"])
            self._amounts(new)
        elif table == "duty":
            if old is None:
                self.duties_made += 1
            elif new is None:
                self.fail(f"I-5: the duty of {key} was deleted")
            if old is None or old["state"] != new["state"]:
                self.world.trace("duty", key, new["kind"], new["state"], new["closed_by"])
            if new["state"] == "done" and new["closed_by"] is None:
                self.fail(f"I-5: the duty of {key} is done, by nobody")

    def _amounts(self, row: Any) -> None:
        """I-11, after each commit that touches an original or what follows it."""
        books = self.world.books
        original = row if row["original_id"] is None else books.table("transaction")[row["original_id"]]
        steps = [each for key in books.made_of.get(original["transaction_id"], ())
                 if (each := books.table("transaction")[key])["idempotency_key"] is not None]
        if not steps:
            return
        name, stand = original["transaction_id"], {each["type"]: 0 for each in steps} | dict.fromkeys(("refund", "void", "increment", "takes"), 0)
        held = dict(stand)
        for each in steps:
            kind = "takes" if each["type"] in ("capture", "tip") else each["type"]
            stand[kind] += each["amount"] * (each["state"] in FORWARD)
            held[kind] += each["reserved"]
        if original["state"] not in FORWARD:
            if original["state"] in (REVERSING, REVERSED) and any(each["state"] in (SENT, APPROVED) for each in steps):
                self.fail(f"I-11: {name} is {original['state']}, and a step that was built on it stands")
            return
        captured, authorised, capturable = (original[each] for each in ("captured", "authorised", "capturable"))
        if stand["takes"] + held["takes"] > capturable or captured > capturable or capturable > authorised + authorised * sum(BEYOND) // 10_000:
            self.fail(f"I-11: of {name} {captured} is captured, {stand} stands, {held} is held, {capturable} of {authorised} may be")
        if original["refunded"] != stand["refund"] or stand["refund"] + held["refund"] > captured:
            self.fail(f"I-11: of {name} {captured} is captured, {stand['refund']} refunded, {held['refund']} held for refunds")
        if original["approved_amount"] + stand["increment"] != authorised:
            self.fail(f"I-11: {name} is authorised for {authorised}, not {original['approved_amount']} and increments of {stand['increment']}")
        if original["voided"] != stand["void"] or (original["voided"] and captured):
            self.fail(f"I-11: {name} is voided by {original['voided']}, voids of {stand['void']} stand, {captured} is captured")
        if original["capture_method"] == "manual" and captured != (0 if original["voided"] else stand["takes"]):
            self.fail(f"I-11: of {name} {captured} is captured, {stand['takes']} by its captures")

    def _decided(self, key: Any, old: Any, new: Any) -> str:
        """The event behind a step that only a statement makes: the end of a duty, or a person's word."""
        duty = self.world.books.table("duty").get(key)
        by = {"ack": "acknowledged", "not_found": "not_found", "person": "resolve_reversed"}
        if old["state"] == new["state"]:
            return ""
        if new["state"] == REVERSED:
            return by[duty["closed_by"]]
        steps = {(REVERSING, PARKED): "give_up", (PARKED, REVERSING): "retry", (PARKED, CONFIRMED): "resolve_confirmed"}
        if old["exchange"] == "advice" and old["state"] == SENT:
            return {APPROVED: "approve", "DECLINED": "decline"}.get(new["state"], "")
        return steps.get((old["state"], new["state"]), "")

    def _taken_over(self, key: Any, row: Any) -> None:
        """A worker with a good lease still walks this one, and its time is not over."""
        worker = self.world.books.table("worker")[row["worker_epoch"]]
        lease = worker["lease_until"] if worker["ended_at"] is None else self.world.books.now()
        if self.world.books.now() < min(lease, row["respond_by"] + timedelta(seconds=COMMIT_BUDGET_S - 0.5)):
            self.fail(f"I-28: {key} was taken from a worker whose lease is good until {lease}")

    def row_of(self, acquirer: int, message: Message) -> Any:
        row = self.world.books.table("transaction").get(self.named.get((acquirer, message["37"])))
        return row if row is not None and row["card_acceptor_terminal"] == message["41"] else None

    def written(self, line: "Line", message: Message) -> None:
        """A frame that a worker hands to the socket."""
        self.world.trace(line.node.name, "writes", message["0"], message.get("37", message.get("70")), "stan", message["11"])
        if message["0"][1] == "8":
            return
        acquirer, row = line.host.number, self.row_of(line.host.number, message)
        if row is None:
            self.fail(f"I-2: {message['0']} {message['37']} was written without a committed intent")
        kind = message["0"][1]
        lease = self.world.books.table("worker").get(self.world.epoch_of(line.node))
        if kind in "12" and message["0"][2] == "0" and (
                lease is None or lease["ended_at"] is not None or lease["lease_until"] < self.world.books.now()):
            self.fail(f"I-28: {line.node.name} wrote {message['0']} {message['37']} without a lease")
        self._has_a_slot(line, message)
        if kind == "4":
            duty = self.world.books.table("duty").get(row["transaction_id"])
            self.reversed_at[acquirer, message["37"]] = self.world.loop.now
            place = (acquirer, "4" + message["37"])
            self._same_as_the_original(row, message)
            if duty is None or duty["stan"] != message["11"]:
                self.fail(f"I-18: the reversal of {message['37']} carries a STAN that its duty does not have")
        else:
            place = (acquirer, original_of(message))
            if (acquirer, message["37"]) in self.reversed_at:
                self.fail(f"I-17: {message['0']} {message['37']} was written after its reversal")
            if self.written_times[place] and message["0"][2] == "0":
                self.fail(f"I-1: {message['0']} {message['37']} was written twice")
        if (self.written_times[place] > 0) != (message["0"][3] == "1") and not (self.written_times[place] == 0 and message["0"][3] == "1"):
            self.fail(f"I-18: transmission {self.written_times[place] + 1} of {message['37']} is {message['0']}")
        self.written_times[place] += 1

    def _has_a_slot(self, line: "Line", message: Message) -> None:
        """An acquirer that takes only so many lines hears from workers that hold one of its slots."""
        books = self.world.books
        if books.table("directory_acquirer")[line.host.number]["max_links"] and not any(
                slot["epoch"] == self.world.epoch_of(line.node) and slot["lease_until"] >= books.now() for slot in books.table("link_slot").values()
                if slot["acquirer_id"].int == line.host.number):
            self.fail(f"I-28: {line.node.name} wrote {message['0']} {message['37']} without a slot of {line.host.name}")

    def _same_as_the_original(self, row: Any, message: Message) -> None:
        wanted = {"4": f"{row['amount']:012d}", "37": row["rrn"], "41": row["card_acceptor_terminal"], "42": row["card_acceptor"],
                  "90": f"{row['mti']}{row['stan']}{row['transmitted_at']}{'0' * 22}"}
        if any(message[number] != value for number, value in wanted.items()):
            self.fail(f"I-18: the reversal of {row['rrn']} does not name its original")

    def received(self, host: "Host", message: Message) -> None:
        self.world.trace(host.name, "gets", message["0"], message.get("37", message.get("70")))

    def heard(self, host: "Host", message: Message) -> None:
        """An answer as the host said it has reached a worker."""
        if message.get("39") in ("00", "10") and message["0"][1] in "12":
            self.approvals.add((host.number, message["37"]))

    def told(self, transaction_id: Any, said: str) -> None:
        """An answer leaves a worker."""
        row = self.world.books.table("transaction").get(transaction_id)
        if said == "201 approved" and (row is None or row["outcome"] != APPROVED):
            self.fail(f"I-3: {transaction_id} was told approved and is {row and row['state']}")

    # at the end

    def finish(self) -> None:
        """All three books, after everything has come to rest."""
        self._everything_ended()
        self._terminals_and_hosts()
        self._switch_and_hosts()

    def _everything_ended(self) -> None:
        for row in self.world.books.table("transaction").values():
            if row["state"] not in SETTLED:
                self.fail(f"I-27: {row['transaction_id']} {row['exchange']} is still {row['state']}")
        for key, duty in self.world.books.table("duty").items():
            if duty["state"] == "open":
                self.fail(f"I-27: the {duty['kind']} of {key} is still open, next at {duty['next_attempt_at']}")
        if len(self.world.books.table("duty")) != self.duties_made:
            self.fail("I-5: duties were lost")

    def effects(self) -> dict[Any, list[tuple[Any, int]]]:
        """Per key: the originals that stand at a host, with their amounts. Follow-ups add their own sign here."""
        found: dict[Any, list[tuple[Any, int]]] = {}
        for row in self.world.books.table("transaction").values():
            entry = self.entry_of(row)
            if row["original_id"] is None and entry is not None and entry.standing:
                found.setdefault((row["caller"], row["idempotency_key"]), []).append((row, entry.standing))
        return found

    def _at_the_host(self, row: Any) -> None:
        """I-11 in the host's own book: of one sale it never gave back more than it took, and never took more than it had authorised."""
        rows = self.world.books.table("transaction")
        steps = [rows[key] for key in self.world.books.made_of.get(row["transaction_id"], ())]
        if not steps or any(self.excused(each) for each in (row, *steps)):
            return
        stands = dict.fromkeys(("capture", "tip", "increment", "refund", "void"), 0)
        for each in steps:
            stands[each["type"]] += entry.standing if (entry := self.entry_of(each)) is not None else 0
        sale = self.entry_of(row)
        held = (sale.standing if sale is not None else 0) + stands["increment"]
        took = stands["capture"] + stands["tip"] + (held if row["mti"][1] == "2" else 0)
        if stands["refund"] > took or took > held + held * sum(BEYOND) // 10_000:
            self.fail(f"I-11: the host authorised {held} of {row['transaction_id']}, took {took} and gave back {stands['refund']}")

    def entry_of(self, row: Any) -> "Entry | None":
        place = "|".join((row["mti"], row["transmitted_at"], row["stan"], row["rrn"], row["card_acceptor_terminal"], row["card_acceptor"]))
        return self.world.hosts[row["acquirer_id"].int].book.get(place)

    def excused(self, row: Any) -> bool:
        """A host that changed its mind, whose second answer nobody heard: only reconciliation can find it. Or a person has it."""
        entry = self.entry_of(row)
        return row["state"] == PARKED or (entry is not None and entry.contradicted)

    def _terminals_and_hosts(self) -> None:
        effects = self.effects()
        for terminal in self.world.terminals:
            for receipt in terminal.receipts.values():
                stand = [(row, amount) for row, amount in effects.pop((terminal.terminal_id, receipt.key), [])
                         if not (row["advice"] == "ask_again" and self.excused(row))]  # declined, and tried elsewhere before its host thought better
                if len(stand) > 1:
                    self.fail(f"I-1: key {receipt.key} stands {len(stand)} times")
                if receipt.said is None:
                    self.fail(f"I-27: terminal {terminal.number} has no answer for {receipt.key}")
                if receipt.original is not None:
                    self._step(terminal.terminal_id, receipt)
                    continue
                if stand and (self.excused(stand[0][0]) or stand[0][0]["state"] == CONFIRMED):
                    continue
                if receipt.said == "sold" and [amount for _, amount in stand] != [receipt.charged]:
                    self.fail(f"I-8: {receipt.key} was told sold for {receipt.charged}, stands as {[amount for _, amount in stand]}")
                teller = self.world.pending.get(receipt.key)
                if receipt.trusted and teller is not None and not teller.alive:
                    continue  # it had to undo what it could not know, and died: only a cancellation is sure (docs/terminal-guide.md)
                if receipt.said == "not_sold" and stand:
                    self.fail(f"I-7: {receipt.key} was told not sold, stands as {stand[0][1]}")
        if effects:
            self.fail(f"I-9: hosts hold keys that no terminal knows: {list(effects)}")

    def _step(self, terminal_id: Any, receipt: "Receipt") -> None:
        """A follow-up that a terminal was told of."""
        known = self.world.books.table("idempotency").get((MERCHANT, terminal_id, receipt.key))
        row = self.world.books.table("transaction").get(known["transaction_id"]) if known else None
        entry = self.entry_of(row) if row else None
        if row and (self.excused(row) or row["state"] == CONFIRMED):
            return
        standing = entry.standing if entry else 0
        if receipt.said == "sold" and (row is None or (receipt.outcome == "201 approved" and standing != row["amount"])):
            self.fail(f"I-8: {receipt.key} was told {receipt.outcome}, stands as {standing}")
        if receipt.said == "not_sold" and standing:
            self.fail(f"I-7: {receipt.key} was told {receipt.outcome}, stands as {standing}")

    def _switch_and_hosts(self) -> None:
        known = set()
        for row in self.world.books.table("transaction").values():
            entry = self.entry_of(row)
            if entry is not None:
                known.add((row["acquirer_id"].int, entry.key))
            if self.excused(row):
                continue
            booked = row["approved_amount"] if row["state"] in FORWARD else 0
            if booked != (entry.standing if entry is not None else 0):
                self.fail(f"I-9: {row['transaction_id']} {row['type']} is {row['state']} with {booked}, the host has {entry}")
            if row["original_id"] is None:
                self._at_the_host(row)
        for host in self.world.hosts.values():
            for key in host.book:
                if (host.number, key) not in known:
                    self.fail(f"I-2: {host.name} knows {key}, the switch does not")

