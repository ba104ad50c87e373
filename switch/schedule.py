"""Every kind of background job that there is, with its hours (settlement/jobs)."""

from collections.abc import Awaitable, Callable

from switch import database
from switch.database import Connection, Pool
from switch.merchants import counter, former
from switch.merchants.bulk.imports import Imports
from switch.merchants.journey import Journey
from switch.settlement.cutover import steps
from switch.settlement.cutover.schedule import CutOvers
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.deadlines import Deadlines
from switch.settlement.exports.files import Exports, Housekeeping
from switch.settlement.jobs.queue import ROLE as QUEUE_ROLE
from switch.settlement.jobs.table import Kind
from switch.settlement.payouts import runs as payout_runs
from switch.settlement.payouts.schedule import PayDays
from switch.settlement.reconciliation.runs import Runs

Connects = Callable[[], Awaitable[Connection]]


def kinds(url: str, reader: Connects, writer: Connects, writers: Pool, owed: Pool, exports: Exports, cases: Cases, journey: Journey,
          imports: Imports) -> tuple[Kind, ...]:
    """`url`: of the database, for what acts as the queue's role."""
    cut_overs = CutOvers(reader, lambda acquirer_id, day: steps.run(writer, acquirer_id, day, gentle=True))
    pay_days = PayDays(lambda after: payout_runs.run(writers, "switch", after=after))
    deadlines, reconciled = Deadlines(owed, cases), Runs(owed, writer)
    housekeeping = Housekeeping(exports, lambda: database.connect(url, QUEUE_ROLE))
    keys, stays, health = (former.Former(forget) for forget in (former.KEYS, former.STAYS, former.HEALTH))
    return (
        Kind("export", "writes a file for a merchant", exports.do, limit_s=1800, attempts=3, at_once=2),
        Kind("cutover", "ends an acquirer's business day and settles it", cut_overs.do, "* * * * *", cut_overs.due, limit_s=7200),
        Kind("payouts", "asks for what is due to merchants", pay_days.do, "3 * * * *", pay_days.due, limit_s=3600),
        Kind("reconciliation", "holds clearing files against the books of a date", reconciled.do, "* * * * *", reconciled.due,
             attempts=10, at_once=2),
        Kind("dispute", "warns of a dispute's deadline, and keeps it", deadlines.do, "* * * * *", deadlines.due, limit_s=60),
        *counter.kinds(owed), *journey.kinds(),
        Kind("import", "brings in merchants and terminals from a file", imports.do, at_once=1),
        Kind("former_keys", "removes working keys that were replaced", keys.do, "17 * * * *", keys.due),
        Kind("former_stays", "removes where terminals were longer ago than risk rules ask", stays.do, "27 * * * *", stays.due),
        Kind("former_health", "removes what devices said of themselves as long ago", health.do, "37 * * * *", health.due),
        Kind("housekeeping", "removes what is kept for a time only", housekeeping.do, "7 * * * *", housekeeping.due),
    )
