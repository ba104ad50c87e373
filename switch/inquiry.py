"""One HTTP request to a running switch, as the command line makes it."""

import http.client
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

JSON = "application/json"


class Answer(NamedTuple):
    status: int
    media_type: str
    raw: bytes


def exchange(base: str, method: str, path: str, key: str, body: bytes | Path | None = None, media_type: str = JSON, **headers: str) -> Answer:
    """A path is the file that is sent. Raises OSError, ValueError, HTTPException."""
    address = urlsplit(base)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("not an http:// or https:// URL")
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection  # the key never goes in clear unasked
    connection = kind(address.hostname, address.port, timeout=1800 if isinstance(body, Path) else 60)
    sent = {"Authorization": f"Bearer {key}", "Content-Type": media_type, **headers}
    try:
        if isinstance(body, Path):
            with body.open("rb") as file:
                connection.request(method, path, file, sent | {"Content-Length": str(body.stat().st_size)})
        else:
            connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Answer(answer.status, (answer.getheader("content-type") or "").partition(";")[0].strip(), answer.read())
    finally:
        connection.close()


def call(base: str, method: str, path: str, key: str, body: dict[str, Any] | Path | None = None, **headers: str) -> tuple[int, Any]:
    """One whose answer is JSON. Raises as `exchange` does."""
    if isinstance(body, Path):
        answer = exchange(base, method, path, key, body, "image/png" if body.suffix == ".png" else "application/octet-stream", **headers)
    else:
        answer = exchange(base, method, path, key, None if body is None else json.dumps(body).encode(), **headers)
    return answer.status, json.loads(answer.raw or b"null")
