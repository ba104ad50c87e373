"""What merchants are told: `tell` writes an event in the caller's database transaction, and the sender delivers it."""

from switch.notices.events import tell

__all__ = ["tell"]
