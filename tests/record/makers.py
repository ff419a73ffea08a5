"""A small base in two shards, a LoRA adapter, and their merge: planned by hand, executed by the engine.

The plan is made here and not by `ingot.plan`, so that these tests know every term of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ingot.adapters.factor import Factor
from ingot.adapters.terms import LowRank, Replace
from ingot.engine.outcome import FileDigest, Outcome, Output, Run
from ingot.engine.run import execute
from ingot.errors import BaseError, CheckFailed
from ingot.formats.safetensors import read_header
from ingot.plan.model import (
    AdapterInfo,
    BaseInfo,
    InputFileInfo,
    Op,
    Options,
    PlacedTerm,
    Plan,
    ShardPlan,
    SideFile,
)
from ingot.record import Depth, verify
from ingot.record.record import finish
from ingot.record.statement import seal
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import PosixDisk
from ingot.storage.inputs import InputFile

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = ("config.json", "tokenizer.json", "LICENSE")
HIDDEN, RANK = 48, 4
Inputs = dict[str, InputFile]


def write_base(folder: Path) -> None:
    """Norms and projections of two layers, F32, one layer a shard."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(7)
    weight_map: dict[str, str] = {}
    for layer, file in enumerate(SHARDS):
        tensors = {
            f"model.layers.{layer}.{name}": chance.normal(size=shape).astype(np.float32)
            for name, shape in [("norm.weight", (HIDDEN,)), ("up.weight", (32, HIDDEN)), ("down.weight", (HIDDEN, 32))]
        }
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    total = 4 * 2 * (HIDDEN + 2 * 32 * HIDDEN)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["TinyForCausalLM"], "hidden_size": HIDDEN}))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "LICENSE").write_text("Do as you please.\n")


def write_adapter(folder: Path, seed: int = 11) -> None:
    """LoRA on `up` of both layers, a zero one on `down` of the second, and a replaced norm."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    tensors = {"model.layers.0.norm.weight": chance.normal(size=HIDDEN)}
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.up.A"] = chance.normal(size=(RANK, HIDDEN))
        tensors[f"model.layers.{layer}.up.B"] = chance.normal(size=(32, RANK))
    tensors["model.layers.1.down.A"] = chance.normal(size=(RANK, 32))
    tensors["model.layers.1.down.B"] = np.zeros((HIDDEN, RANK))
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 8}))


@contextmanager
def opened(folder: Path) -> Iterator[Inputs]:
    """Every file of a folder."""
    files = {p.name: InputFile.open(folder, p.name, error=BaseError) for p in sorted(folder.iterdir()) if p.is_file()}
    try:
        yield files
    finally:
        for file in files.values():
            file.close()


def make_plan(base: Mapping[str, InputFile], adapter: Mapping[str, InputFile], /, **names: Any) -> Plan:
    """The plan of the merge. `names` replace fields of BaseInfo and AdapterInfo: base=..., adapter=..."""
    weights = read_header(adapter["adapter_model.safetensors"].fd, file="adapter_model.safetensors").by_name
    headers = {file: read_header(base[file].fd, file=file) for file in SHARDS}

    def op(name: str, ref: Any) -> Op:
        stem = name.removesuffix(".weight")
        view = (1, ref.shape[0]) if len(ref.shape) == 1 else ref.shape
        whole = ((0, view[0]), (0, view[1]))
        if f"{stem}.A" in weights:
            term = LowRank(Factor(0, weights[f"{stem}.B"]), Factor(0, weights[f"{stem}.A"]), 2.0)
            return Op(name, ref.dtype, ref.shape, ref, view, (PlacedTerm(term, *whole),))
        if name in weights:
            values = Factor(0, weights[name]).then("reshape", *view)
            return Op(name, ref.dtype, ref.shape, None, view, (PlacedTerm(Replace(values), *whole),))
        return Op(name, ref.dtype, ref.shape, ref, view)

    shards = tuple(
        ShardPlan(file, head, base[file].read(0, head.nbytes), tuple(op(r.name, r) for r in head.tensors), file)
        for file, head in headers.items()
    )
    infos = tuple(InputFileInfo(file, head.file_nbytes, head.sha256) for file, head in headers.items())
    base_info = BaseInfo("tiny-base", None, None, "TinyForCausalLM", base["config.json"].sha256(), infos)
    adapter_info = AdapterInfo(
        "support-lora", None, None, 1.0, "LoRA", (RANK,), (8.0,), "0.18.1", None, None,
        adapter["adapter_config.json"].sha256(), (), len(weights),
    )  # fmt: skip
    claims = {f"0:{name}": (_claimer(name),) for name in weights}
    return Plan(
        base=replace(base_info, **names.get("base", {})),
        adapters=(replace(adapter_info, **names.get("adapter", {})),),
        options=names.get("options", Options()),
        shards=shards,
        index_name=INDEX,
        side_files=tuple(SideFile(name, "base") for name in SMALL),
        config_changes={},
        claims=claims,
        explained={},
        dropped={},
    )


def _claimer(name: str) -> str:
    return name if name.endswith(".weight") else name.rsplit(".", 1)[0] + ".weight"


def merge(root: Path, out: Path, /, **names: Any) -> Outcome:
    """Merge root/base and root/adapter to `out`."""
    with opened(root / "base") as base, opened(root / "adapter") as adapter:
        run = Run(
            PosixDisk(), 1, "cpu", "0.1.0", threading.Event(), lambda _: None, memory=DigestMemory(root / "cache")
        )
        (outcome,) = execute([Output(make_plan(base, adapter, **names), out, finish)], base, [adapter], run)
        assert isinstance(outcome, Outcome)
        return outcome


def two_artifacts(root: Path) -> Path:
    """An artifact `out`, and one of another adapter, `other`, in a folder with their inputs; returns the folder."""
    write_base(root / "base")
    write_adapter(root / "adapter")
    merge(root, root / "out")
    (root / "adapter").rename(root / "first")
    write_adapter(root / "adapter", seed=5)
    merge(root, root / "other")
    return root


def copy_of(artifact: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(artifact, to)
    return to


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of(name: str, data: bytes) -> FileDigest:
    return FileDigest(name, len(data), hashlib.sha256(data).hexdigest())


def names(artifact: Path) -> list[str]:
    return sorted(path.name for path in artifact.iterdir())


def faults(path: Path, depth: Depth = Depth.READ) -> list[str]:
    """The details of what failed; proves that a failure also is exit 1."""
    found = verify(path, depth=depth)
    if found.ok:
        found.raise_failure()
        return []
    with pytest.raises(CheckFailed) as caught:
        found.raise_failure()
    assert caught.value.exit_code == 1
    return [check.detail for check in found.failures]


def resealed(copy: Path, change: Callable[[Any], None]) -> None:
    value = json.loads((copy / "ingot.json").read_bytes())
    change(value)
    (copy / "ingot.json").write_bytes(seal(value))


def rewritten(copy: Path, name: str, data: bytes) -> None:
    """Another content of a file, with a record that agrees: what is left to notice is the structure."""
    (copy / name).write_bytes(data)

    def change(value: Any) -> None:
        (entry,) = [subject for subject in value["subject"] if subject["name"] == name]
        entry["digest"]["sha256"], entry["annotations"]["size"] = sha256(copy / name), len(data)

    resealed(copy, change)
