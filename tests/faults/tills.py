"""Tills: the reference terminal of the guide, with what befalls a real one: power cuts, several switches behind one name, doubled requests."""

import random
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtests.terminal import Journal, Receipt, Terminal

ANSWER_S, PATIENCE_S = 12.0, 40.0  # in proportion to the fault runs' timers, as the guide's 45 s and 90 s are to 30 s

NOTHING_WRITTEN = ("no_connection", "503 processed:false", "429")


class PowerCut(Exception):
    """The till died here; its journal is all that is left."""


class Till(Terminal):
    """`bases` are the addresses of the switch's workers, any of which may be asked. `cut`: where the power goes, drawn per exchange."""

    def __init__(self, bases: list[str], key: str, journal: Path, card: dict[str, Any], draw: random.Random, *, power: float = 0.0,
                 doubled: float = 0.0, haste: float = 1.0, dual: bool = False) -> None:
        super().__init__(bases[0], key, journal, answer_timeout=ANSWER_S, patience=PATIENCE_S, sleep=lambda seconds: time.sleep(seconds * haste))
        self.bases, self.card, self.draw, self.power, self.doubled = bases, card, draw, power, doubled
        self.path, self.dual = journal, dual
        self.answers: defaultdict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)  # every answer to a POST of a key
        self.in_flight = 0
        self.power_after_answer = False  # once: the next final answer is lost with the power
        self.cuts = self.doubles = 0
        self.doubled_keys: set[str] = set()
        self.echoes: list[threading.Thread] = []

    def exchange(self, method: str, path: str, body: dict[str, Any] | None, key: str | None) -> tuple[str, dict[str, Any], float]:
        self.url = urllib.parse.urlsplit(self.draw.choice(self.bases))
        selling = key is not None
        self._maybe_cut(selling)
        if selling and self.draw.random() < self.doubled:
            self._double(path, body, key)
        self.in_flight += selling
        try:
            outcome, answer, retry_after = super().exchange(method, path, body, key)
        finally:
            self.in_flight -= selling
        if key is not None:
            self.answers[key].append((outcome, answer))
        self._maybe_cut(selling)
        if selling and self.power_after_answer and outcome.startswith("201"):
            self.power_after_answer = False
            raise PowerCut
        if key in self.doubled_keys and outcome in NOTHING_WRITTEN:
            outcome = "broken"  # of this try nothing was written; of its double nobody knows
        return outcome, answer, retry_after

    def _maybe_cut(self, selling: bool) -> None:
        if selling and self.draw.random() < self.power:
            self.cuts += 1
            raise PowerCut

    def _double(self, path: str, body: dict[str, Any] | None, key: str | None) -> None:
        """The same request once more at the same time, to any worker: a client library that repeats by itself."""
        other = urllib.parse.urlsplit(self.draw.choice(self.bases))

        def send() -> None:
            twin = object.__new__(Terminal)
            twin.url, twin.key, twin.answer_timeout = other, self.key, self.answer_timeout
            outcome, answer, _ = twin.exchange("POST", path, body, key)
            self.answers[key or ""].append((outcome, answer))

        self.doubles += 1
        self.doubled_keys.add(key or "")
        self.echoes.append(threading.Thread(target=send))
        self.echoes[-1].start()

    def sell(self, amount: int, **changed: Any) -> Receipt | None:
        """One payment; after a power cut what the journal has open is closed, as after any start. None while that is not acknowledged."""
        try:
            return self.pay({"type": "purchase", "amount": amount, "currency": "CNY", "card": self.card, **changed})
        except PowerCut:
            self.power_on()
            return None

    def follow_up(self, sold: Receipt | None, verb: str, **body: Any) -> Receipt | None:
        """A follow-up of what was sold, if it was."""
        if sold is None or not sold.sold or sold.id is None:
            return None
        try:
            return self.follow(verb, sold.id, body)
        except PowerCut:
            self.power_on()
            return None

    def power_on(self) -> None:
        """A new start on the same journal. The power stays on meanwhile."""
        self.journal.file.close()
        for last in (False,) * 20 + (True,):
            try:
                self.journal = Journal(self.path)
                break
            except BlockingIOError:  # a child of another thread, not yet exec'ed, holds a copy of the closed file for a moment
                if last:
                    raise
                time.sleep(0.05)
        kept, self.power = self.power, 0.0
        try:
            self.resume()
        finally:
            self.power = kept

    def closed(self) -> bool:
        """Tries once more to close what is open; whether nothing is."""
        for echo in self.echoes:
            echo.join(ANSWER_S + 5)
        self.echoes.clear()
        self.power = self.doubled = 0.0
        self.resume()
        return not self.unfinished

    def end(self) -> None:
        self.journal.file.close()


def together(jobs: list[Callable[[], object]]) -> None:
    """Each in a thread of its own; raises the first error of any."""
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
