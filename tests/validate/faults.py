"""Faults of a merged checkpoint, planted on purpose: each function copies a clean merge and makes one mistake in it.

A seed decides where and how, so that one clean merge gives fifty different faults of each kind. Written with
safetensors and torch alone, from the files of base and merge: nothing here knows how ingot merges or compares.

    delta_dropped       a module's update is not there
    scale_off           a module's update is multiplied by √r or 1/√r
    merged_twice        a module's update is there twice
    head_wrong          the head is not what the reference ties it to, or was not updated
    quantized           one layer's matrices went through 2 bits
    tokenizer_swapped   two entries of the vocabulary changed places
    template_lost       the chat template is gone, or another one
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

INDEX, HEAD = "model.safetensors.index.json", "lm_head.weight"
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_BLOCKS = (8, 16, 32)
_OTHER_TEMPLATE = "{% for message in messages %}SPEAKER: {{ message['content'] }}\n{% endfor %}"


@dataclass(frozen=True)
class Clean:
    """Three directories: a base, an adapter for it, and their merge."""

    base: Path
    adapter: Path
    merged: Path

    @cached_property
    def before(self) -> dict[str, torch.Tensor]:
        """The base's tensors; where the merge has parted head and embedding, the head is the embedding's."""
        found = tensors_of(self.base)
        return {HEAD: _embedding(found), **found} if HEAD in self.after else found

    @cached_property
    def after(self) -> dict[str, torch.Tensor]:
        return tensors_of(self.merged)

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Tensors with the base's shape and other values."""
        return tuple(name for name in self.before if name in self.after and self._differs(name))

    @property
    def rank(self) -> int:
        return int(json.loads((self.adapter / "adapter_config.json").read_text())["r"])

    def tensors(self, seed: int) -> tuple[str, ...]:
        """One changed tensor; where the seeds are more than the tensors, two: no two seeds give the same."""
        order = random.Random(0).sample(self.changed, len(self.changed))
        sets = [(one,) for one in order] + list(itertools.combinations(order, 2))
        return sets[seed % len(sets)]

    def _differs(self, name: str) -> bool:
        before, after = self.before[name], self.after[name]
        return before.shape == after.shape and not torch.equal(before.to(after.dtype), after)


@dataclass(frozen=True)
class Planted:
    """The faulty copy, the kind of the fault, and the tensors (or the file) in which it is."""

    path: Path
    kind: str
    where: tuple[str, ...]


Plant = Callable[[Clean, Path, int], Planted]


def delta_dropped(clean: Clean, target: Path, seed: int) -> Planted:
    """One layer's update is not there."""
    return _rescaled(clean, target, seed, "delta dropped", 0.0)


def scale_off(clean: Clean, target: Path, seed: int) -> Planted:
    """rsLoRA's scaling where plain LoRA's is meant, or the other way round."""
    root = math.sqrt(clean.rank)
    return _rescaled(clean, target, seed, "scale off by √r", root if seed % 2 else 1 / root)


def merged_twice(clean: Clean, target: Path, seed: int) -> Planted:
    """The merge was merged again."""
    return _rescaled(clean, target, seed, "merged twice", 2.0)


def head_wrong(clean: Clean, target: Path, seed: int) -> Planted:
    """The tie is wrong (seed 0), the head was not updated (seed 1, where the adapter changes it), or its rows moved."""
    _copy(clean.merged, target)
    own = HEAD in clean.after
    if seed == 0:
        rewrite(target, {HEAD: None} if own else {})
        _configure(target, tie_word_embeddings=own)
    elif seed == 1 and HEAD in clean.changed:
        rewrite(target, {HEAD: clean.before[HEAD].to(clean.after[HEAD])})
    else:
        rewrite(target, {HEAD: (clean.after[HEAD] if own else _embedding(clean.after)).roll(seed, dims=0)})
        _configure(target, tie_word_embeddings=False)
    return Planted(target, "head wrong", (HEAD,))


