"""Expert stacks in every layout that a PEFT release has saved, against PEFT's own einsum in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.adapters import Adapter, Module, ModuleKind, load_tensor
from ingot.errors import AdapterError, MismatchError, UsageError
from tests.adapters.files import edit_config, opened, write_adapter

E, R, S = 3, 2, 1.5
WIDE, SQUARE = (E, 6, 4), (E, 4, 4)


def swaps(version: str, *, transposed: bool) -> bool:
    """`swap_in_out_features` as it stands in `ParamWrapper.update_layer` of that release."""
    return {"0.17.1": False, "0.18.1": False, "0.19.0": transposed}.get(version, not transposed)


def expected_delta(A: torch.Tensor, B: torch.Tensor, *, swapped: bool) -> torch.Tensor:
    """`ParamWrapper.get_delta_weight`, in float64."""
    A, B = A.double().reshape(E, -1, A.shape[-1]), B.double().reshape(B.shape[0], -1, E)
    return S * torch.einsum("o r e, e r i -> e o i" if swapped else "o r e, e r i -> e i o", B, A)


def experts(shape: tuple[int, ...], *, transposed: bool = False) -> Module:
    parameters = {"gate_up_proj": shape, "down_proj": shape}
    return Module("m.experts", ModuleKind.EXPERTS, parameters, transposed_experts=transposed)


def save(directory: Path, shape: tuple[int, ...], *, swapped: bool, **config: Any) -> dict[str, torch.Tensor]:
    inputs, outputs = (shape[2], shape[1]) if swapped else (shape[1], shape[2])
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "m.experts.lora_A.weight": torch.randn(E * R, inputs, generator=generator),
        "m.experts.lora_B.weight": torch.randn(outputs, E * R, generator=generator),
    }
    config = {"target_parameters": ["experts.down_proj"], "target_modules": [], **config}
    write_adapter(directory, tensors, **config)
    return tensors


def our_delta(adapter: Adapter, module: Module) -> torch.Tensor:
    edits = adapter.updates[0].edits(module)
    assert {edit.parameter for edit in edits} == {"down_proj"}
    assert [edit.index for edit in edits] == list(range(E))
    result = torch.zeros(module.parameters["down_proj"])
    for edit in edits:
        edit.term.prepare(lambda factor: factor.of(load_tensor(adapter.weights, factor.ref)), lambda: iter(()))(
            result[edit.index], 0
        )
    return result.double()


@pytest.mark.parametrize("shape", [WIDE, SQUARE])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("version", ["0.17.1", "0.18.1", "0.19.0", "0.19.1", "0.20.0", "0.21.2"])
def test_each_release_is_read_as_it_saved(
    version: str, transposed: bool, shape: tuple[int, ...], tmp_path: Path
) -> None:
    swapped = swaps(version, transposed=transposed)
    tensors = save(tmp_path, shape, swapped=swapped, peft_version=version)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = our_delta(adapter, experts(shape, transposed=transposed))
    torch.testing.assert_close(ours, expected_delta(*tensors.values(), swapped=swapped), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("version", [None, "0.18.2.dev0@UNKNOWN", "0.19.1.dev0", "nonsense"])
def test_an_unknown_release_is_read_by_shape_where_the_shape_decides(
    version: str | None, swapped: bool, tmp_path: Path
) -> None:
    tensors = save(tmp_path, WIDE, swapped=swapped, peft_version=version)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = our_delta(adapter, experts(WIDE))
    torch.testing.assert_close(ours, expected_delta(*tensors.values(), swapped=swapped), rtol=1e-6, atol=1e-6)


def test_an_unknown_release_and_square_experts_are_refused_with_the_way_out(tmp_path: Path) -> None:
    tensors = save(tmp_path, SQUARE, swapped=False)
    with pytest.raises(MismatchError, match="square experts") as caught:
        opened(tmp_path).updates[0].edits(experts(SQUARE))
    assert caught.value.exit_code == 12
    assert "--assume-peft-version" in str(caught.value.hint)
    with Adapter.open(tmp_path, adapter_index=0, assume_peft_version="0.18.1") as adapter:
        ours = our_delta(adapter, experts(SQUARE))
    torch.testing.assert_close(ours, expected_delta(*tensors.values(), swapped=False), rtol=1e-6, atol=1e-6)


def test_only_a_release_can_be_assumed(tmp_path: Path) -> None:
    save(tmp_path, SQUARE, swapped=False)
    with pytest.raises(UsageError):
        opened(tmp_path, assume_peft_version="newest")


def test_shapes_that_contradict_the_release_are_refused(tmp_path: Path) -> None:
    save(tmp_path, WIDE, swapped=False, peft_version="0.21.2")
    with pytest.raises(MismatchError, match=r"swapped.*lora_A"):
        opened(tmp_path).updates[0].edits(experts(WIDE))


def test_the_innermost_layer_belongs_to_the_parameter_that_is_declared_first(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    nested = {
        f"m.experts{'.base_layer' * depth}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for depth in (0, 1)
        for side, shape in (("A", (E * R, 4)), ("B", (6, E * R)))
    }
    config = {"target_parameters": ["experts.down_proj", "experts.gate_up_proj"], "target_modules": []}
    write_adapter(tmp_path, nested, peft_version="0.21.2", **config)
    edits = opened(tmp_path).updates[0].edits(experts(WIDE))
    depth_of = {edit.parameter: edit.term.left.ref.name.count("base_layer") for edit in edits}
    assert depth_of == {"gate_up_proj": 1, "down_proj": 0}


def test_two_parameters_for_one_layer_are_refused(tmp_path: Path) -> None:
    save(tmp_path, WIDE, swapped=True, target_parameters=["gate_up_proj", "down_proj"], peft_version="0.21.2")
    with pytest.raises(MismatchError, match=r"target_parameters.*gate_up_proj"):
        opened(tmp_path).updates[0].edits(experts(WIDE))


def test_a_rank_that_is_not_the_configs_is_refused(tmp_path: Path) -> None:
    save(tmp_path, WIDE, swapped=True, r=3, peft_version="0.21.2")
    with pytest.raises(MismatchError, match=r"expected rank 3.*found rank 2"):
        opened(tmp_path).updates[0].edits(experts(WIDE))


def test_experts_of_before_transformers_5_are_scaled_by_their_own_rank(tmp_path: Path) -> None:
    """PEFT 0.21 fuses w1 and w3 into one layer of twice the rank, and so multiplies their rsLoRA by sqrt(2)."""
    path = "model.layers.0.block_sparse_moe.experts.1"
    tensors = {
        f"{path}.{name}.lora_{side}.weight": torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        for name in ("w1", "w3")
        for side, shape in (("A", (4, 8)), ("B", (6, 4)))
    }
    options = {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["w1", "w3"]}
    write_adapter(tmp_path, tensors, **options)
    for update in opened(tmp_path).updates:
        (edit,) = update.edits(Module(update.path, ModuleKind.LINEAR, {"weight": (6, 8)}))
        assert edit.term.scaling == pytest.approx(3 / 2)


@pytest.mark.parametrize("shape", [WIDE, SQUARE])
def test_a_block_of_columns_for_each_expert_is_read_where_unsloth_trained_it(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = save(tmp_path, shape, swapped=True, peft_version="0.21.2")
    A = tensors["m.experts.lora_A.weight"].double().reshape(E, R, -1)
    # unsloth-zoo before #1269, temporary_patches/qwen3_moe.py: weight_B.view(dim_B, num_experts, rank)
    B = tensors["m.experts.lora_B.weight"].double().view(-1, E, R)
    expected = S * torch.stack([B[:, expert] @ A[expert] for expert in range(E)])
    with Adapter.open(tmp_path, adapter_index=0, expert_layout="unsloth") as adapter:
        found = our_delta(adapter, experts(shape))
    assert (found - expected).abs().max() < 1e-6
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        assert (our_delta(adapter, experts(shape)) - expected).abs().max() > 0.1
    edit_config(tmp_path, lora_B_layout="grouped_by_expert")
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        assert (our_delta(adapter, experts(shape)) - expected).abs().max() < 1e-6


def test_a_layout_that_the_config_tells_otherwise_or_nobody_knows_is_refused(tmp_path: Path) -> None:
    save(tmp_path, WIDE, swapped=True, lora_B_layout="grouped_by_expert")
    with pytest.raises(UsageError, match=r"grouped_by_expert.*--expert-layout peft"):
        opened(tmp_path, expert_layout="peft")
    assert opened(tmp_path, expert_layout="unsloth").config.expert_blocks
    edit_config(tmp_path, lora_B_layout="column_major")
    with pytest.raises(AdapterError, match="lora_B_layout"):
        opened(tmp_path)
    parts = {"gate_up_proj": {"lora_B_layout": "rank_major"}, "down_proj": {"lora_B_layout": "grouped_by_expert"}}
    edit_config(tmp_path, lora_B_layout=..., unsloth_fused_expert_lora={"parameters": parts})
    with pytest.raises(AdapterError, match="two layouts"):
        opened(tmp_path)
