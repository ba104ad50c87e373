"""The failpoint sweep: a clean run tells which places are passed how often; then one run per place and occurrence, killed there.

`python -m tests.faults.sweep --all` takes every occurrence; without it each name once. A new failpoint is swept without a new test.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from switch import database
from switch.failpoints import NAMES
from switch.notices.endpoints import Endpoints
from switch.notices.post import Post, Resolver
from switch.notices.subscribed import Subscribed
from switch.security.vault import Keyring, Vault
from tests.faults import books
from tests.faults.stage import ACQUIRERS, Keys, Server, Stub, Timers, free_port, furnish, new_database, postgres, sql, until
from tests.faults.tills import Till, together
from tests.processes import CARD

TIMERS = Timers(answer_ms=1000, grace_ms=200)
SILENT, CANCELLED = 2600, 3300  # amounts whose message the host never answers; whose till loses power with the answer in hand
REST_S, SWEPT_S = 40.0, 1.3  # until every reversal is answered; longer than recovery's own pause
AT_ONCE = 4
KILLED = -signal.SIGKILL
NOWHERE, TOLD_S = "http://127.0.0.1:9/", 20.0
LEFT = "left-by-a-dead-worker-1"

SET_PORT = "UPDATE acquirer_line SET port = $2 WHERE acquirer_id = (SELECT acquirer_id FROM acquirer WHERE name = $1)"
# Every sale that was decided or undone makes its event, whoever died meanwhile.
UNTOLD = """SELECT t.transaction_id FROM transaction t WHERE (t.outcome IS NOT NULL OR t.state = 'REVERSED')
AND NOT EXISTS (SELECT FROM webhook_event e WHERE e.merchant_id = t.merchant_id AND e.object = 'txn_' || t.transaction_id)"""
LEASES_OVER = "UPDATE worker SET lease_until = now() - interval '1 minute'"


class Case(NamedTuple):
    name: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.name}:{self.occurrence}"


class Result(NamedTuple):
    case: Case
    reached: bool
    differences: list[str]
    seconds: float


class Template(NamedTuple):
    """A furnished database in which a dead worker left a sale without an outcome, so that every run begins with a recovery."""

    cluster_url: str
    url: str
    folder: Path  # with keys.json, and the journal of the till whose sale it was
    keys: Keys


def prepare(cluster_url: str, folder: Path) -> Template:
    folder.mkdir()
    url = new_database(cluster_url)
    stubs = {name: Stub(folder, name, free_port()) for name in ACQUIRERS}
    server, tills = None, list[Till]()
    try:
        keys = furnish(url, TIMERS, {name: stub.port for name, stub in stubs.items()}, terminals=3)
        server = Server(folder, "first", url, failpoint="t1.after_commit:1:kill")
        server.wait_ready()
        tills += tills_of(Template(cluster_url, url, folder, keys), folder, server.base)
        tills[0].journal.write({"key": LEFT, "amount": 1200, "currency": "CNY"})
        tills[0].exchange("POST", "/v1/authorizations", {"type": "purchase", "amount": 1200, "currency": "CNY", "card": CARD}, LEFT)
        until(lambda: not server.process.running, 10)
    finally:
        for each in (*tills, *stubs.values(), *([server] if server else [])):
            each.end()
    assert [row["state"] for row in sql(url, "SELECT state FROM transaction")] == ["SENT"], "no sale was left behind"
    sql(url, LEASES_OVER)
    template = Template(cluster_url, url, folder, keys)
    subscribe(template)
    return template


def subscribe(template: Template) -> None:
    """An endpoint of each merchant at which nobody listens: every event is attempted, and none is ever delivered."""
    async def run() -> None:
        pool = await database.pool(template.url, "switch_writer", 1)
        try:
            post = Post(Resolver(), anywhere=True)
            endpoints = Endpoints(pool, Vault(Keyring.create(template.folder / "keys.json")), post, Subscribed(pool))
            for row in await pool.fetch("SELECT merchant_id FROM merchant"):
                await endpoints.create(row["merchant_id"], NOWHERE, ["*"], "")
        finally:
            await pool.close()

    asyncio.run(run())


def tills_of(template: Template, folder: Path, base: str) -> list[Till]:
    """Three at the single-message acquirer, two at the other. The journal of the first is the template's, if there is one."""
    found = template.folder / "till-0.journal"
    if found.exists() and folder != template.folder:
        shutil.copy(found, folder / "till-0.journal")
    keys = template.keys.terminals["single"][:3] + template.keys.terminals["dual"][:2]
    return [Till([base], key, folder / f"till-{number}.journal", CARD, random.Random(number), haste=0.5) for number, key in enumerate(keys)]


def scenario(tills: list[Till], stubs: dict[str, Stub]) -> None:
    """Every kind of end that a sale can have, and each retried as the guide says."""
    for name, mti in (("single", "0200"), ("dual", "0100")):
        stubs[name].order("silence", match={"0": mti, "4": f"{SILENT:012d}"}, count=None)

    def cancelled(till: Till) -> None:
        till.power_after_answer = True
        till.sell(CANCELLED)

    together([
        lambda: (tills[0].resume(), tills[0].sell(5100), tills[0].sell(5151)),  # what the dead worker left; approved; declined
        lambda: (tills[1].sell(SILENT), tills[1].follow_up(tills[1].sell(6100), "refunds", amount=1100)),
        lambda: cancelled(tills[2]),
        lambda: (tills[3].sell(4400), tills[3].sell(4455), tills[3].follow_up(tills[3].sell(7000, type="preauthorization"), "captures", amount=3000)),
        lambda: (tills[4].sell(SILENT), tills[4].follow_up(tills[4].sell(8100), "voids")),
    ])
    for till in tills:
        assert until(till.closed, 60), f"a till cannot close {till.unfinished}"


