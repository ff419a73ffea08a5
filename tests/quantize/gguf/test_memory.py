"""The memory that a plan states for a GGUF: never below what a run takes, and not far above it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.synthetic import Shape, make_adapter, make_base
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.quantize.gguf.bridge.converter import Described
from ingot.quantize.gguf.document import Document
from ingot.quantize.gguf.memory import memory_nbytes
from tests.quantize.gguf import models
from tests.quantize.gguf.reference import llama_cpp

#: Of what a run takes.
MOST = 1.5
#: Runs a command, and watches the resident bytes of it and of the processes that it starts; prints their largest sum.
WATCHER = """
import os, subprocess, sys, time

def tree(pid):
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in open(f"/proc/{pid}/task/{task}/children").read().split():
            found += tree(int(child))
    return found

def resident(pid):
    return int(open(f"/proc/{pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

process, peak = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL), 0
while process.poll() is None:
    try:
        peak = max(peak, sum(map(resident, tree(process.pid))))
    except (OSError, IndexError):
        pass
    time.sleep(0.005)
assert process.returncode == 0
print(peak)
"""


def tokenizer(base: Path, size: int) -> None:
    """The demo's tokenizer in `base`, grown to `size` tokens by merges of random ones."""
    raw = json.loads((models.TOKENIZER / "tokenizer.json").read_text())
    vocabulary, merges, pick = raw["model"]["vocab"], raw["model"]["merges"], random.Random(1)
    parts = [token for token in vocabulary if not token.startswith("<|")]
    while len(vocabulary) < size:
        one, other = pick.choice(parts), pick.choice(parts)
        if one + other not in vocabulary and len(one + other) < 15:
            vocabulary[one + other] = len(vocabulary)
            parts.append(one + other)
            merges.append([one, other])
    (base / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False))


def wide(root: Path) -> tuple[Path, Path]:
    """A Llama with a vocabulary as large as that of Llama 3."""
    shape = Shape(1024, 4096, 4, 16, 4, 64, 128256, tie_word_embeddings=True)
    make_base(shape, root / "base")
    make_adapter(shape, root / "adapter", 16)
    tokenizer(root / "base", 128000)
    return root / "base", root / "adapter"


def experts(root: Path) -> tuple[Path, Path]:
    """A Mixtral, whose names are asked of transformers, and whose experts are put together."""
    name, settings = "mixtral", {"hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 16}
    model_class, config_class, sizes = models.MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, (model_class, config_class, {**sizes, **settings, "num_local_experts": 8}))
        base = models.save_model(name, root / "base", torch.bfloat16)
    return base, models.save_adapter(name, base, root / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("make", [wide, experts])
@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize("jobs", [1, 4])
def test_a_run_takes_no_more_than_its_plan_states_and_not_much_less(
    make: Callable[[Path], tuple[Path, Path]], bridge: bool, jobs: int, tmp_path: Path
) -> None:
    base, adapter = make(tmp_path)
    options = ["--to", "gguf:Q4_K_M,gguf:Q8_0", "--jobs", str(jobs)]
    if bridge:
        llama_cpp.binaries()
        options += ["--llama-cpp", str(llama_cpp.source()), "--pre", "starcoder"]
    ingot = [sys.executable, "-m", "ingot"]
    planned = subprocess.run([*ingot, "plan", base, adapter, *options, "--json"], capture_output=True, check=True)
    stated = json.loads(planned.stdout.splitlines()[-1])["budget"]["peak_memory_nbytes"]
    merge = [*ingot, "merge", base, adapter, *options, "-o", tmp_path / "out", "--quiet"]
    watched = subprocess.run([sys.executable, "-c", WATCHER, *merge], capture_output=True, check=True)
    peak = int(watched.stdout)
    print(f"{make.__name__}: peak {peak / 1e6:.0f} MB, stated {stated / 1e6:.0f} MB")
    assert peak <= stated <= MOST * peak


@pytest.fixture
def document(tmp_path: Path) -> Document:
    base = models.save_model("llama", tmp_path / "base", torch.bfloat16)
    with prepare(str(base), [], Options(gguf=GgufOptions(("Q8_0",))), target=tmp_path / "out") as job:
        assert job.document is not None
        return job.document


def test_a_vocabulary_large_units_and_a_converter_are_counted(document: Document) -> None:
    plain = memory_nbytes(document, 2)
    assert 30 * len(document.formats[0].files[0].header) < plain < 10 << 20
    tall = replace(document, tensors=(GgufTensor("blk.0.attn_q.weight", (4096, 16384), heads=4),))
    assert memory_nbytes(tall, 2) - plain == 2 * 16 * (1024 * 16384 - (1 << 20)), "a head is never cut"
    stored = {tensor.name: "BF16" for tensor in document.tensors}
    described = Described("llama", (), document.tensors, stored)
    bridged = replace(document, converter=Checkout(Path(), "0" * 64), described=described)
    largest = 2048 * 256
    assert memory_nbytes(bridged, 2) - plain == (530 << 20) + max(8 * largest, 50 * _header(document)) + 4 * largest


def _header(document: Document) -> int:
    return len(document.formats[0].files[0].header)
