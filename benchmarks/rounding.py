"""Which share of a merged checkpoint's elements is not the float64 result rounded once?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.synthetic import Shape


def differing_share(shape: Shape, base: Path, adapter: Path, merged: Path, layers: int) -> tuple[float, int]:
    """(share, elements looked at) over all projections of the first `layers` layers; scaling is alpha / r = 2."""
    wrong = total = 0
    with safe_open(adapter / "adapter_model.safetensors", "pt") as factors:
        for layer in range(layers):
            for path in shape.projections:
                name = f"model.layers.{layer}.{path}.weight"
                at = f"base_model.model.{name.removesuffix('.weight')}"
                a = factors.get_tensor(f"{at}.lora_A.weight").double()  # A[r, in]
                b = factors.get_tensor(f"{at}.lora_B.weight").double()  # B[out, r]
                exact = (_tensor(base, name).double() + 2.0 * (b @ a)).to(torch.bfloat16)
                wrong += int((_tensor(merged, name) != exact).sum())
                total += exact.numel()
    return wrong / total, total


def _tensor(directory: Path, name: str) -> torch.Tensor:
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if name in _keys(file, path):
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(name)


_KEYS: dict[Path, frozenset[str]] = {}


def _keys(file: Mapping[str, object], path: Path) -> frozenset[str]:
    if path not in _KEYS:
        _KEYS[path] = frozenset(file.keys())
    return _KEYS[path]
