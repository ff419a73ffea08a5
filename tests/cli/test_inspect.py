"""`ingot inspect`: what it says is what another library reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ingot.errors import UnsafeInputError, UsageError
from ingot.inspect import inspect_path
from tests.cli.toys import LAYERS, ingot, make_adapter, make_base, run_here


def test_a_checkpoint_is_counted_as_its_files_are(tmp_path: Path) -> None:
    tensors = make_base(tmp_path / "base", shards=3)
    facts = inspect_path(tmp_path / "base").facts
    assert facts["parameters"] == sum(t.size for t in tensors.values())
    assert facts["tensors"] == len(tensors)
    assert facts["dtypes"] == {"F16": sum(t.size for t in tensors.values())}
    assert facts["nbytes"] == sum(f.stat().st_size for f in (tmp_path / "base").glob("*.safetensors"))
    shards = facts["shards"]
    assert isinstance(shards, list)
    assert {s["file"]: s["tensors"] for s in shards} == {
        f.name: len(load_file(f)) for f in (tmp_path / "base").glob("*.safetensors")
    }
    assert (facts["architectures"], facts["tied"], facts["quantization"]) == (["LlamaForCausalLM"], False, None)
    assert facts["side_files"] == ["generation_config.json", "tokenizer.json"]
    biggest = facts["biggest"]
    assert isinstance(biggest, list)
    assert [b["nbytes"] for b in biggest] == sorted((t.nbytes for t in tensors.values()), reverse=True)[:5]


def test_groups_hold_every_tensor_once(tmp_path: Path) -> None:
    tensors = make_base(tmp_path / "base")
    groups = inspect_path(tmp_path / "base").facts["groups"]
    assert isinstance(groups, list)
    assert sum(group["count"] for group in groups) == len(tensors)
    assert sum(group["nbytes"] for group in groups) == sum(t.nbytes for t in tensors.values())
    by_pattern = {group["pattern"]: group for group in groups}
    assert by_pattern["model.layers.*.mlp.up_proj.weight"]["count"] == LAYERS


def test_a_tied_and_a_quantized_checkpoint_are_told(tmp_path: Path) -> None:
    path = tmp_path / "base"
    make_base(path, shards=1, config={"tie_word_embeddings": True, "quantization_config": {"quant_method": "gptq"}})
    tensors = load_file(path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "model.safetensors")
    report = inspect_path(path)
    assert (report.facts["tied"], report.facts["quantization"]) == (True, "gptq")
    assert any("gptq" in line for line in report.as_lines(80))


def test_an_adapter_is_told_with_its_settings(tmp_path: Path) -> None:
    tensors = make_adapter(tmp_path / "lora", rank=4, use_rslora=True, rank_pattern={})
    facts = inspect_path(tmp_path / "lora").facts
    with safe_open(tmp_path / "lora" / "adapter_model.safetensors", "np") as file:
        assert facts["tensors"] == len(list(file.keys())) == len(tensors)
    assert (facts["method"], facts["rank"], facts["alpha"]) == ("LORA", 4, 8)
    assert facts["target_modules"] == ["q_proj", "v_proj"]
    assert facts["base"] == "acme/tiny"
    assert facts["parameters"] == sum(t.size for t in tensors.values())
    assert facts["refused"] is None
    groups = facts["groups"]
    assert isinstance(groups, list)
    assert {(g["count"], tuple(g["shape"])) for g in groups} == {(2, (4, 16)), (2, (16, 4)), (2, (8, 4))}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"peft_type": "IA3"}, "AdapterError"),
        ({"r": 16}, "MismatchError"),
        ({"init_lora_weights": "corda"}, "AdapterError"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_shown_with_the_reason(
    tmp_path: Path, config: dict[str, object], name: str
) -> None:
    make_adapter(tmp_path / "lora", **config)
    report = inspect_path(tmp_path / "lora")
    refused = report.facts["refused"]
    assert isinstance(refused, dict)
    assert refused["error"] == name
    assert any(line.startswith("Mergeable  no: ") for line in report.as_lines(80))


def test_an_adapter_of_torch_save_is_read_without_running_it(tmp_path: Path) -> None:
    tensors = make_adapter(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "lora" / "adapter_model.bin")
    facts = inspect_path(tmp_path / "lora").facts
    assert (facts["tensors"], facts["file"]) == (len(tensors), "adapter_model.bin")
    alone = inspect_path(tmp_path / "lora" / "adapter_model.bin")
    assert (alone.kind, alone.facts["format"], alone.facts["tensors"]) == ("file", "torch", len(tensors))


def test_a_single_file_is_told_with_its_metadata(tmp_path: Path) -> None:
    tensors = {"a.0.w": np.zeros((2, 3), np.float32), "a.1.w": np.zeros((2, 3), np.float32), "n": np.zeros(4, np.int64)}
    save_file(tensors, tmp_path / "x.safetensors", {"made": "by hand"})
    facts = inspect_path(tmp_path / "x.safetensors").facts
    assert facts["metadata"] == {"made": "by hand"}
    assert facts["dtypes"] == {"F32": 12, "I64": 4}
    assert facts["nbytes"] == (tmp_path / "x.safetensors").stat().st_size


def test_an_artifact_is_told_from_its_record(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    assert run_here("merge base lora=0.5 -o out", tmp_path) == 0
    report = inspect_path(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "ingot.json").read_text())
    assert report.kind == "artifact"
    assert report.facts["identity"] == record["predicate"]["runDetails"]["metadata"]["ingot_identity"]
    assert report.facts["adapters"] == [{"name": "lora", "revision": None, "weight": 0.5}]
    files = report.facts["files"]
    assert isinstance(files, list)
    assert {f["name"]: f["nbytes"] for f in files} == {
        f.name: f.stat().st_size for f in (tmp_path / "out").iterdir() if f.name != "ingot.json"
    }


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": eval}, tmp_path / "evil.bin")
    with pytest.raises(UnsafeInputError):
        inspect_path(tmp_path / "evil.bin")


def test_a_folder_of_adapters_names_one_of_them(tmp_path: Path) -> None:
    make_adapter(tmp_path / "all" / "first")
    make_adapter(tmp_path / "all" / "second")
    with pytest.raises(UsageError) as caught:
        inspect_path(tmp_path / "all")
    assert "first" in str(caught.value.hint)


def test_a_hostile_name_in_a_config_is_escaped(tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora", base_model_name_or_path="\x1b]0;owned\x07")
    done = ingot("inspect", "lora", cwd=tmp_path)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert b"\\x1b]0;owned\\x07" in done.stdout
