"""How much of a cut-over is done at once: as fast as it can, or beside payments."""

from typing import NamedTuple


class Tempo(NamedTuple):
    """Sizes of one piece of work. A commit ends with a merchant, so it may hold a little more."""

    keys: int  # gathered at once
    lines: int  # priced and copied at once
    lines_per_commit: int
    merchants_per_commit: int  # each one's lock is held until then, and the server has room for a bounded number
    settlements: int  # posted, and stated, in one commit
    pause_s: float  # after each of these


BRISK = Tempo(20_000, 2_000, 20_000, 1_000, 500, 0.0)
GENTLE = Tempo(1_000, 200, 2_000, 100, 50, 0.03)  # a few milliseconds of work, then the others' turn
