"""An acquirer's host with a book of its own. Strict: it matches reversals by their original data and forgets nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from messages.dialect import answer_mti, load
from switch.money import CURRENCIES
from tests.simulation.lines import Line

if TYPE_CHECKING:
    from tests.simulation.world import World

Message = dict[str, str]
DECLINES, DOUBTS = ("05", "51", "91", "14"), ("96", "68", "06", "Q9")
QUEUE_MAX = 9.5  # seconds; with the longest delay of the line still before "not found" is believed
ECHOED = ("2", "3", "4", "7", "11", "12", "13", "37", "41", "42", "49")


@dataclass
class Entry:
    """An original as this host knows it. `standing`: what it has booked, in minor units."""

    code: str
    standing: int
    approval_code: str
    key: str
    mti: str
    contradicted: bool = False


class Host:
    def __init__(self, world: "World", number: int, name: str) -> None:
        self.world, self.number, self.name, self.dialect = world, number, name, load("iso87_ascii")
        self.down = False
        self.lines: dict[Line, None] = {}
        self.book: dict[str, Entry] = {}
        self.undone: dict[str, int] = {}  # original -> reversals applied or remembered
        chance = world.chance
        self.refuses_after_reversal = chance.random() < 0.5
        self.acknowledges_unknown = chance.random() < 0.4
        self.repeat_code = chance.choice(("00", "94", "94", "30"))
        self.approval = 0

    def stop(self) -> None:
        """Its memory of lines is gone, its book is not."""
        self.down = True
        for line in list(self.lines):
            line.cut()

    def receive(self, line: Line, message: Message) -> None:
        if self.down:
            return
        self.world.checkers.received(self, message)
        kind = message["0"][1]
        answer: Message = {"0": answer_mti(message["0"]), **{number: message[number] for number in ECHOED if number in message}}
        if kind == "8":
            answer = {"0": answer["0"], "7": message["7"], "11": message["11"], "70": message["70"], "39": "00"}
            self._say(line, answer, 0.0)
            return
        may_queue = not self.acknowledges_unknown or self.refuses_after_reversal  # else nobody could put it right
        if kind != "4" and may_queue and self.world.faults.hit("host_queue"):  # it is booked later: a reversal that comes meanwhile finds nothing
            self.world.later(self.world.chance.uniform(1, QUEUE_MAX), self._decide, line, message, answer)
        else:
            self._decide(line, message, answer)

    def _decide(self, line: Line, message: Message, answer: Message) -> None:
        if self.down:
            return
        kind = message["0"][1]
        answer |= self._reversal(message) if kind == "4" else self._original(message)
        faults, chance = self.world.faults, self.world.chance
        pause = chance.uniform(0.005, 0.05)
        if faults.hit("host_late"):
            pause = chance.choice((chance.uniform(0.5, 3.5), chance.uniform(3, 6)))
        self._say(line, answer, pause)
        if kind != "4" and faults.hit("host_contradicts"):
            self._contradict(line, message, answer, pause)

    def _say(self, line: Line, answer: Message, pause: float) -> None:
        def say() -> None:
            if self.down:
                return
            through = line
            if line.closed and self.lines:  # an answer may come over another line of the same switch
                through = next(iter(self.lines))
            through.send(answer)

        self.world.later(pause, say)

    def _contradict(self, line: Line, message: Message, answer: Message, pause: float) -> None:
        """The same request answered again, and differently: a decline that was an approval after all, or the other way round."""
        entry = self.book.get(original_of(message))
        if entry is None or entry.contradicted or entry.standing or entry.code not in DECLINES:
            if entry is not None and entry.code == "00":
                entry.contradicted = True
                self._say(line, {number: value for number, value in answer.items() if number != "38"} | {"39": "05"}, pause + 0.3)
            return
        entry.contradicted = True
        if original_of(message) in self.undone:
            return
        entry.code, entry.standing = "00", int(message["4"])
        self._say(line, answer | {"39": "00", "38": entry.approval_code}, pause + 0.3)

    def stray(self) -> None:
        """An answer that nothing brought about, for a request whose outcome is decided: approved, declined or neither.

        Of one that is being reversed only when this host knows it: an answer is taken as proof that its request has come."""
        chance = self.world.chance
        rows = [row for row in self.world.books.table("transaction").values() if row["state"] != "SENT" and row["acquirer_id"].int == self.number
                and (row["state"] != "REVERSING" or original_of(said_of(row)) in self.book)]
        if not rows or not self.lines or self.down:
            return
        row, line = chance.choice(rows), chance.choice(list(self.lines))
        code = chance.choice(("00", "05", "96"))
        line.send({**said_of(row), "0": answer_mti(row["mti"]), "39": code, **({"38": "999999"} if code == "00" else {})})

    def _original(self, message: Message) -> Message:
        key, faults, chance = original_of(message), self.world.faults, self.world.chance
        entry = self.book.get(key)
        if entry is None:
            amount, code = int(message["4"]), "00"
            advice = message["0"][2] == "2"
            if key in self.undone and self.refuses_after_reversal:
                code, amount = "21", 0
            elif advice:
                if faults.hit("advice_refused"):
                    code, amount = chance.choice(("05", "96", "91")), 0
            elif faults.hit("host_decline"):
                code, amount = chance.choice(DECLINES), 0
            elif faults.hit("host_doubt"):  # a doubtful answer may stand for a booking
                code = chance.choice(DOUBTS)
                amount *= chance.random() < 0.5
            elif amount > 1 and faults.hit("host_partial"):
                code, amount = "10", amount // 2
            self.approval += 1
            entry = Entry(code, amount, f"{self.approval:06d}", key, message["0"])
            if not (advice and code in DOUBTS):
                self.book[key] = entry
        said = {"39": entry.code}
        if entry.code == "10":
            said["4"] = f"{entry.standing or int(message['4']) // 2:012d}"
        if entry.code in ("00", "10"):
            said["38"] = entry.approval_code
        return said

    def _reversal(self, message: Message) -> Message:
        faults, chance = self.world.faults, self.world.chance
        if faults.hit("reversal_refused"):
            return {"39": chance.choice(("96", "91", "08", "30"))}
        original = message["90"]
        key = "|".join((original[:4], original[10:20], original[4:10], message["37"], message["41"], message["42"]))
        times = self.undone.get(key, 0)
        self.undone[key] = times + 1
        entry = self.book.get(key)
        if entry is not None:
            entry.standing = 0
            if faults.hit("reversal_forgotten"):
                return {"39": chance.choice(("25", "12"))}
            return {"39": self.repeat_code if times else "00"}
        return {"39": "00" if self.acknowledges_unknown else "25"}


def original_of(message: Message) -> str:
    """What a reversal's DE90 and its echoed fields name: MTI, DE7, DE11, DE37, DE41, DE42; a repeat is the same original."""
    mti = message["0"][:3] + "0"
    return "|".join((mti, message["7"], message["11"], message["37"], message["41"], message["42"]))


def said_of(row: Any) -> Message:
    """What of a request an answer repeats."""
    return {"0": row["mti"], "3": row["processing_code"], "4": f"{row['amount']:012d}", "7": row["transmitted_at"], "11": row["stan"],
            "37": row["rrn"], "41": row["card_acceptor_terminal"], "42": row["card_acceptor"], "49": CURRENCIES[row["currency"]][0]}
