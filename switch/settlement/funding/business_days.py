"""The calendars of the database, as values."""

from datetime import date, timedelta

from switch.database import Connection
from switch.settlement.funding.calendar import SEARCH_DAYS, Calendar

CALENDAR = "SELECT weekend FROM calendar WHERE calendar = $1"
EXCEPTIONS = "SELECT day, kind FROM business_calendar WHERE calendar = $1 AND kind <> 'plain' AND day BETWEEN $2 AND $3"
KNOWN_DAYS = timedelta(days=2 * SEARCH_DAYS)


async def calendar_of(connection: Connection, name: str, around: date) -> Calendar:
    """A calendar as it is around a day. Raises LookupError: there is none of that name."""
    weekend = await connection.fetchval(CALENDAR, name)
    if weekend is None:
        raise LookupError(f"there is no calendar {name}")
    rows = await connection.fetch(EXCEPTIONS, name, around - KNOWN_DAYS, around + KNOWN_DAYS)
    return Calendar(name, frozenset(weekend), {row[0]: row[1] == "workday" for row in rows})


class Days:
    """The calendars that one run meets, each read once."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self._found = connection, dict[str, Calendar]()

    async def calendar(self, name: str, around: date) -> Calendar:
        """Raises LookupError."""
        if name not in self._found:
            self._found[name] = await calendar_of(self.connection, name, around)
        return self._found[name]
