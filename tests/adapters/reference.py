"""What PEFT makes of an adapter, and what our edits make of it, from the same toy model.

PEFT trains nothing here: it puts its layers on a model, every trainable tensor gets random values, it saves the
adapter, and it merges. Our side sees only the saved directory and the shapes of the base model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ingot.adapters import Adapter, Factor, Module, ModuleKind, load_tensor

TILE_ROWS = 3
KINDS: tuple[tuple[type[nn.Module], ModuleKind], ...] = (
    (nn.MultiheadAttention, ModuleKind.MULTIHEAD),
    (nn.Embedding, ModuleKind.EMBEDDING),
    (nn.modules.conv._ConvNd, ModuleKind.CONV),
    (Conv1D, ModuleKind.CONV1D),
    (nn.Linear, ModuleKind.LINEAR),
)


def describe(model: nn.Module) -> dict[str, Module]:
    """The modules of a torch model as `naming` would describe them."""
    return {path: _module(path, module) for path, module in model.named_modules()}


def _module(path: str, module: nn.Module) -> Module:
    recurse = isinstance(module, nn.MultiheadAttention)
    parameters = dict(module.named_parameters(recurse=recurse))
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    stacked = any(len(shape) == 3 for shape in shapes.values())
    other = ModuleKind.EXPERTS if stacked else ModuleKind.OTHER
    dtypes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    return Module(
        path,
        next((kind for cls, kind in KINDS if isinstance(module, cls)), other),
        shapes,
        groups=getattr(module, "groups", 1),
        transposed_experts=getattr(module, "is_transposed", False),
        class_name=type(module).__name__,
        dtypes={name: dtypes[p.dtype] for name, p in parameters.items()},
    )


def randomize(model: nn.Module, seed: int) -> None:
    """Random values in every tensor that the adapter trains; magnitudes stay positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.data = (values.abs() + 0.5 if "magnitude" in name else values).to(parameter.dtype)


def saved_by_peft(model: nn.Module, directory: Path, *, seed: int = 0, **options: Any) -> nn.Module:
    """Save a random adapter for a copy of `model`; returns the copy with PEFT's layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **options}))
        randomize(wrapped, seed)
        wrapped.save_pretrained(directory)
    return wrapped


def merged_by_peft(model: nn.Module, directory: Path) -> dict[str, torch.Tensor]:
    """The state dict after PEFT loads the saved adapter on a fresh copy of the base and merges it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = peft.PeftModel.from_pretrained(copy.deepcopy(model), directory).merge_and_unload()
    return {name: tensor.detach().float() for name, tensor in merged.state_dict().items()}


def merged_by_us(
    model: nn.Module, adapter: Adapter, modules: Mapping[str, Module] | None = None
) -> dict[str, torch.Tensor]:
    """The state dict after our edits, in float32, three rows at a time."""
    modules = modules or describe(model)
    state = {name: tensor.detach().float().clone() for name, tensor in model.state_dict().items()}
    for update in adapter.updates:
        module = modules[update.path]
        for edit in update.edits(module):
            name = f"{update.path}.{edit.parameter}".lstrip(".")
            if edit.resizes:
                state[name] = resized(state[name], edit.term.shape)
                view = (1, *edit.term.shape)
            else:
                view = module.view(edit.parameter)
                assert edit.term.shape == view[1:]
            matrix = state[name].view(view)[edit.index]
            _apply(edit.term, matrix, adapter)
    return state


def resized(tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return tensor if tuple(tensor.shape) == shape else torch.full(shape, torch.nan)


def _apply(term: object, matrix: torch.Tensor, adapter: Adapter) -> None:
    original = matrix.clone()

    def load(factor: Factor) -> torch.Tensor:
        return factor.of(load_tensor(adapter.weights, factor.ref))

    def tiles() -> Iterator[tuple[int, torch.Tensor]]:
        for row in range(0, len(original), TILE_ROWS):
            yield row, original[row : row + TILE_ROWS].clone()

    change = term.prepare(load, tiles)
    for row in range(0, len(matrix), TILE_ROWS):
        change(matrix[row : row + TILE_ROWS], row)


def differences(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest element."""
    assert ours.keys() == theirs.keys()
    result = {}
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        scale = max(expected.abs().max().item(), 1e-30) if expected.numel() else 1.0
        result[name] = (ours[name].double() - expected.double()).abs().max().item() / scale
    return result


def changed(model: nn.Module, merged: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that a merge changed."""
    before = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    return {
        name for name, tensor in merged.items()
        if tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }  # fmt: skip