def quantized(clean: Clean, target: Path, seed: int) -> Planted:
    """The matrices of one layer, rounded to four levels in each block of a row, and stored as what that decodes to.

    After every layer and block size, one matrix is left out, as mixed formats do.
    """
    _copy(clean.merged, target)
    layers: dict[str, list[str]] = {}
    for name in clean.changed:
        found = _LAYER.search(name)
        if found and clean.after[name].ndim == 2:
            layers.setdefault(found[1], []).append(name)
    names = list(layers.values())[seed % len(layers)]
    turn = seed // len(layers)
    if turn >= len(_BLOCKS):
        names = [name for at, name in enumerate(names) if at != turn // len(_BLOCKS) % len(names)]
    block = _BLOCKS[turn % len(_BLOCKS)]
    rewrite(target, {name: two_bits(clean.after[name], block) for name in names})
    return Planted(target, "2 bits", tuple(names))


def tokenizer_swapped(clean: Clean, target: Path, seed: int) -> Planted:
    """Two ordinary entries of the vocabulary have each other's id."""
    _copy(clean.merged, target)
    path = target / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer.get("added_tokens", ())}
    one, other = random.Random(seed).sample(sorted(token for token in vocabulary if token not in special), 2)
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return Planted(target, "tokenizer swapped", (one, other))


def template_lost(clean: Clean, target: Path, seed: int) -> Planted:
    """No chat template any more, or another one in its place, with the seed's own words in it."""
    _copy(clean.merged, target)
    template = target / "chat_template.jinja"
    template.unlink(missing_ok=True)
    if seed:
        template.write_text(_OTHER_TEMPLATE.replace("SPEAKER", f"Speaker {seed}"), encoding="utf-8")
    config = target / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings), encoding="utf-8")
    return Planted(target, "chat template lost", (template.name,))


#: What a comparison of weights must find, and what only tokens and answers show.
IN_WEIGHTS: tuple[Plant, ...] = (delta_dropped, scale_off, merged_twice, head_wrong, quantized)
BESIDE_WEIGHTS: tuple[Plant, ...] = (tokenizer_swapped, template_lost)


def two_bits(matrix: torch.Tensor, block: int) -> torch.Tensor:
    """Each block of a row to the four levels -2, -1, 0, 1 of its own scale, and back, in the matrix's dtype."""
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix.double(), (0, -columns % block)).view(rows, -1, block)
    scale = padded.abs().amax(dim=2, keepdim=True).clamp_min(1e-30) / 2
    levels = (padded / scale).round().clamp(-2, 1)
    return (levels * scale).view(rows, -1)[:, :columns].to(matrix.dtype).contiguous()


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by name."""
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def rewrite(directory: Path, changes: Mapping[str, torch.Tensor | None]) -> None:
    """Put tensors in the place of those of their names; None takes one out, a new name goes into the last file."""
    files = sorted(directory.glob("*.safetensors"))
    left = dict(changes)
    for file in files:
        with safe_open(file, "pt") as opened:
            metadata, held = opened.metadata(), set(opened.keys())
        mine = {name: left.pop(name) for name in list(left) if name in held}
        if file == files[-1]:
            mine |= left
        if mine:
            tensors = {**load_file(file), **mine}
            save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, metadata)
    _index_again(directory, files)


def _index_again(directory: Path, files: list[Path]) -> None:
    if (directory / INDEX).exists():
        weight_map, total = {}, 0
        for file in files:
            for name, tensor in load_file(file).items():
                weight_map[name], total = file.name, total + tensor.nbytes
        (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))


def _rescaled(clean: Clean, target: Path, seed: int, kind: str, scale: float) -> Planted:
    _copy(clean.merged, target)
    names = clean.tensors(seed)
    rewrite(target, {name: _scaled(clean.before[name], clean.after[name], scale) for name in names})
    return Planted(target, kind, names)


def _scaled(before: torch.Tensor, after: torch.Tensor, scale: float) -> torch.Tensor:
    return (before.double() + scale * (after.double() - before.double())).to(after.dtype)


def _embedding(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    (name,) = [name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight"))]
    return tensors[name]


def _configure(directory: Path, **settings: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def _copy(merged: Path, target: Path) -> None:
    shutil.copytree(merged, target, ignore=shutil.ignore_patterns("ingot.json"))
