"""Small adapters of each dialect, written by hand, and a base that they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file

from ingot.adapters import Adapter
from ingot.adapters.dialects import BaseFacts
from tests.reference.drawn import draw, draw_adapter

Tensors = dict[str, NDArray[Any]]
#: A component's folder as diffusers stores it: names alone, no class that transformers knows.
UNET = {
    "conv_in.weight": (4, 3, 3, 3), "conv_in.bias": (4,),
    "down_blocks.0.attentions.0.to_q.weight": (4, 4), "down_blocks.0.attentions.0.to_q.bias": (4,),
    "down_blocks.0.attentions.0.norm.weight": (4,),
    "down_blocks.0.resnets.0.conv1.weight": (6, 4, 3, 3),
}  # fmt: skip
TO_Q = "down_blocks.0.attentions.0.to_q"


def drawn(**shapes: Any) -> Tensors:
    """Tensors with values drawn from their names; write `__` for a dot."""
    return {name.replace("__", "."): draw_adapter(name, shape) for name, shape in shapes.items()}


def write(path: Path, tensors: Mapping[str, NDArray[Any]], config: object = None, **metadata: str) -> Path:
    """A file of tensors, with adapter_config.json beside it where `config` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, metadata or None)
    if config is not None:
        (path.parent / "adapter_config.json").write_text(json.dumps(config))
    return path


def write_base(directory: Path, shapes: Mapping[str, tuple[int, ...]] = UNET, **config: Any) -> Path:
    directory.mkdir(parents=True)
    tensors = {name: draw(name, shape) for name, shape in shapes.items()}
    save_file(tensors, directory / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **config}))
    return directory


def opened(path: Path, **options: Any) -> Adapter:
    """The adapter of a file, or of a folder, with its files closed again."""
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    with Adapter.open(folder, adapter_index=0, file=file, **options) as adapter:
        return adapter


def on(adapter: Adapter, *paths: str, component: str | None = None, **config: Any) -> Adapter:
    """The adapter on a base with modules of these paths."""
    return adapter.on(lambda: BaseFacts(paths, config), component)
