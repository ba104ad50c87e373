"""What looks after a merchant from choosing to leaving, joined: app.py makes one."""

from switch.database import Pool
from switch.merchants.moving.moves import Moves


class Journey:
    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.moves = Moves(writers, readers)
