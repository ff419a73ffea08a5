"""`verify --against-inputs`: a real plan of a tiny Llama and two LoRA adapters, computed again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ingot.errors import BaseError, Interrupted, UsageError
from ingot.formats.safetensors import parse_header
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.record import Verification, read_record, verify
from ingot.record.against_inputs import inputs_of
from ingot.record.statement import seal
from tests.record.makers import copy_of, sha256

SHARD = "model.safetensors"
CHANGED = "model.layers.1.self_attn.q_proj.weight"


def write_lora(folder: Path, seed: int) -> None:
    """A PEFT adapter on q_proj of both layers."""
    folder.mkdir()
    chance = np.random.default_rng(seed)
    tensors = {}
    for layer in (0, 1):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{stem}.lora_A.weight"] = chance.normal(size=(2, 16)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = chance.normal(size=(16, 2)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "peft_version": "0.18.0", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj"], "base_model_name_or_path": "org/base",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, one/, two/ and their merge out/."""
    from tests.tiny_models import MODELS

    root = tmp_path_factory.mktemp("rebuild")
    MODELS["llama"]().save_pretrained(root / "base")
    write_lora(root / "one", 1)
    write_lora(root / "two", 2)
    adapters = [(str(root / "one"), 0.5), (str(root / "two"), -1.25)]
    with prepare(str(root / "base"), adapters, Options(dtype="BF16"), target=root / "out") as job:
        job.run()
    return root


def against(out: Path, base: Path, *adapters: Path, **more: Any) -> Verification:
    return verify(out, depth="against-inputs", base=str(base), adapters=[str(a) for a in adapters], **more)


def told(found: Verification) -> Mapping[str, str]:
    """Failed checks by name."""
    return {check.name: check.detail for check in found.failures}


def test_the_artifact_is_computed_again_to_the_same_bytes_with_the_recorded_options(made: Path) -> None:
    found = against(made / "out", made / "base", made / "one", made / "two")
    assert told(found) == {}
    assert {"inputs", "plan", "recomputed"} <= {check.name for check in found.checks}
    found.raise_failure()


def test_inputs_may_have_been_moved_and_renamed(made: Path, tmp_path: Path) -> None:
    moved = [copy_of(made / name, tmp_path / f"my {name}") for name in ("base", "one", "two")]
    assert told(against(made / "out", *moved)) == {}


def test_another_base_is_named_and_nothing_is_computed(made: Path, tmp_path: Path) -> None:
    base = copy_of(made / "base", tmp_path / "base")
    data = bytearray((base / SHARD).read_bytes())
    data[-1] ^= 1
    (base / SHARD).write_bytes(data)
    found = against(made / "out", base, made / "one", made / "two")
    assert told(found) == {"inputs": f"{SHARD} of the base is not the file that was merged"}
    assert "recomputed" not in {check.name for check in found.checks}


def test_an_absent_input_is_named(made: Path, tmp_path: Path) -> None:
    base = copy_of(made / "base", tmp_path / "base")
    (base / "generation_config.json").unlink()
    found = against(made / "out", base, made / "one", made / "two")
    assert told(found) == {"inputs": "generation_config.json of the base is missing, or cannot be opened"}


def test_adapters_in_another_order_are_other_adapters(made: Path) -> None:
    found = against(made / "out", made / "base", made / "two", made / "one")
    assert "adapter_model.safetensors of adapter" in told(found)["inputs"]


def _forge(out: Path, name: str, data: bytes, change: Any = None) -> None:
    """Another content under a record that agrees with it."""
    (out / name).write_bytes(data)
    value = json.loads((out / "ingot.json").read_bytes())
    (entry,) = [subject for subject in value["subject"] if subject["name"] == name]
    entry["digest"]["sha256"], entry["annotations"]["size"] = sha256(out / name), len(data)
    if change:
        change(value)
    (out / "ingot.json").write_bytes(seal(value))


def test_a_forged_weight_under_a_forged_record_is_named(made: Path, tmp_path: Path) -> None:
    for name in (CHANGED, "model.norm.weight"):
        out = copy_of(made / "out", tmp_path / "out")
        data = bytearray((out / SHARD).read_bytes())
        data[parse_header(bytes(data), file=SHARD, file_nbytes=len(data)).by_name[name].begin] ^= 1
        _forge(out, SHARD, bytes(data))
        assert verify(out, depth="read").ok
        found = against(out, made / "base", made / "one", made / "two")
        assert told(found) == {"recomputed": f"{SHARD}: tensor {name} differs"}


