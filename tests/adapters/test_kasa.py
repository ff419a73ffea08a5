"""KaSA against PEFT: the weight that it cuts, in float32 and rounded, and what it adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.adapters import Adapter, parse_config
from ingot.errors import AdapterError, MismatchError
from tests.adapters.files import edit_config, opened, read_tensors, replace_tensors
from tests.adapters.reference import changed, describe, differences, merged_by_peft, merged_by_us, saved_by_peft
from tests.adapters.toys import Gpt2ish, Mlp, seeded

KASA: dict[str, Any] = {"r": 3, "target_modules": ["q_proj", "up", "down"], "kasa_config": {"beta": 1e-4}}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"up": 2}, "alpha_pattern": {"down": 5}},
        {"lora_bias": True, "bias": "all"},
        {"kasa_config": {}},
        {"init_lora_weights": "olora"},
    ],
    ids=str,
)
def test_linear_layers_are_pefts(settings: dict[str, Any], tmp_path: Path) -> None:
    model = seeded(Mlp())
    saved_by_peft(model, tmp_path, **{**KASA, **settings})
    theirs = merged_by_peft(model, tmp_path)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
        assert adapter.config.title.endswith("KaSA") or "olora" in str(settings)
    assert max(differences(ours, theirs).values()) < 1e-5
    assert changed(model, ours) == changed(model, theirs) != set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_left_of_a_half_precision_base_is_rounded_as_peft_rounds_it(dtype: torch.dtype, tmp_path: Path) -> None:
    model = seeded(Mlp()).to(dtype)
    wrapped = saved_by_peft(model, tmp_path, **KASA)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    for path in ("layers.0.up", "layers.2.down"):
        layer = wrapped.get_submodule(f"base_model.model.{path}")
        assert layer.base_layer.weight.dtype == dtype
        B, d = layer.lora_B.default.weight.detach().float(), layer.lora_diag.default.detach().float()
        expected = (
            layer.base_layer.weight.detach().float()
            + layer.scaling["default"] * (B * d) @ layer.lora_A.default.weight.detach().float()
        )
        wrong = (ours[f"{path}.weight"] - expected).abs() > 1e-5
        # Where float32 noise meets a rounding boundary one element may fall on the other side.
        assert wrong.float().mean() < 0.01


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"use_bdlora": {"nblocks": 2}}, {"init_lora_weights": "mica"}],
    ids=str,
)
def test_what_peft_does_not_combine_with_it_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match="does not combine KaSA"):
        parse_config({"peft_type": "LORA", "target_modules": ["q"], "kasa_config": {}, **settings})


@pytest.mark.parametrize("value", [True, [], "x", 1])
def test_a_config_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(AdapterError, match="kasa_config"):
        parse_config({"peft_type": "LORA", "target_modules": ["q"], "kasa_config": value})


def test_a_layer_without_its_diagonal_and_a_diagonal_without_kasa_are_refused(tmp_path: Path) -> None:
    saved_by_peft(seeded(Mlp()), tmp_path, **KASA)
    tensors = read_tensors(tmp_path)
    edit_config(tmp_path, kasa_config=None)
    with pytest.raises(AdapterError, match="nothing in the config explains"):
        opened(tmp_path)
    edit_config(tmp_path, kasa_config={})
    name = next(name for name in tensors if name.endswith("lora_diag"))
    replace_tensors(tmp_path, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(AdapterError, match="lacks its counterpart"):
        opened(tmp_path)


def test_a_diagonal_of_another_length_and_a_layer_of_another_class_are_refused(tmp_path: Path) -> None:
    model = seeded(Mlp())
    saved_by_peft(model, tmp_path, **KASA)
    tensors = read_tensors(tmp_path)
    longer = {name: torch.ones(4) if name.endswith("lora_diag") else tensor for name, tensor in tensors.items()}
    replace_tensors(tmp_path, longer)
    modules = describe(model)
    with pytest.raises(MismatchError, match="expected 3 values, found"):
        [update.edits(modules[update.path]) for update in opened(tmp_path).updates]
    other = seeded(Gpt2ish())
    saved_by_peft(other, tmp_path / "gpt2", target_modules=["c_proj"], r=3)
    renamed = {**read_tensors(tmp_path / "gpt2"), "base_model.model.c_proj.lora_diag": torch.ones(3)}
    replace_tensors(tmp_path / "gpt2", renamed)
    edit_config(tmp_path / "gpt2", kasa_config={})
    with pytest.raises(MismatchError, match="cannot train KaSA"):
        [update.edits(describe(other)[update.path]) for update in opened(tmp_path / "gpt2").updates]


def test_a_rank_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    model = seeded(Mlp())
    saved_by_peft(model, tmp_path, r=10, target_modules=["q_proj"])
    tensors = read_tensors(tmp_path)
    diagonals = {f"base_model.model.layers.{n}.q_proj.lora_diag": torch.ones(10) for n in range(3)}
    replace_tensors(tmp_path, {**tensors, **diagonals})
    edit_config(tmp_path, kasa_config={})
    with pytest.raises(MismatchError, match="leave nothing"):
        [update.edits(describe(model)[update.path]) for update in opened(tmp_path).updates]
