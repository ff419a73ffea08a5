"""Quantized checkpoints on disk, and what ingot shows of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import Location
from ingot.checkpoint.quantized.encoded import Encoded
from ingot.checkpoint.reading import DenseReader
from ingot.kernels.dtypes import TORCH_DTYPE, as_tensor

Tensors = Mapping[str, torch.Tensor]


def write(
    target: Path, tensors: Tensors, quantization: object, dtype: str | None = "bfloat16", shards: int = 1
) -> Path:
    """A model directory with these tensors, dealt to `shards` files by turns; no model class knows it."""
    target.mkdir(parents=True, exist_ok=True)
    config: dict[str, object] = {"architectures": ["ToyModel"], "model_type": "toy"}
    config |= {"dtype": dtype} if dtype else {}
    config |= {"quantization_config": quantization} if quantization else {}
    (target / "config.json").write_text(json.dumps(config))
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    if shards == 1:
        save_file(whole, target / "model.safetensors", {"format": "pt"})
        return target
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(whole.items())[number::shards])
        save_file(part, target / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


def shown(folder: Path, *, pieces: int = 7) -> dict[str, torch.Tensor]:
    """The encoded tensors of a checkpoint, decoded whole; each is decoded a second time in pieces of any boundaries."""
    checkpoint = Checkpoint.open(Location(folder, folder.name))
    try:
        reader = DenseReader(checkpoint.inputs)
        found = {}
        for source in checkpoint.tensors.values():
            if isinstance(source, Encoded):
                whole = bytes(reader(source, 0, source.numel))
                step = max(1, source.numel // pieces + 3)
                cut = [reader(source, at, min(at + step, source.numel)) for at in range(0, source.numel, step)]
                assert b"".join(map(bytes, cut)) == whole, "decoding depends on where it is cut"
                assert TORCH_DTYPE[source.dtype].itemsize * source.numel == len(whole)
                found[source.name] = as_tensor(memoryview(bytearray(whole)), source.dtype, source.shape)
        return found
    finally:
        checkpoint.close()
