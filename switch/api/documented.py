"""The OpenAPI file of routes that read their own bodies: what a route takes is named beside it, and its schema is added at the end."""

import json
import re
from collections.abc import Iterable, Mapping
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
