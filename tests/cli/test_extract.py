"""`ingot extract` as a person types it: what it shows, what a program reads, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.toys import ingot, make_adapter, make_base, run_here, snapshot


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a merge of a LoRA of rank 4 into it, and things that are neither."""
    root = tmp_path_factory.mktemp("extract")
    make_base(root / "base", shards=1)
    make_adapter(root / "lora", rank=4)
    assert run_here("merge base lora -o tuned --dtype float32 -q", root) == 0
    shutil.copytree(root / "base", root / "copy")
    make_base(root / "quantized", config={"quantization_config": {"quant_method": "bitsandbytes"}})
    make_base(root / "deeper", config={"model_type": "mistral", "architectures": ["MistralForCausalLM"]})
    shutil.copytree(root / "tuned", root / "spoilt")
    tensors = load_file(root / "spoilt" / "model.safetensors")
    tensors["model.norm.weight"][2] = np.nan
    save_file(tensors, root / "spoilt" / "model.safetensors", {"format": "pt"})
    (root / "empty").mkdir()
    return root


#: (command line, exit code, a word of the message, a word of the hint)
WRONG = [
    ("extract base tuned", 2, "-o ADAPTER is missing", "--help"),
    ("extract base -o out", 2, "TUNED", "--help"),
    ("extract base tuned -o ''", 2, "ADAPTER is empty", "--help"),
    ("extract '' tuned -o out", 2, "BASE is empty", "--help"),
    ("extract base '' -o out", 2, "TUNED is empty", "--help"),
    ("extract base tuned -o out --rank 0", 2, "--rank", "--help"),
    ("extract base tuned -o out --rank many", 2, "many", "--help"),
    ("extract base tuned -o out --rank 4 --energy 0.9", 2, "exclude each other", "hold"),
    ("extract base tuned -o out --rank 4 --max-rank 8", 2, "--max-rank has no meaning", "--energy"),
    ("extract base tuned -o out --energy 1.5", 2, "--energy is a share", "--help"),
    ("extract base tuned -o out --energy nan", 2, "--energy is a share", "--help"),
    ("extract base tuned -o out --energy 0", 2, "--energy is a share", "--help"),
    ("extract base tuned -o out --dtype int4", 2, "bfloat16", "--help"),
    ("extract base tuned -o out --save-module qproj", 2, "no module is called qproj", "q_proj"),
    ("extract base tuned -o out --rnak 4", 2, "--rnak", "--rank"),
    ("extract nowhere tuned -o out", 10, "the base does not exist", "spelling"),
    ("extract base nowhere -o out", 10, "the tuned model does not exist", "spelling"),
    ("extract base empty -o out", 10, "no weights are here", "ingot inspect"),
    ("extract base lora -o out", 10, "TUNED is an adapter already", "ingot merge"),
    ("extract lora tuned -o out", 10, "this is an adapter, not a base", "BASE first"),
    ("extract quantized tuned -o out", 10, "BASE is quantized", "16-bit"),
    ("extract base quantized -o out", 10, "bitsandbytes", "16-bit"),
    ("extract base base -o out", 12, "nothing to extract", "TUNED"),
    ("extract base copy -o out", 12, "hold the same weights", "TUNED"),
    ("extract base deeper -o out", 12, "two kinds", "trained from"),
    ("extract base spoilt -o out", 13, "TUNED holds a value that is not finite", "another checkpoint"),
    ("extract base tuned -o copy", 15, "exists", ""),
    ("extract base tuned -o lora/adapter_config.json", 15, "not a directory", "another output"),
    ("extract s3://bucket/base tuned -o out", 18, "S3", "local"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "word", "hint"), WRONG, ids=[line for line, *_ in WRONG])
def test_a_wrong_input_is_refused_with_its_exit_code_and_nothing_is_written(
    workshop: Path, line: str, code: int, word: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(workshop)
    returned = run_here(line, workshop)
    out, err = capfd.readouterr()
    assert (returned, word in err) == (code, True), err
    assert hint in err.partition("hint: ")[2], err
    assert err.count("error: ") == 1
    assert "Traceback" not in out + err
    assert snapshot(workshop) == before
    assert not (workshop / "out").exists()


def test_the_table_says_how_much_is_held(workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(f"extract base tuned -o {tmp_path}/lora --rank 4 --no-color", workshop) == 0
    out, err = capfd.readouterr()
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("  model")}
    assert set(rows) == {"model.layers.*.self_attn.q_proj", "model.layers.*.self_attn.v_proj"}
    for row in rows.values():
        assert row[1:3] == ["2", "4"]
        assert row[3:5] == ["100", "%"]
    assert "Unchanged  17 of 21 parameters are the same in both" in out
    assert "ingot merge BASE" in err
    assert "warning" not in err


def test_a_poor_fit_is_warned_of_with_the_way_out(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here(f"extract base tuned -o {tmp_path}/lora --rank 1", workshop) == 0
    _, err = capfd.readouterr()
    assert "warning: 4 of 4 modules hold less than 90% of their difference" in err
    assert "Take a higher --rank, or --save-module" in err


def test_a_program_reads_every_module_and_the_files(workshop: Path, tmp_path: Path) -> None:
    done = ingot("extract", "base", "tuned", "-o", str(tmp_path / "lora"), "--rank", "4", "--json", cwd=workshop)
    lines = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
    assert {line["what"] for line in lines if line["type"] == "progress"} == {"comparing", "decomposing"}
    result = lines[-1]
    assert (result["type"], result["verb"]) == ("result", "extract")
    assert len(result["modules"]) == 4
    assert all(one["rank"] == 4 and one["energy"] > 0.9999 for one in result["modules"])
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == sorted(result["files"])


def test_quiet_leaves_the_identity_alone(workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(f"extract base tuned -o {tmp_path}/lora --rank 4 -q", workshop) == 0
    out, err = capfd.readouterr()
    record = json.loads((tmp_path / "lora" / "ingot.json").read_text())
    assert out.split() == [record["predicate"]["runDetails"]["metadata"]["ingot_identity"]]
    assert err == ""


def test_the_adapter_can_be_inspected_planned_merged_and_verified(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lora, out = tmp_path / "lora", tmp_path / "out"
    for line in (
        f"extract base tuned -o {lora} --rank 4",
        f"verify {lora}",
        f"verify {lora} --read",
        f"inspect {lora}",
        f"plan base {lora}",
        f"merge base {lora} -o {out} --dtype float32",
        f"verify {out} --against-inputs --base base --adapter {lora}",
    ):
        assert run_here(line, workshop) == 0, capfd.readouterr().err
    ours, wanted = load_file(out / "model.safetensors"), load_file(workshop / "tuned" / "model.safetensors")
    assert ours.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.abs(ours[name] - tensor).max() <= 1e-5 * np.abs(tensor).max(), name


def test_help_begins_with_examples(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_here("extract --help", tmp_path) == 0
    out = capfd.readouterr().out
    assert out.index("Examples:") < out.index("--rank R") < out.index("--output")
