"""Where people apply and sign: the parts of applications and contracts, joined."""

from collections.abc import Mapping
from typing import NamedTuple

from switch.database import Pool
from switch.merchants.applications.desk import Desk
from switch.merchants.applications.papers import Papers
from switch.merchants.applications.registration import Registrations
from switch.merchants.applications.reminders import Reminders
from switch.merchants.applications.review import APPROVE, Review
from switch.merchants.approvals import Execute, of_object
from switch.merchants.contracts import standard
from switch.merchants.contracts.cases import drafted
from switch.merchants.contracts.days import Days
from switch.merchants.contracts.reads import Reads
from switch.merchants.contracts.signing import Contracts
from switch.merchants.risk_rules import limited
from switch.security.vault import Vault
from switch.settlement.jobs.table import Kind


class Counter(NamedTuple):
    desk: Desk
    papers: Papers
    review: Review
    registrations: Registrations
    contracts: Contracts
    contract_reads: Reads


def counter(writers: Pool, readers: Pool, vault: Vault) -> Counter:
    review = Review(writers, vault, limited, drafted)
    return Counter(Desk(readers, vault), Papers(writers, readers, vault), review, Registrations(writers), Contracts(writers, vault),
                   Reads(readers, vault))


def agreements(review: Review, contracts: Contracts) -> Mapping[str, Execute]:
    """What two people agree on there."""
    return {APPROVE: of_object("application", review.approved), standard.OFFER: of_object("contract", contracts.offered)}


def kinds(owed: Pool) -> tuple[Kind, ...]:
    """Its background jobs."""
    days, reminders = Days(owed), Reminders(owed)
    return (
        Kind("contract", "begins a contract on its first day, and ends it after its last", days.do, "* * * * *", days.due, limit_s=60),
        Kind("reminder", "tells of documents that end and of reviews that are late", reminders.do, "*/5 * * * *", reminders.due, limit_s=60),
    )
