"""The schema for editors is up to date, and another library finds right and wrong what reading a recipe does."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from ingot.release.schema import schema, schema_bytes
from tests.release.recipes import SMALL, WHOLE

FILE = Path(__file__).parents[2] / "docs" / "recipe.schema.json"


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_the_file_in_docs_is_up_to_date() -> None:
    assert FILE.read_bytes() == schema_bytes(), "run `ingot init --schema > docs/recipe.schema.json`"


@pytest.mark.parametrize("text", [SMALL, WHOLE])
def test_a_good_recipe_is_good_by_the_schema(text: str) -> None:
    validator().validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("ingot: 1", "ingot: 2"), "$.ingot"),
        (("name:", "nmae:"), "$"),
        (("    pre:", "    imatirx: x\n    pre:"), "$.formats[1]"),
        (('version: "1.4"', "version: 1.10"), "$.version"),
        (("method: della", "method: dela"), "$.merge.method"),
        (("density: 0.4", "density:"), "$.merge.density"),
        (("max_kl: 0.07", "max_kl: -1"), "$.validate.gates.max_kl"),
        (("chat: true", "chat: 1"), "$.validate.chat"),
        (("name: support-assistant", "name: ../evil"), "$.name"),
    ],
)
def test_what_a_recipe_may_not_say_is_wrong_by_the_schema_too(change: tuple[str, str], path: str) -> None:
    assert change[0] in WHOLE
    errors = list(validator().iter_errors(yaml.safe_load(WHOLE.replace(*change, 1))))
    assert [error.json_path for error in errors] == [path]


def test_every_key_has_a_description() -> None:
    for of in schema()["$defs"].values():
        for name, key in of.get("properties", {}).items():
            assert key.get("description"), (of["title"], name)
