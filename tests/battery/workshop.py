"""Where an item works: a base, an adapter, what their merge must be, and how two artifacts are compared."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

import benchmarks.synthetic as synthetic
from ingot.cli import main
from ingot.engine import chunk
from ingot.engine.outcome import Outcome
from ingot.errors import IngotError
from ingot.merge import Job, prepare
from ingot.record import read_record
from ingot.storage import DigestMemory, Disk
from tests import toy

RECORD = "ingot.json"
#: A third of a small merge would be spent on parsing the metadata of libraries, thousands of times over.
_version = functools.cache(importlib.metadata.version)
#: Name of a file -> sha256; of the record its identity digest, which leaves out times and the run's own id.
Content = dict[str, str]


@dataclass(frozen=True)
class Workshop:
    """Folders of one item. Everything that is tried happens below `root`."""

    root: Path
    base: Path
    adapter: Path

    def prepare(self, out: Path, *, jobs: int = 1) -> Job:
        return prepare(str(self.base), [(str(self.adapter), 1.0)], target=out, jobs=jobs)

    def merge(self, out: Path, *, jobs: int = 1, disk: Disk | None = None, **how: Any) -> Outcome:
        """Merge in this process."""
        with mock.patch("importlib.metadata.version", _version), self.prepare(out, jobs=jobs) as job:
            return job.run(disk=disk, memory=DigestMemory(self.root / "cache"), **how)

    def command(self, out: Path, *options: str) -> list[str]:
        """The arguments of `ingot` that make the same."""
        return ["merge", str(self.base), str(self.adapter), "-o", str(out), "--quiet", *options]

    def reference(self) -> Content:
        """What the merge must be: made once, without any trouble."""
        out = self.root / "reference"
        if not out.exists():
            self.merge(out)
        content = content_of(out)
        assert content is not None
        return content

    def with_adapter(self, adapter: Path) -> Workshop:
        return replace(self, adapter=adapter)


def content_of(out: Path) -> Content | None:
    """All that a reader of `out` sees; None when it is not there. Raises IngotError when the record is not sealed."""
    if not out.exists():
        return None
    content = {p.name: _sha256(p) for p in out.iterdir() if p.name != RECORD}
    if (out / RECORD).exists():
        content[RECORD] = read_record((out / RECORD).read_bytes()).identity
    return content


def difference(out: Path, expected: Content, *, absent_is_well: bool = False) -> str | None:
    """Why `out` is not `expected`, file by file; None when it is."""
    try:
        found = content_of(out)
    except IngotError as error:
        return f"{out}: {error}"
    if found is None:
        return None if absent_is_well else f"{out} is not there"
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"{out} differs in {', '.join(names)}" if names else None


def leavings(out: Path) -> str | None:
    """What a run left beside `out`; None when nothing."""
    left = sorted(path.name for path in out.parent.glob(f".{out.name}.*"))
    return f"left behind: {', '.join(left)}" if left else None


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A directory for one try."""
    root.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=root))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def workshop(make: Any = None, **options: Any) -> Iterator[Workshop]:
    """A workshop that is gone afterwards; `make` lays out base and adapter, `toy_model` unless told."""
    root = Path(tempfile.mkdtemp(prefix="ingot-battery-"))
    shop = Workshop(root, root / "base", root / "adapter")
    try:
        (make or toy_model)(shop, **options)
        yield shop
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def chunks_of(nbytes: int) -> Iterator[None]:
    """Smaller chunks, so that a small shard has many."""
    before = chunk.CHUNK_NBYTES
    chunk.CHUNK_NBYTES = nbytes
    try:
        yield
    finally:
        chunk.CHUNK_NBYTES = before


def toy_model(shop: Workshop, dtype: torch.dtype = torch.bfloat16) -> None:
    """Three shards of awkward offsets: see tests/toy.py."""
    toy.make_base(shop.base, dtype)
    toy.make_adapter(shop.adapter)


def small_model(shop: Workshop, *, index: bool = False) -> None:
    """Two matrices and a norm, about 2 KB; with `index` in two shards."""
    chance = torch.Generator().manual_seed(3)
    first = {"m.up.weight": torch.randn(16, 12, generator=chance), "m.norm.weight": torch.ones(12)}
    second = {"m.down.weight": torch.randn(12, 16, generator=chance)}
    shop.base.mkdir(parents=True)
    (shop.base / "config.json").write_text(json.dumps({"architectures": ["ToyModel"], "model_type": "toy"}))
    if index:
        names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        for name, tensors in zip(names, (first, second), strict=True):
            save_file(tensors, shop.base / name, {"format": "pt"})
        weight_map = dict.fromkeys(first, names[0]) | dict.fromkeys(second, names[1])
        text = json.dumps({"metadata": {"total_size": 4 * 396}, "weight_map": weight_map})
        (shop.base / "model.safetensors.index.json").write_text(text)
    else:
        save_file(first | second, shop.base / "model.safetensors", {"format": "pt"})
    factors = {
        f"base_model.model.m.{path}.lora_{side}.weight": torch.randn(shape, generator=chance)
        for path, rows, columns in (("up", 16, 12), ("down", 12, 16))
        for side, shape in (("A", (2, columns)), ("B", (rows, 2)))
    }
    toy.write_adapter(shop.adapter, factors, {"r": 2, "lora_alpha": 4, "target_modules": ["up", "down"]})


def llama_model(shop: Workshop, *, hidden: int = 64, layers: int = 2, shard_nbytes: int = 60_000) -> None:
    """A Llama: its names are known without transformers, so that a process is quick to start."""
    shape = synthetic.Shape(hidden, 2 * hidden, layers, 4, 2, hidden // 4, 131, tie_word_embeddings=False)
    synthetic.SHARD_NBYTES = shard_nbytes
    synthetic.make_base(shape, shop.base)
    synthetic.make_adapter(shape, shop.adapter, 4)


def cli(*arguments: str) -> tuple[int, str, str]:
    """`ingot` in this process: exit code, stdout, stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main(arguments)
    return code, stdout.getvalue(), stderr.getvalue()


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over, in place; twice is never."""
    with path.open("r+b", buffering=0) as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
