"""A recipe that was read is what the command line's options would have been, with paths against the file."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ingot.errors import UnsafeInputError, UsageError
from ingot.plan.model import GgufOptions, Options
from ingot.release.form import MergeForm
from ingot.release.publicly import public_run
from ingot.release.recipe import public_tree, read_recipe
from ingot.release.schema import schema
from ingot.validate.gates import Limits
from ingot.validate.spec import parse_spec
from tests.release.recipes import SMALL, WHOLE, read, written


def test_every_key_becomes_the_option_of_the_same_name(tmp_path: Path) -> None:
    recipe = read(tmp_path, WHOLE)
    expected = {
        "dtype": "BF16", "rounding": "stochastic", "assume_peft_version": "0.18", "accept_nonfinite_base": True,
        "accept_missing": True, "seed": 7, "method": "della", "density": 0.4, "lambda_": 1.5,
        "majority_sign": "frequency", "gamma": None, "epsilon": 0.1, "take": (1,), "component": "unet",
        "expert_layout": "unsloth", "base_as": "nf4",
    }  # fmt: skip
    assert recipe.options_for(recipe.formats[0]) == Options(**expected)  # type: ignore[arg-type]
    gguf = GgufOptions(("Q4_K_M",), "llama-bpe", 4 * 10**9)
    assert recipe.options_for(recipe.formats[1]) == Options(**expected, gguf=gguf)  # type: ignore[arg-type]


def test_without_any_key_options_are_the_command_lines_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    assert recipe.options_for(recipe.formats[0]) == Options()
    assert recipe.limits_for(recipe.formats[0]) == Limits()
    assert recipe.validate is None


def test_no_option_of_the_plan_is_out_of_a_recipes_reach() -> None:
    assert {field.name for field in fields(Options)} - {"gguf"} == set(MergeForm.__struct_fields__)


def test_a_formats_gates_override_the_general_ones_which_override_the_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, WHOLE)
    assert recipe.limits_for(recipe.formats[0]) == Limits(0.03, 0.07, 0.8, 0.7)
    assert recipe.limits_for(recipe.formats[1]) == Limits(0.03, 0.2, 0.8, 0.7)


def test_paths_are_relative_to_the_file_and_hub_ids_stay(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "here").mkdir()
    (tmp_path / "sub" / "here" / "lora").mkdir()
    text = WHOLE.replace("org/tone-lora@v2", "here/lora").replace("    pre:", "    imatrix: ../m.imatrix\n    pre:")
    recipe = read(tmp_path / "sub", text)
    assert recipe.base.model == "org/llama-3.1-8b@main"
    assert recipe.weighted == ((f"{tmp_path}/sub/support-lora", 0.5), (f"{tmp_path}/sub/here/lora", 1.0))
    assert recipe.formats[1].imatrix == f"{tmp_path}/m.imatrix"
    assert recipe.publish.registry == f"{tmp_path}/sub/registry"
    assert recipe.validate is not None
    at = f"{tmp_path}/sub"
    own = f"own={at}/own.jsonl:{at}/score.py:judge"
    assert recipe.validate.samples == (f"{at}/tests.jsonl", f"dates={at}/dates.jsonl:exact", own)
    assert recipe.validate.tasks_dir == f"{at}/tasks"


def test_the_samples_are_what_validate_reads(tmp_path: Path) -> None:
    from ingot.validate.answers.samples import read_samples

    line = json.dumps({"prompt": "a", "expected": "b"})
    for name in ("tests", "dates", "own"):
        (tmp_path / f"{name}.jsonl").write_text(line + "\n")
    recipe = read(tmp_path, WHOLE)
    assert recipe.validate is not None
    files = read_samples(recipe.validate.samples, recipe.validate.metric)
    told = [(file.name, file.metric) for file in files]
    assert told == [("tests", "contains"), ("dates", "exact"), ("own", f"{tmp_path}/score.py:judge")]


def test_the_reference_is_base_and_adapters_with_their_weights(tmp_path: Path) -> None:
    (tmp_path / "support-lora").mkdir()
    recipe = read(tmp_path, WHOLE)
    spec = parse_spec(recipe.reference)
    assert (spec.base, spec.adapters) == (recipe.base.model, recipe.weighted)


def test_tags_and_targets_are_filled_in_for_each_artifact(tmp_path: Path) -> None:
    recipe = read(tmp_path, WHOLE)
    last = recipe.formats[1]
    assert recipe.artifact_name(last) == "support-assistant-v1.4-q4_k_m"
    assert [recipe.filled(tag, last) for tag in recipe.publish.tags] == ["candidate", "q4_k_m-latest"]
    assert recipe.filled(recipe.publish.push[0], recipe.formats[0]) == "hf://org/support-assistant-v1.4"


def test_the_digest_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    assert read_recipe(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_recipe_in_public_names_no_path_no_user_and_no_token(tmp_path: Path) -> None:
    home = tmp_path / "zoe"
    home.mkdir()
    token = "hf_" + "a" * 30
    text = (
        WHOLE.replace("./support-lora", str(home / "support-lora"))
        .replace("org/tone-lora@v2", "../elsewhere/tone-lora")
        .replace("wandb:team/project/runs/abc123", f"https://zoe:pw@wandb.ai/t/p/runs/x?key={token}")
        .replace("tests.jsonl,", f"{home}/tests.jsonl, t={home}/more.jsonl,")
        .replace("./registry", "~/registry")
        .replace("    pre:", f"    imatrix: {home}/m.imatrix\n    llama_cpp: {home}/llama.cpp\n    pre:")
        .replace("take: [support-lora]", f"take: [{home}/support-lora]")
        .replace('push: ["hf://org/{name}"', 'push: ["hf://org/{name}", "mlflow:http://10.0.0.7:5000/models/{name}"')
    )
    recipe = read(home, text)
    shown = json.dumps(public_tree(recipe)) + repr(recipe.release_of(recipe.formats[0]))
    for private in (str(tmp_path), "zoe", token, "pw@", "10.0.0.7", "~", "elsewhere"):
        assert private not in shown
    tree = public_tree(recipe)
    assert tree["base"] == {"model": "org/llama-3.1-8b", "revision": "main", "version": "3.1"}
    assert [one if isinstance(one, str) else one["adapter"] for one in tree["adapters"]] == [
        "support-lora",
        "tone-lora",
    ]
    assert tree["adapters"][0]["training_run"] == "https://wandb.ai/t/p/runs/x"
    assert tree["validate"]["samples"] == [
        "tests.jsonl",
        "t=more.jsonl",
        "dates=dates.jsonl:exact",
        "own=own.jsonl:score.py:judge",
    ]
    assert tree["formats"][1]["imatrix"] == "m.imatrix"
    assert tree["merge"]["take"] == [1]
    assert tree["publish"]["push"] == ["hf://org/{name}", "mlflow:{name}"]


def test_nothing_else_of_a_recipe_is_changed_in_public(tmp_path: Path) -> None:
    tree, recipe = public_tree(read(tmp_path, WHOLE)), read(tmp_path, WHOLE)
    same = ("ingot", "name", "version", "formats")
    assert {key: tree[key] for key in same} == {key: recipe.written[key] for key in same}
    assert {**tree["merge"], "take": None} == {**recipe.written["merge"], "take": None}
    assert public_tree(read(tmp_path)) == {**read(tmp_path).written, "adapters": ["support-lora"]}


def test_the_release_is_what_the_record_keeps(tmp_path: Path) -> None:
    recipe = read(tmp_path, WHOLE)
    release = recipe.release_of(recipe.formats[1])
    assert (release.name, release.version, release.format) == ("support-assistant", "1.4", "gguf:Q4_K_M")
    assert release.base_version == "3.1"
    assert [(one.version, one.training_run) for one in release.adapters] == [
        ("v3", "wandb:team/project/runs/abc123"), (None, None),
    ]  # fmt: skip
    assert (release.recipe, release.recipe_sha256) == (public_tree(recipe), recipe.sha256)


def test_a_name_that_says_nothing_is_warned_of(tmp_path: Path) -> None:
    assert not read(tmp_path, WHOLE).warnings
    (warning,) = read(tmp_path, SMALL + "name: final2\n").warnings
    assert "llama-3-8b-support-lora" in warning


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="is a directory"):
        read_recipe(tmp_path)
    written(tmp_path)
    (tmp_path / "link.yaml").symlink_to("/etc/passwd")
    with pytest.raises((UsageError, UnsafeInputError)):
        read_recipe(tmp_path / "link.yaml")


@pytest.mark.parametrize(
    ("run", "public"),
    [
        ("wandb:team/project/runs/abc", "wandb:team/project/runs/abc"),
        ("https://wandb.ai/t/p/runs/x", "https://wandb.ai/t/p/runs/x"),
        ("https://zoe:pw@host/r?key=1#2", "https://host/r"),
        ("/home/zoe/runs/7", "7"), ("file:/home/zoe/runs/7", "7"), ("file:///home/zoe/runs/7", "7"),
        ("~/runs/7", "7"), ("../runs/7", "7"), ("run at /home/zoe/7", "7"), ("C:\\zoe\\7", "7"),
        ("mlflow 5f3a", "mlflow 5f3a"), ("hf_" + "a" * 30, "hf_…"),
    ],
)  # fmt: skip
def test_a_training_run_is_named_without_paths_and_logins(run: str, public: str) -> None:
    assert public_run(run) == public


def test_the_documentations_example_is_a_recipe_and_its_table_has_every_key(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
    recipe = read(tmp_path, text.partition("```yaml\n")[2].partition("```")[0])
    assert [recipe.artifact_name(form) for form in recipe.formats] == [
        "support-assistant-v1.4", "support-assistant-v1.4-q4_k_m",
    ]  # fmt: skip
    table = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
    for of in schema()["$defs"].values():
        for key in of.get("properties", {}):
            assert re.search(rf"[`.]{key}(\[\])?`", table) or key in ("merge", "validate", "publish"), key