def test_a_forged_config_under_a_forged_record_is_named(made: Path, tmp_path: Path) -> None:
    out = copy_of(made / "out", tmp_path / "out")
    config = json.loads((out / "config.json").read_bytes())
    _forge(out, "config.json", json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}).encode())
    assert verify(out, depth="read").ok
    found = against(out, made / "base", made / "one", made / "two")
    assert told(found) == {"recomputed": "config.json: not what the plan makes"}


def test_a_file_slipped_in_under_a_forged_record_is_named(made: Path, tmp_path: Path) -> None:
    out = copy_of(made / "out", tmp_path / "out")
    value = json.loads((out / "ingot.json").read_bytes())
    value["subject"].append({**value["subject"][0], "name": "modeling_evil.py"})
    value["subject"].sort(key=lambda subject: subject["name"])
    (out / "ingot.json").write_bytes(seal(value))
    _forge(out, "modeling_evil.py", b"print('owned')\n")
    assert verify(out, depth="read").ok
    found = against(out, made / "base", made / "one", made / "two")
    assert told(found) == {"recomputed": "modeling_evil.py: no file of the plan"}


def test_a_device_that_is_not_here_is_told(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = copy_of(made / "out", tmp_path / "out")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def change(value: Any) -> None:
        value["predicate"]["buildDefinition"]["internalParameters"]["device"] = "cuda:0"

    _forge(out, "config.json", (out / "config.json").read_bytes(), change)
    found = against(out, made / "base", made / "one", made / "two")
    assert "made on cuda:0, computed here on cpu" in found.checks[-1].detail
    assert found.ok


def test_a_forged_recipe_leads_to_another_plan(made: Path, tmp_path: Path) -> None:
    out = copy_of(made / "out", tmp_path / "out")

    def change(value: Any) -> None:
        value["predicate"]["buildDefinition"]["externalParameters"]["adapters"][0]["weight"] = 0.75

    _forge(out, "config.json", (out / "config.json").read_bytes(), change)
    assert "plans something else" in told(against(out, made / "base", made / "one", made / "two"))["plan"]


def test_a_plan_of_another_version_is_told_as_such(made: Path, tmp_path: Path) -> None:
    out = copy_of(made / "out", tmp_path / "out")

    def change(value: Any) -> None:
        value["predicate"]["buildDefinition"]["internalParameters"]["plan_version"] = 99

    _forge(out, "config.json", (out / "config.json").read_bytes(), change)
    assert "plan version 99" in told(against(out, made / "base", made / "one", made / "two"))["plan"]


def test_a_cut_shard_is_a_difference_and_no_traceback(made: Path, tmp_path: Path) -> None:
    out = copy_of(made / "out", tmp_path / "out")
    (out / SHARD).write_bytes((out / SHARD).read_bytes()[:-2])
    found = against(out, made / "base", made / "one", made / "two")
    assert {"files", "contents", "plan"} <= set(told(found))


def test_inputs_that_are_nowhere_told_are_asked_for(made: Path) -> None:
    with pytest.raises(UsageError, match="base"):
        verify(made / "out", depth="against-inputs")
    with pytest.raises(UsageError, match="2, in this order: one, two"):
        against(made / "out", made / "base", made / "one")
    with pytest.raises(BaseError):
        against(made / "out", made / "nowhere", made / "one", made / "two")


def test_inputs_from_the_hub_are_found_by_name_and_commit(made: Path) -> None:
    value = json.loads((made / "out" / "ingot.json").read_bytes())
    build = value["predicate"]["buildDefinition"]
    build["externalParameters"]["base"] = {"name": "org/base", "revision": "main"}
    for spec in build["externalParameters"]["adapters"]:
        spec |= {"name": f"me/{spec['name']}", "revision": "v1"}
    for entry in build["resolvedDependencies"]:
        if entry["annotations"]["of"] == "base":
            entry["annotations"]["commit"] = "c" * 40
    record = read_record(seal(value))
    assert inputs_of(record, None, None) == (f"org/base@{'c' * 40}", ["me/one@v1", "me/two@v1"])
    assert inputs_of(record, "here", None) == ("here", ["me/one@v1", "me/two@v1"])


def test_a_stop_ends_the_recomputation(made: Path) -> None:
    arguments = (made / "out", made / "base", made / "one", made / "two")
    calls: list[int] = []
    against(*arguments, progress=calls.append, jobs=1)
    stop, left = threading.Event(), len(calls) - 1  # the last is told by the recomputation

    def progress(_: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            stop.set()

    with pytest.raises(Interrupted):
        against(*arguments, progress=progress, stop=stop, jobs=1)
    assert left == 0


def test_verification_writes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    against(made / "out", made / "base", made / "one", made / "two")
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