def run(template: Template, folder: Path, case: Case | None, patient: bool = True) -> tuple[Result, list[Case]]:
    """One run, killed at `case`, or a clean one that records. Also returns what a clean run passed, each name and occurrence.

    Not `patient`: the lease of who was killed is over at once, which saves its ten seconds.
    """
    begun, record = time.monotonic(), folder / "passed"
    folder.mkdir()
    shutil.copy(template.folder / "keys.json", folder / "keys.json")
    url = new_database(template.cluster_url, template.url)
    stubs = {name: Stub(folder, name, free_port()) for name in ACQUIRERS}
    for name, stub in stubs.items():
        sql(url, SET_PORT, name, stub.port)
    server = Server(folder, "swept", url, failpoint=f"{case}:kill" if case else f"record:{record}", SWITCH_WEBHOOK_TARGETS="any")
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.05):
            if not server.process.running and not patient:
                sql(url, LEASES_OVER)
            server.revive()

    keeper = threading.Thread(target=keep)
    keeper.start()
    tills: list[Till] = []
    try:
        assert until(lambda: all(stub.up() for stub in stubs.values()), 20)
        server.wait_ready()
        tills += tills_of(template, folder, server.base)
        scenario(tills, stubs)
        found = [f"not at rest after {REST_S:g} s"] if not until(lambda: books.at_rest(url), REST_S) else []
        over.set()
        keeper.join()
        server.revive()  # it may have died in that very moment
        found += finish(server, url)
        found += books.compare(url, {name: stub.book for name, stub in stubs.items()}, tills).differences
    finally:
        over.set()
        keeper.join()
        for each in (server, *stubs.values(), *tills):
            each.end()
    passed = Counter(record.read_text().split()) if record.exists() else Counter()
    cases = [Case(name, occurrence) for name in NAMES for occurrence in range(1, passed[name] + 1)]
    return Result(case or Case("clean", 0), server.lives[0].popen.returncode == KILLED, found, time.monotonic() - begun), cases


def finish(server: Server, url: str) -> list[str]:
    """The drain, where the armed life may yet die, and another start, unless there has been one; then recoveries that find nothing to do."""
    server.wait_ready()
    before, found = books.snapshot(url), list[str]()
    if not until(lambda: not sql(url, UNTOLD), TOLD_S):
        found.append(f"{len(sql(url, UNTOLD))} transactions were not told")
    if len(server.lives) == 1:
        code = server.process.stop(seconds=60)
        found += [] if code in (0, KILLED) else [f"the drain ended with {code}"]
        server.revive()
        server.wait_ready()
    time.sleep(SWEPT_S)
    found += books.moved(before, books.snapshot(url))
    if server.stop() != 0:
        found.append("the last drain did not end with 0")
    if "Traceback" in server.said:
        found.append("a traceback on stderr")
    return found


def bounded(cases: Iterable[Case]) -> list[Case]:
    """Each name once, half way through its occurrences: the first ones of a process are those of its start, and not every run has the last."""
    return [Case(name, max(1, count // 2)) for name, count in Counter(case.name for case in cases).items()]


def sweep(cluster_url: str, folder: Path, everything: bool, say: Callable[[str], object] = print,
          only: Sequence[str] = NAMES) -> tuple[list[Result], set[str]]:
    """All results, and the names that the clean run passed."""
    folder.mkdir(exist_ok=True)
    template = prepare(cluster_url, folder / "template")
    clean, cases = run(template, folder / "clean", None)
    chosen = [case for case in (cases if everything else bounded(cases)) if case.name in only]
    say(f"clean run {clean.seconds:.1f} s, {len(cases)} places passed, {len(chosen)} to be killed at")

    def one(case: Case) -> Result:
        try:
            result = run(template, folder / f"case-{case.name}-{case.occurrence}", case, patient=everything)[0]
        except AssertionError as error:
            result = Result(case, True, [str(error)], 0.0)
        if result.reached and not result.differences:
            shutil.rmtree(folder / f"case-{case.name}-{case.occurrence}", ignore_errors=True)
        if not everything and not result.reached and not result.differences and case.occurrence > 1:  # this run passed it less often than the clean one
            return one(Case(case.name, 1))
        say(f"{case}: {'killed' if result.reached else 'not reached'}, {len(result.differences)} differences, {result.seconds:.1f} s")
        for difference in result.differences:
            say(f"  {difference}")
        return result

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [clean, *pool.map(one, chosen)], {case.name for case in cases}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults.sweep", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every occurrence of every name, not each name once")
    parser.add_argument("--only", action="append", metavar="NAME", choices=NAMES, help="this failpoint alone; may be repeated")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # and so everything is ended
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    keeper, url = postgres(folder)
    try:
        results, names = sweep(url, folder, options.all, lambda line: print(line, flush=True), options.only or NAMES)
    finally:
        keeper.stop(seconds=60)
    different = {str(result.case): result.differences for result in results if result.differences}
    unreached = [str(result.case) for result in results[1:] if not result.reached]
    print(json.dumps({"cases": len(results) - 1, "killed": sum(result.reached for result in results[1:]), "not_reached": unreached,
                      "names_never_passed": sorted(set(NAMES) - names), "different": different,
                      "differences": sum(map(len, different.values()))}))
    if different:
        print(f"what they left stands in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if different or set(NAMES) - names else 0


if __name__ == "__main__":
    sys.exit(main())
