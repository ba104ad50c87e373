"""PINs on their way: a terminal's block, under its key or DUKPT, becomes one under the acquirer's key. Only the module sees the clear one."""

from uuid import UUID

from messages.dialect import Dialect
from switch.errors import Problem
from switch.payments.translation import Order
from switch.security import dukpt
from switch.security.ciphers import CryptoError
from switch.security.hsm import Handle, Hsm
from switch.security.keystore import KeyStore
from switch.security.pan import Pan

TARGETS = {(16, False): "iso0", (32, False): "iso4", (32, True): "sm4"}  # by the length of DE52 in hex characters, and whether the key is of SM4
WHAT_IS_WRONG = {
    "pin_pair": ("card.pin.format", "a format of the key that may become the acquirer's"),
    "pin_block": ("card.pin.block", "a PIN block of this card, format and key"),
    "ksn": ("card.pin.ksn", "a serial number of the key set, with a counter"),
}


class Pins:
    """`hsm` None: blocks pass as they are."""

    def __init__(self, store: KeyStore, hsm: Hsm | None) -> None:
        self.store, self.hsm = store, hsm

    def for_acquirer(self, acquirer_id: UUID) -> Handle | None:
        """The key of its PIN blocks, if it has one."""
        return self.store.find(acquirer_id, "pin") if self.hsm is not None else None

    def translated(self, order: Order, merchant_id: UUID, terminal_id: UUID, acquirer_id: UUID, dialect: Dialect) -> Order:
        """The order with its block for this acquirer; unchanged when the acquirer has no key. Raises Problem invalid, which tells nothing."""
        to = self.for_acquirer(acquirer_id)
        if order.pin_block is None or to is None or self.hsm is None or not isinstance(order.pan, Pan):
            return order
        under, serial = None, None
        try:
            if order.pin_serial is not None:
                serial = dukpt.ksn(order.pin_serial)
                under = self.store.find(merchant_id, "bdk", dukpt.key_set(serial))
            elif order.pin_key is not None:
                under = self.store.find(terminal_id, "pin", order.pin_key)
            if under is None:
                raise _invalid("card.pin", "under a key of this terminal that the switch has")
            target = TARGETS.get((dialect.fields["52"].length, to.algorithm == "sm4"))
            if target is None:
                raise CryptoError("pin_pair")
            block = self.hsm.translated(order.pin_block, order.pin_format, order.pan, under, serial, to, target)
        except CryptoError as error:
            fault = WHAT_IS_WRONG.get(error.code)
            raise _invalid(*fault) if fault is not None else Problem("internal") from None
        return order._replace(pin_block=block, pin_format=target)


def _invalid(field: str, rule: str) -> Problem:
    return Problem("invalid", errors=[{"field": field, "rule": rule, "type": "pin"}])
