"""The judges of an extraction: the tuned checkpoint itself, which PEFT's merge and ingot's must give back.

tuned       a copy of a tiny model whose weights were changed by code that knows nothing of ingot
extracted   `ingot extract` of the two
check       both merges against the tuned checkpoint; PEFT's list of keys against the file's
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from ingot.extract.model import Budget, Request
from ingot.extract.result import Extraction
from ingot.extract.run import extract
from tests.oracle.reference import assert_close, config_of, merged, on_disk, unheard
from tests.tiny_models import MODELS

#: Relative to each tensor's largest element.
TOLERANCE = 1e-5
RANK = 4


def save(model: Any, directory: Path) -> Path:
    with unheard():
        model.save_pretrained(directory)
    return directory


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    cls = getattr(transformers, config_of(directory)["architectures"][0])
    with unheard():
        return cls.from_pretrained(directory, dtype=dtype).eval()


def make(root: Path, name: str, change: Callable[[Any], None], dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """The directories of a tiny model and of the same, changed and then rounded to `dtype`."""
    base, tuned = MODELS[name]().to(dtype), MODELS[name]().to(dtype)
    exact = tuned.float()
    with torch.no_grad():
        change(exact)
    return save(base, root / "base"), save(exact.to(dtype), root / "tuned")


def low_rank(shape: torch.Size, rank: int, generator: torch.Generator, scale: float = 0.1) -> torch.Tensor:
    """A random matrix, or a stack of them, of this rank; a kernel as the matrix [out, in * kernel]."""
    rows = shape[-2] if len(shape) == 3 else shape[0]
    flat = (*shape[:-2], rows, shape[-1]) if len(shape) == 3 else (rows, shape.numel() // rows)
    left = torch.randn(*flat[:-1], rank, generator=generator)
    right = torch.randn(*flat[:-2], rank, flat[-1], generator=generator)
    return (scale * left @ right).reshape(shape)


def layers(model: nn.Module, *ends: str) -> Iterator[tuple[str, Any]]:
    """The Linear and Conv1D layers whose path ends so; all but the head where nothing is said."""
    for path, module in model.named_modules():
        named = path.endswith(ends) if ends else not path.endswith("lm_head")
        if type(module) in (nn.Linear, Conv1D) and named:
            yield path, module


def add_low_rank(model: nn.Module, *ends: str, rank: int = RANK, seed: int = 1) -> None:
    """A LoRA of this rank, merged by hand into `layers`."""
    generator = torch.Generator().manual_seed(seed)
    for _, module in layers(model, *ends):
        module.weight.add_(low_rank(module.weight.shape, rank, generator))


def shake(*parameters: torch.Tensor, seed: int = 2, scale: float = 0.1) -> None:
    """A change of full rank."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def extracted(
    base: Path, tuned: Path, *, rank: int | None = RANK, energy: float | None = None, **settings: Any
) -> Extraction:
    """Beside the two, in `adapter`."""
    budget = Budget.of(rank, energy, settings.pop("max_rank", None))
    return extract(Request(str(base), str(tuned), tuned.with_name("adapter"), budget, **settings))


def config(found: Extraction) -> dict[str, Any]:
    value = json.loads((found.target / "adapter_config.json").read_text())
    assert isinstance(value, dict)
    return value


def stored(found: Extraction) -> dict[str, torch.Tensor]:
    """The adapter's tensors, read by the safetensors library."""
    with safe_open(found.target / "adapter_model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def by_peft(base: Path, found: Extraction, prepare: Callable[[Any], None] = lambda _: None) -> Any:
    """PEFT's model with the adapter; every key of the file has its place, and no key is missing."""
    model = load(base)
    prepare(model)
    with unheard():
        wrapped = peft.PeftModel.from_pretrained(model, found.target)
        keys = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    copies = {name for name in keys if ".original_module." in name or ".modules_to_save." in name}  # with bias="all"
    assert keys.keys() - copies == stored(found).keys()
    for name, value in stored(found).items():
        assert torch.equal(keys[name], value.to(keys[name].dtype)), name
    return wrapped


def check(base: Path, tuned: Path, found: Extraction, tolerance: float = TOLERANCE, **peft_settings: Any) -> None:
    """Assert that both merges of the extracted adapter are TUNED: on disk, and in the memory of PEFT's."""
    ours = found.target.with_name("merged")
    merged(base, found.target, ours)
    assert_close(on_disk(ours), on_disk(tuned), tolerance)
    with unheard():
        whole = by_peft(base, found, **peft_settings).merge_and_unload()
    assert_close(whole.state_dict(), load(tuned).state_dict(), tolerance)
