"""One HTTP request to a running switch, as the command line makes it."""

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def call(base: str, method: str, path: str, key: str, body: dict[str, Any] | Path | None = None, **headers: str) -> tuple[int, Any]:
    """One HTTP request to a switch, from the command line; a path is the file that is sent. Raises OSError, ValueError, HTTPException."""
    address = urlsplit(base)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("not an http:// or https:// URL")
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection  # the key never goes in clear unasked
    connection = kind(address.hostname, address.port, timeout=1800 if isinstance(body, Path) else 60)
    sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    try:
        if isinstance(body, Path):
            with body.open("rb") as file:
                media_type = "image/png" if body.suffix == ".png" else "application/octet-stream"
                sent |= {"Content-Type": media_type, "Content-Length": str(body.stat().st_size)}
                connection.request(method, path, file, sent)
        else:
            connection.request(method, path, json.dumps(body) if body is not None else None, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()
