"""Merged by our edits equals merged by PEFT, tensor by tensor, for every layer and option of LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ingot.adapters import Adapter
from tests.adapters.reference import changed, differences, merged_by_peft, merged_by_us, saved_by_peft
from tests.adapters.toys import Attention, Convolutions, Gpt2ish, Mixture, Mlp, seeded

TOLERANCE = 1e-6
LINEARS = ["q_proj", "k_proj", "up", "down"]
WITH_BIAS = ["q_proj", "up", "down"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
BLOCKS = {"target_modules_bd_a": ["down"], "target_modules_bd_b": ["q_proj", "up"], "nblocks": 2}

CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "linear": (Mlp, {"target_modules": LINEARS}),
    "regex targets": (Mlp, {"target_modules": r".*layers\.[02]\.(q_proj|up)"}),
    "all-linear": (Mlp, {"target_modules": "all-linear"}),
    "excluded": (Mlp, {"target_modules": LINEARS, "exclude_modules": ["layers.1.up"]}),
    "some layers": (Mlp, {"target_modules": LINEARS, "layers_to_transform": [0, 2], "layers_pattern": "layers"}),
    "rslora": (Mlp, {"target_modules": LINEARS, "use_rslora": True}),
    "patterns": (Mlp, {
        "target_modules": LINEARS,
        "rank_pattern": {"layers.1.up": 3, "up": 5, r"layers\.[01]\.down": 2},
        "alpha_pattern": {"q_proj": 9, r"^layers\.2\.up": 1.5},
    }),
    "patterns and rslora": (Mlp, {
        "target_modules": LINEARS, "use_rslora": True, "rank_pattern": {"up": 7}, "alpha_pattern": {"down": 5},
    }),
    "eva": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "eva", "rank_pattern": {"up": 6}}),
    "orthogonal": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "orthogonal"}),
    "mica": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "mica"}),
    "lora_bias": (Mlp, {"target_modules": WITH_BIAS, "lora_bias": True}),
    "lora_bias and bias": (Mlp, {"target_modules": WITH_BIAS, "lora_bias": True, "bias": "all"}),
    "bias lora_only": (Mlp, {"target_modules": LINEARS, "bias": "lora_only"}),
    "bias all": (Mlp, {"target_modules": LINEARS, "bias": "all"}),
    "modules_to_save": (Mlp, {"target_modules": LINEARS, "modules_to_save": ["score", "norm"]}),
    "block diagonal": (Mlp, {"target_modules": WITH_BIAS, "use_bdlora": BLOCKS, "r": 4}),
    "dora": (Mlp, {"target_modules": [*LINEARS, "embed_tokens"], "use_dora": True}),
    "dora and rslora": (Mlp, {"target_modules": LINEARS, "use_dora": True, "use_rslora": True, "bias": "all"}),
    "embedding": (Mlp, {"target_modules": ["embed_tokens", "up"]}),
    "token rows": (Mlp, {"target_modules": LINEARS, "trainable_token_indices": {"embed_tokens": [9, 0, 4]}}),
    "conv1d of gpt2": (Gpt2ish, {"target_modules": ["c_attn", "c_proj", "lm_head", "wte"]}),
    "dora on conv1d": (Gpt2ish, {"target_modules": ["c_attn", "c_proj", "lm_head"], "use_dora": True}),
    "convolutions": (Convolutions, {"target_modules": ["conv1", "conv2", "point", "conv3"]}),
    "dora on convolutions": (Convolutions, {"target_modules": ["conv1", "conv2", "point", "conv3"], "use_dora": True}),
    "lora_bias on convolutions": (Convolutions, {"target_modules": ["conv1", "conv2", "conv3"], "lora_bias": True}),
    "attention": (Attention, {"target_modules": ["mha", "out"]}),
    "attention and biases": (Attention, {"target_modules": ["mha", "out"], "bias": "all", "lora_bias": True}),
    "pissa": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "pissa"}),
    "pissa and dora": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "pissa", "use_dora": True}),
    "pissa on conv1d": (Gpt2ish, {"target_modules": ["c_attn", "c_proj", "lm_head"], "init_lora_weights": "pissa"}),
    "olora": (Mlp, {"target_modules": LINEARS, "init_lora_weights": "olora", "use_rslora": True}),
    "experts": (Mixture, {"target_modules": ["o_proj"], "target_parameters": EXPERTS}),
    "experts, transposed": (lambda: Mixture(transposed=True), {"target_modules": [], "target_parameters": EXPERTS}),
    "experts, square": (lambda: Mixture(square=True), {"target_modules": [], "target_parameters": EXPERTS}),
    "experts, transposed and square": (
        lambda: Mixture(transposed=True, square=True),
        {"target_modules": [], "target_parameters": EXPERTS[::-1]},
    ),
    "one stack alone": (Mixture, {"target_modules": [], "target_parameters": ["experts.down_proj"]}),
    "experts, a bias and a router": (Mixture, {
        "target_modules": [], "target_parameters": [*EXPERTS, "gate_up_bias", "gate.weight"],
        "use_rslora": True, "rank_pattern": {"gate_up_proj": 2, "gate.weight": 3}, "alpha_pattern": {"down_proj": 11},
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_edits_give_what_peft_merges(name: str, tmp_path: Path) -> None:
    make, options = CASES[name]
    model = seeded(make())
    saved_by_peft(model, tmp_path, **options)
    theirs = merged_by_peft(model, tmp_path)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    worst = differences(ours, theirs)
    # An SVD of a toy's dense spectrum amplifies float32 noise; everything else is one product and one sum.
    tolerance = 1e-5 if "pissa" in name or "olora" in name else TOLERANCE
    assert max(worst.values()) < tolerance, {key: value for key, value in worst.items() if value >= tolerance}
    assert changed(model, ours) == changed(model, theirs)
    assert changed(model, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_the_residual_of_a_half_precision_base_is_rounded_as_peft_rounds_it(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = seeded(Mlp()).to(dtype)
    wrapped = saved_by_peft(model, tmp_path, target_modules=["up", "down"], init_lora_weights=method)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    for path in ("layers.0.up", "layers.2.down"):
        layer = wrapped.get_submodule(f"base_model.model.{path}")
        residual = layer.base_layer.weight.detach().float()
        A, B = layer.lora_A.default.weight.detach().float(), layer.lora_B.default.weight.detach().float()
        expected = residual + layer.scaling["default"] * B @ A
        wrong = (ours[f"{path}.weight"] - expected).abs() > 1e-5
        # Where float32 noise meets a rounding boundary one element may fall on the other side.
        assert wrong.float().mean() < 0.01


def test_an_attentions_output_projection_is_changed_twice_as_in_pefts_forward_pass(tmp_path: Path) -> None:
    model = seeded(Attention())
    wrapped = saved_by_peft(model, tmp_path, r=2, lora_alpha=3, target_modules=["mha"])
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    merged = Attention()
    merged.load_state_dict(ours)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(x), wrapped.eval()(x), rtol=1e-5, atol=1e-6)
    layer = wrapped.base_model.model.mha.base_layer.out_proj
    delta = 1.5 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    actual = ours["mha.out_proj.weight"] - model.mha.out_proj.weight
    torch.testing.assert_close(actual, 2 * delta, rtol=1e-4, atol=1e-6)


def test_dora_follows_its_formula_in_float64(tmp_path: Path) -> None:
    model = seeded(Mlp())
    options = {"r": 3, "lora_alpha": 5, "use_rslora": True, "use_dora": True, "target_modules": ["up", "embed_tokens"]}
    wrapped = saved_by_peft(model, tmp_path, **options)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    layer = wrapped.base_model.model.layers[1].up
    W, s = model.layers[1].up.weight.double(), 5 / math.sqrt(3)
    V = W + s * layer.lora_B.default.weight.double() @ layer.lora_A.default.weight.double()
    m = layer.lora_magnitude_vector.default.weight.double()
    expected = (m / V.norm(dim=1))[:, None] * V
    torch.testing.assert_close(ours["layers.1.up.weight"].double(), expected, rtol=1e-6, atol=1e-7)
    layer = wrapped.base_model.model.embed_tokens
    V = model.embed_tokens.weight.double() + s * (layer.lora_embedding_B.default @ layer.lora_embedding_A.default).T
    m = layer.lora_magnitude_vector.default.weight.double()
    torch.testing.assert_close(ours["embed_tokens.weight"].double(), m / V.norm(dim=0) * V, rtol=1e-6, atol=1e-7)


def test_a_merge_answers_like_the_model_that_was_trained(tmp_path: Path) -> None:
    model = seeded(Mlp())
    tokens = {"embed_tokens": [2]}
    options = {"target_modules": LINEARS, "modules_to_save": ["score"], "trainable_token_indices": tokens}
    wrapped = saved_by_peft(model, tmp_path, **options)
    with Adapter.open(tmp_path, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    merged = Mlp()
    merged.load_state_dict(ours)
    ids = torch.tensor([[1, 2, 3, 12, 2]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids), wrapped.eval()(ids), rtol=1e-4, atol=1e-6)
