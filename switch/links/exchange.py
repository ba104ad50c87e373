"""One message of ours and what became of it, as a line remembers it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class Exchange:
    """One request: waiting while `end` is None, queued while `sent_at` is None too."""

    key: str
    request: Mapping[str, str] = field(repr=False)
    token: object
    send_not_after: float
    deadline: float
    payload: bytes = field(default=b"", repr=False)
    sent_at: datetime | None = None
    end: str | None = None


class NetworkRequest(NamedTuple):
    """Our own 0800 that waits for its 0810."""

    message: dict[str, str]
    sent: float
    deadline: float
