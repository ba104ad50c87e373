"""A device's life. Pure: all that changes its state is in LIFE; the database holds the same steps (migrations r0017, STEPS).

A device is the thing with a serial number; a terminal is the till in a store that acquirers know by its numbers. From `install` on a device is
bound to one till, and the till sells only while the device may.
"""

from switch.life import Life, Refusal

INVENTORY, ORDERED, SHIPPED, INSTALLED, ACTIVATED = "inventory", "ordered", "shipped", "installed", "activated"
LIVE, MAINTENANCE, RETURNED, RETIRED = "live", "maintenance", "returned", "retired"

BOUND = frozenset({INSTALLED, ACTIVATED, LIVE, MAINTENANCE})  # to a till
ASSIGNED = BOUND | {ORDERED, SHIPPED}  # to a merchant and store
ON_ITS_WAY = frozenset({INVENTORY, ORDERED, SHIPPED})

# (state, event) -> state
LIFE = Life("A device", "device_move", {
    (INVENTORY, "order"): ORDERED, (ORDERED, "cancel"): INVENTORY,
    (ORDERED, "ship"): SHIPPED,
    (SHIPPED, "install"): INSTALLED,
    (INSTALLED, "activate"): ACTIVATED,
    (ACTIVATED, "activate"): ACTIVATED, (MAINTENANCE, "activate"): ACTIVATED,  # its key was lost: a new one
    (ACTIVATED, "begin_test"): ACTIVATED, (ACTIVATED, "end_test"): ACTIVATED,  # between them its till sells (acceptance.py)
    (ACTIVATED, "go_live"): LIVE,
    (LIVE, "maintain"): MAINTENANCE, (MAINTENANCE, "maintain"): MAINTENANCE, (MAINTENANCE, "restore"): LIVE,
    **{(state, "tamper"): MAINTENANCE for state in sorted(BOUND)},
    **{(state, "swap_in"): INSTALLED for state in sorted(ON_ITS_WAY)},
    **{(state, "swap_out"): RETURNED for state in sorted(BOUND)},
    **{(state, "return"): RETURNED for state in sorted(BOUND | {SHIPPED})},
    (RETURNED, "restock"): INVENTORY, (RETURNED, "repair"): INVENTORY,  # a repair ends what a tamper signal began
    **{(state, "retire"): RETIRED for state in sorted(BOUND | {INVENTORY, SHIPPED, RETURNED})},
})
BY_PEOPLE = LIFE.events - {"activate", "swap_in", "swap_out", "begin_test", "end_test"}  # of one device alone; the others have doors of their own
AFTER_TAMPER = frozenset({"tamper", "swap_out", "return", "retire", "repair"})  # nothing else moves what was opened
FREES = frozenset({"swap_out", "return", "retire"})  # the till: its keys end
IN_HAND = frozenset({"repair", "restock", "retire"})  # a person has the device and erases it


def refusal(state: str, event: str, tampered: bool) -> Refusal | None:
    """Why `event` may not come in `state`, or None."""
    refused = LIFE.refusal(state, event)
    if refused is None and tampered and event not in AFTER_TAMPER:
        return Refusal("device_tampered", f"It was opened: it cannot {event} before it came back and was repaired.")
    return refused


def sells(state: str, in_maintenance: bool, tampered: bool) -> bool:
    """Whether the till of a device may sell; the database computes the same."""
    return not tampered and (state == LIVE or (state == MAINTENANCE and in_maintenance))
