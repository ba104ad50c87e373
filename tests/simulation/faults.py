"""What may go wrong. Swarm: each seed draws which kinds it has and how often, so that rare kinds meet each other undisturbed."""

import random
from collections import Counter

# kind: the highest rate that a seed may draw, per occasion (a frame, a statement, a call) or per second for what the world does by itself
HIGHEST = {
    "line_loss": 0.15, "line_delay": 0.2, "line_duplicate": 0.2, "line_reorder": 0.3, "line_corrupt": 0.1, "line_garbage": 0.01,
    "handover_cut": 0.02, "handover_refused": 0.4,
    "line_cut": 0.03, "line_half_open": 0.01, "line_refused": 0.5,
    "host_decline": 0.25, "host_doubt": 0.15, "host_partial": 0.15, "host_late": 0.2, "host_queue": 0.15, "host_contradicts": 0.1, "host_down": 0.02,
    "host_stray": 0.15, "reversal_refused": 0.4, "reversal_forgotten": 0.2, "advice_refused": 0.2,
    "commit_lost_applied": 0.06, "commit_lost_not_applied": 0.06, "commit_lost_applied_later": 0.04, "statement_slow": 0.1,
    "database_outage": 0.015, "database_cut_off": 0.03, "cut_off_at_answer": 0.2,
    "crash": 0.02, "crash_at_answer": 0.004, "pause": 0.03, "pause_at_answer": 0.006, "clock_jump": 0.03, "restart": 0.01,
    "request_lost": 0.06, "answer_lost": 0.08, "connection_broken": 0.06, "power_loss": 0.04, "asked_twice": 0.1, "cancels_at_once": 0.03, "changed_mind": 0.06,
    "two_steps_at_once": 0.4, "taken_back": 0.15,
}
KINDS = tuple(HIGHEST)


class Faults:
    """Draws for one seed. After `heal` nothing goes wrong any more."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.draw = chance.random
        calm = chance.random() < 0.03  # some seeds see nothing but the ordinary
        self.rates = {kind: 0.0 if calm or chance.random() < 0.55 else highest * chance.random() for kind, highest in HIGHEST.items()}
        self.seen: Counter[str] = Counter()
        self.healed = False

    def hit(self, kind: str, share: float = 1.0) -> bool:
        """Whether this kind happens now; `share` scales the rate, e.g. by the seconds since the last draw."""
        rate = self.rates[kind]
        if not rate or self.draw() >= rate * share:
            return False
        self.seen[kind] += 1
        return True

    def heal(self) -> None:
        self.healed, self.rates = True, dict.fromkeys(self.rates, 0.0)
