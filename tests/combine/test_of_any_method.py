"""Adapters of other methods than LoRA, combined: each one's delta is what its own merge changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from ingot.plan.model import Options
from tests.adapters.methods.judge import Judge
from tests.combine import reference
from tests.oracle.reference import assert_close, merged, on_disk

LAYERS = ["q_proj", "down_proj"]
#: What reads nothing of W, rows of it, all of it, or what stands beside it; and what a disk holds transposed.
CONFIGS: dict[str, tuple[str, Callable[[], peft.PeftConfig]]] = {
    "llama, IA3": ("llama", lambda: peft.IA3Config(target_modules=LAYERS, feedforward_modules=["down_proj"])),
    "llama, OFT": ("llama", lambda: peft.OFTConfig(oft_block_size=4, target_modules=LAYERS)),
    "llama, HRA": ("llama", lambda: peft.HRAConfig(r=4, target_modules=LAYERS)),
    "llama, PiSSA": (
        "llama", lambda: peft.LoraConfig(r=2, lora_alpha=2, target_modules=LAYERS, init_lora_weights="pissa")
    ),
    "llama, bias": ("llama_bias", lambda: peft.GloraConfig(r=3, target_modules=LAYERS)),
    "llama, clusters": ("llama_bias", lambda: peft.AdamssConfig(r=6, num_subspaces=3, target_modules=LAYERS)),
    "gpt2, DoRA": (
        "gpt2",
        lambda: peft.LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tmp_path_factory.mktemp("combined"))


@pytest.mark.parametrize("name", CONFIGS)
def test_whatever_changes_a_weight_is_combined_with_a_lora(name: str, judge: Judge, tmp_path: Path) -> None:
    model, config = CONFIGS[name]
    base, one = judge.base(model), judge.adapter(model, config(), name.replace(", ", "-"))
    targets = ["c_attn"] if model == "gpt2" else LAYERS
    two = judge.adapter(model, peft.LoraConfig(r=3, target_modules=targets), f"{name.replace(', ', '-')}-lora")
    merged(base, one, tmp_path / "one")
    merged(base, two, tmp_path / "two")
    before, alone = on_disk(base), [on_disk(tmp_path / "one"), on_disk(tmp_path / "two")]
    weights = (0.75, -0.5)
    for method in ("linear", "dare_linear", "sequential"):
        out = tmp_path / method
        merged(base, list(zip((one, two), weights, strict=True)), out, Options(method=method, seed=3))
        expected = dict(before)
        if method == "sequential":
            merged(base, [(one, weights[0])], tmp_path / "half")
            merged(tmp_path / "half", [(two, weights[1])], tmp_path / "after")
            expected = on_disk(tmp_path / "after")
        else:
            for key, weight in before.items():
                shape = (weight.numel() // weight.shape[-1], weight.shape[-1])
                deltas = [(other[key].double() - weight.double()).numpy().reshape(shape) for other in alone]
                chances = [reference.draws(3, key, number, shape) for number in range(2)]
                change = reference.combined(method, deltas, weights, chances=chances)
                expected[key] = weight.double() + torch.from_numpy(change).view(weight.shape)
        assert_close(on_disk(out), expected, 1e-5)
        assert any(not torch.equal(on_disk(out)[key], alone[0][key]) for key in before)
