"""The form as a JSON schema, for editors: `ingot init --schema`, docs/recipe.schema.json."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

from ingot.formats.strict_json import dumps_pretty
from ingot.release.form import RecipeForm


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of a recipe as plain values. A key without a value (null) is none, as in a recipe."""
    made = _without_null(msgspec.json.schema(RecipeForm))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ingot release recipe", **made}


def schema_bytes() -> bytes:
    """The schema as a file."""
    return dumps_pretty(schema())


def _without_null(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return [_without_null(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    if isinstance(kept.get("description"), str):  # a docstring's first paragraph; the others are for programmers
        kept["description"] = " ".join(cleandoc(kept["description"]).partition("\n\n")[0].split())
    choices = kept.get("anyOf")
    if choices is not None:
        left = [one for one in choices if one != {"type": "null"}]
        kept = {key: value for key, value in kept.items() if key != "anyOf"}
        kept = {**left[0], **kept} if len(left) == 1 else {**kept, "anyOf": left}
    if isinstance(kept.get("enum"), list):
        kept["enum"] = [value for value in kept["enum"] if value is not None]
    return kept
