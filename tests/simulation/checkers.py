"""What must hold, asked at every step and at the end. Numbers are the invariants of the reliability notes (docs)."""

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from switch.payments.transaction import APPROVED, CONFIRMED, PARKED, REVERSED, REVERSING, SENT
from tests.simulation.host import original_of

if TYPE_CHECKING:
    from tests.simulation.host import Entry, Host
    from tests.simulation.lines import Line
    from tests.simulation.world import World

Message = dict[str, str]
COMMIT_BUDGET_S = 3.0
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
                self.world.trace("row", key, old["state"], "->", new["state"], new["reason"])
        elif table == "transaction":
            self.world.trace("row", key, "SENT", new["type"], new["amount"], new["rrn"])
        elif table == "duty":
            if old is None:
                self.duties_made += 1
            elif new is None:
                self.fail(f"I-5: the duty of {key} was deleted")
            if old is None or old["state"] != new["state"]:
                self.world.trace("duty", key, new["kind"], new["state"], new["closed_by"])
            if new["state"] == "done" and new["closed_by"] is None:
                self.fail(f"I-5: the duty of {key} is done, by nobody")

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
        for row in self.world.books.table("transaction").values():
            if row["acquirer_id"].int == acquirer and row["rrn"] == message["37"] and row["card_acceptor_terminal"] == message["41"]:
                return row
        return None

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
        for host in self.world.hosts.values():
            for key in host.book:
                if (host.number, key) not in known:
                    self.fail(f"I-2: {host.name} knows {key}, the switch does not")

