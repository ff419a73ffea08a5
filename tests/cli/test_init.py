"""`ingot init` as a person types it: what it writes is a recipe of that very merge, and nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import ingot as package
from ingot.merge import prepare
from ingot.release.recipe import Recipe, read_recipe
from ingot.release.schema import schema
from tests.cli.toys import ingot, json_lines, make_adapter, make_base, run_here, snapshot

DEMO = Path(package.__file__).parent / "demo" / "data"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("init")
    make_base(root / "tiny llama")
    make_adapter(root / "support-v3")
    make_adapter(root / "runs" / "tone" / "checkpoint-1200", modules=["k_proj"])
    make_adapter(root / "misfit", modules=["o_proj"], rank=3)
    config = json.loads((root / "misfit" / "adapter_config.json").read_text())
    (root / "misfit" / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["nowhere"]}))
    (root / "runs" / "tone" / "checkpoint-1200" / "trainer_state.json").write_text('{"global_step": 1200}')
    (root / "runs" / "tone" / "wandb" / "run-20260131_120000-q1w2e3").mkdir(parents=True)
    (root / "support-v3" / "README.md").write_text(
        "---\nbase_model: x\n---\n\n[runs](https://wandb.ai/team/project/runs/abc123)\n"
    )
    (root / "empty").mkdir()
    (root / "there.yaml").write_text("mine")
    return root


def start(line: str, directory: Path, target: str) -> Recipe:
    assert run_here(f"init {line} -o {target}", directory) == 0
    return read_recipe(directory / target)


def test_the_recipe_is_read_back_as_the_merge_that_was_named(workshop: Path) -> None:
    recipe = start("'tiny llama' support-v3=0.5 runs/tone/checkpoint-1200", workshop, "both.yaml")
    assert recipe.base.model == str(workshop / "tiny llama")
    assert recipe.weighted == (
        (str(workshop / "support-v3"), 0.5), (str(workshop / "runs/tone/checkpoint-1200"), 1.0),
    )  # fmt: skip
    assert recipe.name == "tiny-llama-support-checkpoint-1200"
    assert [form.format for form in recipe.formats] == ["safetensors"]  # its tokenizer is none
    assert not recipe.warnings
    with prepare(recipe.base.model, recipe.weighted, recipe.options_for(recipe.formats[0])) as job:
        assert {op.dtype for op in job.plan.ops} == {"F16"}
        assert recipe.merge.dtype == "float16"


def test_versions_and_training_runs_are_guessed_from_what_lies_there(workshop: Path) -> None:
    support, tone = start("'tiny llama' support-v3 runs/tone/checkpoint-1200", workshop, "guessed.yaml").adapters
    assert (support.version, support.training_run) == ("v3", "wandb:team/project/runs/abc123")
    assert (tone.version, tone.training_run) == (None, "wandb:q1w2e3")
    assert "trained for 1,200 steps" in (workshop / "guessed.yaml").read_text()


def test_a_model_that_has_a_gguf_gets_one(tmp_path: Path) -> None:
    recipe = start(f"{DEMO}/ingot-demo-base {DEMO}/adapters/dates", tmp_path, "demo.yaml")
    assert [form.format for form in recipe.formats] == ["safetensors", "gguf:Q4_K_M"]
    assert [recipe.artifact_name(form) for form in recipe.formats] == [
        "ingot-demo-base-dates-v1.0", "ingot-demo-base-dates-v1.0-q4_k_m",
    ]  # fmt: skip


def test_what_stands_in_comments_is_a_recipe_too(tmp_path: Path) -> None:
    """Every commented key, taken into use, is one that recipes have."""
    start(f"{DEMO}/ingot-demo-base {DEMO}/adapters/dates", tmp_path, "demo.yaml")
    lines = (tmp_path / "demo.yaml").read_text().splitlines()
    used = [
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and n > 2 else line for n, line in enumerate(lines)
    ]
    used = [line.removeprefix("#") if line.startswith("#") and n > 2 else line for n, line in enumerate(used)]
    (tmp_path / "all.yaml").write_text("\n".join(used) + "\n")
    recipe = read_recipe(tmp_path / "all.yaml")
    assert recipe.publish.push == ("hf://org/{name}",)
    assert recipe.validate is not None
    assert recipe.validate.chat


def test_paths_are_relative_to_the_recipe_wherever_it_stands(workshop: Path) -> None:
    (workshop / "recipes").mkdir()
    recipe = start("'tiny llama' support-v3", workshop, "recipes/one.yaml")
    assert recipe.written["base"]["model"] == "../tiny llama"
    assert recipe.base.model == str(workshop / "tiny llama")


def test_a_mixed_base_keeps_its_dtypes_unless_a_person_decides(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    make_base(tmp_path / "base", shards=1)
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype("float32")
    save_file(tensors, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    make_adapter(tmp_path / "lora")
    assert start("base lora", tmp_path, "r.yaml").merge.dtype is None
    assert "# dtype: float16" in (tmp_path / "r.yaml").read_text()


@pytest.mark.parametrize("name", ["yes", "1e3", "a: b", "#x", "- x", "é", "x'\"y", "null", "{a}", "0x10"])
def test_whatever_a_folder_is_called_it_is_read_back(tmp_path: Path, name: str) -> None:
    from ingot.release.starter import start as start_recipe

    make_base(tmp_path / "base")
    make_adapter(tmp_path / name)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        text = start_recipe("base", [(f"./{name}", 1.0)], tmp_path).text
    finally:
        os.chdir(before)
    (tmp_path / "r.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.adapters[0].adapter == str(tmp_path / name)
    assert yaml.safe_load(text)["adapters"][0]["adapter"] == f"./{name}"


def test_on_standard_output_it_is_the_same_text(workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start("'tiny llama' support-v3", workshop, "same.yaml")
    capfd.readouterr()
    before = snapshot(workshop)
    assert run_here("init 'tiny llama' support-v3 -o -", workshop) == 0
    assert capfd.readouterr().out == (workshop / "same.yaml").read_text()
    assert snapshot(workshop) == before


def test_what_a_program_reads(workshop: Path) -> None:
    done = ingot("init", "tiny llama", "support-v3", "-o", "json.yaml", "--json", cwd=workshop)
    assert done.returncode == 0, done.stderr
    last: Mapping[str, Any] = json_lines(done.stdout)[-1]
    assert (last["type"], last["verb"], last["output"]) == ("result", "init", "json.yaml")
    assert last["recipe"] == (workshop / "json.yaml").read_text()
    assert (last["name"], last["formats"]) == ("tiny-llama-support", ["safetensors"])
    assert last["no_gguf"]


def test_a_person_is_told_what_to_do_next(workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("init 'tiny llama' support-v3 -o 'a b.yaml'", workshop) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Written    a b.yaml")
    assert "ingot release 'a b.yaml'" in err


def test_the_schema_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("init --schema", tmp_path) == 0
    assert json.loads(capfd.readouterr().out) == schema()


#: (command line, exit code, a word of the message)
WRONG = [
    ("init", 2, "BASE is missing"),
    ("init 'tiny llama'", 2, "ADAPTER is missing"),
    ("init 'tiny llama' support-v3 -o ''", 2, "RECIPE.yaml is empty"),
    ("init 'tiny llama' support-v3=0", 2, "weight of zero"),
    ("init --schema base", 2, "--schema takes no BASE"),
    ("init 'tiny llama' support-v3 -o there.yaml", 15, "exists already"),
    ("init 'tiny llama' support-v3 -o empty", 15, "exists already"),
    ("init 'tiny llama' support-v3 -o nowhere/r.yaml", 15, "no such directory"),
    ("init nowhere support-v3", 10, "does not exist"),
    ("init support-v3 support-v3", 10, "adapter"),
    ("init 'tiny llama' nowhere", 11, "does not exist"),
    ("init 'tiny llama' empty", 11, "no adapter"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "word"), WRONG, ids=[line for line, _, _ in WRONG])
def test_a_wrong_input_is_refused_and_nothing_is_written(
    workshop: Path, line: str, code: int, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(workshop)
    assert run_here(line, workshop) == code
    out, err = capfd.readouterr()
    assert word in err
    assert out == ""
    assert "Traceback" not in err
    assert snapshot(workshop) == before


def test_an_adapter_that_does_not_fit_is_found_now_and_not_at_the_release(
    workshop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here("init 'tiny llama' misfit -o misfit.yaml", workshop) in (11, 12)
    assert not (workshop / "misfit.yaml").exists()
