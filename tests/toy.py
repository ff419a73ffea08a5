"""A small checkpoint with everything that makes byte ranges awkward, and adapters for it. No model class knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

#: Module path -> weight[out, in]; "odd" tensors between them move the offsets off every alignment.
MODULES = {
    "block.0.up": (96, 64),
    "block.0.down": (64, 96),
    "block.1.up": (300, 70),
    "block.1.down": (70, 301),
}


def make_base(
    target: Path, dtype: torch.dtype = torch.bfloat16, *, seed: int = 0, index: bool = True
) -> dict[str, torch.Tensor]:
    """Three shards (or one file), with bytes, a scalar, an empty tensor and integers among the weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{path}.weight": (torch.randn(*s, generator=generator) * 0.05).to(dtype) for path, s in MODULES.items()}
    shards = [
        {"a.flags": torch.tensor([1, 2, 3], dtype=torch.uint8), "block.0.up.weight": weights["block.0.up.weight"]},
        {
            "block.0.down.weight": weights["block.0.down.weight"],
            "block.1.up.weight": weights["block.1.up.weight"],
            "scale": torch.tensor(0.5, dtype=dtype),
            "nothing": torch.empty(0, 4, dtype=dtype),
        },
        {
            "block.1.down.weight": weights["block.1.down.weight"],
            "norm.weight": torch.ones(70, dtype=dtype),
            "block.0.up.bias": torch.zeros(96, dtype=dtype),
            "positions": torch.arange(7),
        },
    ]
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps({"architectures": ["ToyModel"], "model_type": "toy"}))
    (target / "generation_config.json").write_text("{}")
    (target / "tokenizer.json").write_text('{"of": "the base"}')
    tensors = {name: tensor for shard in shards for name, tensor in shard.items()}
    if not index:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return tensors
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-00003.safetensors"
        save_file(shard, target / name, {"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    return tensors


def make_adapter(
    target: Path, *, rank: int = 4, seed: int = 1, scale: float = 0.05, **config: object
) -> dict[str, torch.Tensor]:
    """A LoRA on every module; returns its tensors by their name in the file."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (out, inner) in MODULES.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, inner, generator=generator) * scale
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * scale
    write_adapter(target, tensors, {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["up", "down"], **config})
    return tensors


def write_adapter(target: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> None:
    """Save an adapter as PEFT would."""
    target.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), target / "adapter_model.safetensors", {"format": "pt"})
    whole = {"peft_type": "LORA", "peft_version": "0.21.2", "bias": "none", **config}
    (target / "adapter_config.json").write_text(json.dumps(whole))


def merged(
    base: Mapping[str, torch.Tensor], adapter: Mapping[str, torch.Tensor], scaling: float = 2.0
) -> dict[str, torch.Tensor]:
    """What the merge must be, in float64: W + s * B @ A."""
    result = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in base.items()}
    for path in MODULES:
        a, b = (adapter[f"base_model.model.{path}.lora_{side}.weight"].double() for side in "AB")
        result[f"{path}.weight"] = result[f"{path}.weight"] + scaling * (b @ a)
    return result
