"""Which software a device shall have. Pure: who is chosen by a stage, and what a pause, a roll-back or an open batch means for one device.

A device is in a percentage by a hash of roll-out and device, so who was chosen stays chosen when the percentage grows, and no list is kept.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from switch.life import Life

RUNNING, PAUSED, ROLLED_BACK = "running", "paused", "rolled_back"
# (state, event) -> state
LIFE = Life("A roll-out", "rollout_move", {
    (RUNNING, "advance"): RUNNING,
    (RUNNING, "pause"): PAUSED, (PAUSED, "resume"): RUNNING,
    (RUNNING, "roll_back"): ROLLED_BACK, (PAUSED, "roll_back"): ROLLED_BACK,
})


class Rollout(NamedTuple):
    """`stores` None: all. `back_to`: what those get that have `version` when it is rolled back."""

    rollout_id: UUID
    version: str
    back_to: str
    state: str
    percent: int
    stores: frozenset[UUID] | None


def bucket(rollout_id: UUID, device_id: UUID) -> int:
    """0 to 99, the same for ever."""
    return int.from_bytes(sha256(rollout_id.bytes + device_id.bytes).digest()[:8], "big") % 100


def chosen(rollout: Rollout, device_id: UUID, store_id: UUID) -> bool:
    return (rollout.stores is None or store_id in rollout.stores) and bucket(rollout.rollout_id, device_id) < rollout.percent


def target(rollouts: Iterable[Rollout], device_id: UUID, store_id: UUID, installed: str | None) -> str | None:
    """The version that the device shall have; None: what it has. `rollouts` of its model, the newest first. What was rolled back comes with no older
    one, or its devices would go to and fro."""
    taken_back: set[str] = set()
    for rollout in rollouts:
        if rollout.state == ROLLED_BACK:
            if installed == rollout.version:
                return rollout.back_to
            taken_back.add(rollout.version)
        elif rollout.version in taken_back:
            continue
        elif rollout.state == PAUSED:
            if installed == rollout.version:
                return installed
        elif chosen(rollout, device_id, store_id):
            return rollout.version
    return None


def when(wanted: str | None, installed: str | None, batch_open: bool) -> str:
    """none, now, after_batch: never in the middle of a batch."""
    if wanted is None or wanted == installed:
        return "none"
    return "after_batch" if batch_open else "now"
