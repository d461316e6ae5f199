"""``python -m bench schema``: publish the record's schema, ``bench/schema.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.records import store

SCHEMA = Path(__file__).parent / "schema.json"


def schema() -> dict[str, Any]:
    """The record as a JSON Schema (draft 2020-12), for readers in other languages."""
    properties: dict[str, Any] = {}
    for name, field in store.FIELDS.items():
        spec: dict[str, Any] = {"description": field.meaning}
        spec["type"] = [field.type, "null"] if field.null else field.type
        if field.choices:
            spec["enum"] = [*field.choices, None] if field.null else list(field.choices)
        properties[name] = spec
    properties["provider"]["pattern"] = "^[^/]+$"
    properties["median_ms"]["exclusiveMinimum"] = 0
    properties["versus"]["required"] = list(store.VERSUS)
    number = {"type": ["number", "null"]}
    properties["errors"]["additionalProperties"] = {
        "type": "object",
        "required": list(store.ERROR_FIELDS),
        "properties": dict.fromkeys(store.ERROR_FIELDS, number),
    }
    for name, item in (("samples_ms", "number"), ("blocks", "integer")):
        properties[name]["items"] = {"type": item}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of rnnbench",
        "type": "object",
        "required": list(store.FIELDS),
        "additionalProperties": False,
        "properties": properties,
    }


def command(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = SCHEMA,
) -> None:
    """Write the JSON Schema of a record, made from the fields that are checked."""
    path.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
    print(path)
