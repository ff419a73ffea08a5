"""Adapter directories written by hand, and changed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ingot.adapters import Adapter

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def write_adapter(directory: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """An adapter directory; `base_model.model.` is put before each name, "LORA" is the type."""
    directory.mkdir(parents=True, exist_ok=True)
    text = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **config}
    (directory / "adapter_config.json").write_text(json.dumps(text))
    save_file({PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of a saved config; None of them may be removed with `...`."""
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / WEIGHTS)


def replace_tensors(directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS)


def opened(directory: Path, **options: Any) -> Adapter:
    """The adapter with its files closed again: for tests that read no factor."""
    with Adapter.open(directory, adapter_index=0, **options) as adapter:
        return adapter


def pair(path: str, r: int = 2, rows: int = 5, columns: int = 4) -> dict[str, torch.Tensor]:
    """A[r, columns] and B[rows, r] of a module."""
    generator = torch.Generator().manual_seed(len(path) + r)
    return {
        f"{path}.lora_A.weight": torch.randn(r, columns, generator=generator),
        f"{path}.lora_B.weight": torch.randn(rows, r, generator=generator),
    }
