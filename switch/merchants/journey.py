"""What looks after a merchant from choosing to leaving, joined: app.py makes one."""

from switch.database import Pool
from switch.merchants.choosing.offers import Offers
from switch.merchants.leaving.departures import Departures
from switch.merchants.licences.renewals import Licences
from switch.merchants.moving.moves import Moves
from switch.merchants.support.announcements import Announcements
from switch.merchants.support.articles import Articles
from switch.merchants.support.feedback import Feedback
from switch.security.vault import Vault
from switch.settlement.jobs.table import Kind


class Journey:
    def __init__(self, writers: Pool, readers: Pool, vault: Vault) -> None:
        self.licences = Licences(writers, readers, vault)
        self.moves, self.offers, self.departures = Moves(writers, readers), Offers(writers, readers), Departures(writers, readers)
        self.articles, self.announcements, self.feedback = Articles(writers, readers), Announcements(writers, readers), Feedback(writers, readers)

    def kinds(self) -> tuple[Kind, ...]:
        """Background jobs of it."""
        return (Kind("measured", "sums up what acquirers did on a day", self.offers.do, "17 * * * *", self.offers.due),
                Kind("licence", "reminds of licences that end, limits and suspends after", self.licences.do, "27 * * * *",
                     self.licences.due, limit_s=60))
