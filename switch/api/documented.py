"""The OpenAPI file of routes that read their own bodies: what a route takes is named beside it, and its schema is added at the end."""

import json
import re
import threading
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REFERENCE = "#/components/schemas/{model}"


def documented(model: type[BaseModel], example: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a route whose JSON body is `model`. Bodies are not FastAPI's: it takes lax JSON and echoes what was sent."""
    content: dict[str, Any] = {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}
    if example is not None:
        content["example"] = dict(example)
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def complete(app: FastAPI, models: Iterable[type[BaseModel]]) -> None:
    """Adds the schemas of `models` and the bearer key to what `app.openapi()` generates; to be called once, after the last route.

    `app.openapi()` then raises LookupError when a route names a schema that nobody gave.
    """
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            definitions = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)[1].get("$defs", {})
            schema = generated()
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions)
            components.setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer", "description": "An API key"}
            schema.setdefault("security", [{"key": []}])
            missing = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema))) - set(components["schemas"])
            if missing:
                app.openapi_schema = None
                raise LookupError(f"give these models to documented.complete: {', '.join(sorted(missing))}")
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


class Description:
    """What this release offers, as the OpenAPI file and as a page. It is the same for every application of a process, and takes a second: made once,
    when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[bytes, bytes] | None = None

    def of(self, app: FastAPI) -> tuple[bytes, bytes]:
        """(the file, the page); to be called beside the loop."""
        with self._lock:
            if self._made is None:
                schema = app.openapi()
                self._made = json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode(), page(schema).encode()
                app.openapi_schema = None  # the bytes are a tenth of it
            return self._made


def page(schema: dict[str, Any]) -> str:
    """The OpenAPI file as one plain page: no script, nothing from elsewhere."""
    rows = []
    for path, methods in sorted(schema["paths"].items()):
        for method, operation in methods.items():
            parameters = ", ".join(f"{escape(p['name'])}{'*' if p.get('required') else ''}" for p in operation.get("parameters", []))
            rows.append(f"<tr><td>{escape(', '.join(operation.get('tags', [])))}</td><td><b>{method.upper()}</b> {escape(path)}</td>"
                        f"<td>{escape(operation.get('summary', ''))}</td><td>{parameters}</td>"
                        f"<td>{escape(' '.join(sorted(operation.get('responses', {}))))}</td></tr>")
    return ("<!doctype html><meta charset=utf-8><title>Payment switch API</title><style>body{font:14px sans-serif;margin:2em}td,th{"
            "text-align:left;padding:.3em .8em;border-bottom:1px solid #ddd;vertical-align:top}</style><h1>Payment switch API</h1>"
            "<p>The whole contract: <a href=/openapi.json>/openapi.json</a>; every error code: <a href=/problems>/problems</a>.</p>"
            "<table><tr><th>for<th>address<th>what<th>parameters<th>answers</tr>" + "".join(rows) + "</table>")
