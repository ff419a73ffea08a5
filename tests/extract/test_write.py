"""The weights file, judged by the safetensors library; the config and the record beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open

from ingot.errors import NonFiniteError
from ingot.extract.write import AdapterFile
from ingot.formats.safetensors import read_header
from ingot.storage import PosixDisk, Staging
from tests.extract.judge import add_low_rank, config, extracted, make, shake, stored


def written(root: Path, largest: list[Any], tensors: dict[str, tuple[str, torch.Tensor]]) -> Path:
    with Staging.open(PosixDisk(), root / "out", {}) as staging:
        file = AdapterFile(staging, largest)
        for name, (dtype, tensor) in tensors.items():
            file.add(name, dtype, tensor)
        file.finish()
        staging.publish(b"{}")
    return root / "out" / "adapter_model.safetensors"


def test_tensors_smaller_than_was_reserved_leave_a_whole_file(tmp_path: Path) -> None:
    largest = [("a", "F32", (100, 1000)), ("b", "F32", (1000, 100)), ("absent", "F32", (7, 7))]
    a, b = torch.arange(12.0).view(3, 4), torch.arange(10.0).view(5, 2)
    path = written(tmp_path, largest, {"a": ("F32", a), "b": ("F32", b)})
    with safe_open(path, "pt") as file:
        assert {*file.keys()} == {"a", "b"}
        assert torch.equal(file.get_tensor("a"), a)
        assert torch.equal(file.get_tensor("b"), b)
        assert file.metadata() == {"format": "pt"}
    with path.open("rb") as raw:
        header = read_header(raw.fileno(), file=path.name)
    assert path.stat().st_size == header.nbytes + a.nbytes + b.nbytes


def test_a_factor_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    too_large = torch.tensor([[1e6]]).to(torch.float16)
    with pytest.raises(NonFiniteError, match="does not fit the dtype"):
        written(tmp_path, [("a", "F16", (1, 1))], {"a": ("F16", too_large)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "stored_as"), [("F32", torch.bfloat16), ("BF16", torch.float32)])
def test_tensors_of_several_widths_are_aligned(dtype: str, stored_as: torch.dtype, tmp_path: Path) -> None:
    """Odd lengths in two bytes before four would leave the rest at odd places, which readers may refuse."""

    def change(model: Any) -> None:
        add_low_rank(model, "q_proj")
        shake(model.model.norm.weight, model.lm_head.weight)

    base, tuned = make(tmp_path, "llama", change, stored_as)
    found = extracted(base, tuned, dtype=dtype, save=("lm_head",))
    with (found.target / "adapter_model.safetensors").open("rb") as raw:
        header = read_header(raw.fileno(), file="adapter_model.safetensors")
    assert {ref.dtype for ref in header.tensors} == {"F32", "BF16"}
    assert all(ref.begin % (ref.nbytes // ref.numel) == 0 for ref in header.tensors)
    assert stored(found)["base_model.model.lm_head.weight"].dtype is stored_as


def test_the_config_is_one_that_peft_reads_and_names_no_path(tmp_path: Path) -> None:
    base, tuned = make(tmp_path, "gpt2", add_low_rank)
    found = extracted(base, tuned)
    read = peft.PeftConfig.from_pretrained(found.target)
    assert isinstance(read, peft.LoraConfig)
    assert (read.r, read.lora_alpha, read.base_model_name_or_path) == (4, 4, "base")
    assert read.fan_in_fan_out
    assert str(tmp_path) not in (found.target / "adapter_config.json").read_text()
    assert str(tmp_path) not in (found.target / "ingot.json").read_text()


def test_a_model_without_a_causal_head_is_named_by_its_class(tmp_path: Path) -> None:
    base, tuned = make(tmp_path, "t5", add_low_rank)
    found = extracted(base, tuned)
    assert config(found)["task_type"] is None
    assert config(found)["auto_mapping"]["base_model_class"] == "T5ForConditionalGeneration"


def test_the_record_holds_the_digests_of_both_models_and_the_fit(tmp_path: Path) -> None:
    import hashlib

    base, tuned = make(tmp_path, "llama", add_low_rank)
    found = extracted(base, tuned)
    record = json.loads((found.target / "ingot.json").read_text())
    inputs = record["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = {(one["annotations"]["of"], one["name"]): one["digest"]["sha256"] for one in inputs}
    for of, directory in (("base", base), ("tuned", tuned)):
        for name in ("model.safetensors", "config.json"):
            assert digests[of, name] == hashlib.sha256((directory / name).read_bytes()).hexdigest()
    groups = record["predicate"]["runDetails"]["ingot_checks"]["factors"]
    assert [group["rank"] for group in groups] == [[4, 4]] * 7
    assert {subject["name"] for subject in record["subject"]} == {"adapter_config.json", "adapter_model.safetensors"}
