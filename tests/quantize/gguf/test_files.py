"""Whole files, made in one pass, against what llama.cpp makes in three steps (recorded in `reference.files`)."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.merge import Job, prepare
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.run import digest_of
from ingot.record import verify
from tests.quantize.gguf.models import MODELS, save_adapter, save_model
from tests.quantize.gguf.reference.files import FILE_TYPES, RECORD, WEIGHTED, digests, shapes_of, write_imatrix

RECORDED: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))


def make(base: Path, adapter: Path, target: Path, options: GgufOptions, imatrix: Path | None = None) -> None:
    with prepare(str(base), [(str(adapter), 1.0)], Options(gguf=options), target=target, imatrix=imatrix) as job:
        job.run()


#: Where the keys differ, and why.
DIFFERING = {
    # transformers gives a Qwen tokenizer a token that its tokenizer.json lacks; llama.cpp's converter asks it
    "qwen2": {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"},
    # the converter leaves the rotary base to a default, whatever the config says; its token 107 is that of CodeGemma
    "gemma": {"gemma.rope.freq_base", "tokenizer.ggml.eot_token_id"},
    "gemma2": {"gemma2.rope.freq_base"},
}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], *, but: Collection[str] = ()) -> None:
    differing_keys = {key for key in ours["keys"].keys() | theirs["keys"].keys()
                      if ours["keys"].get(key) != theirs["keys"].get(key)}  # fmt: skip
    assert differing_keys <= set(but), {key: (ours["keys"].get(key), theirs["keys"].get(key)) for key in differing_keys}
    differing = {name: (ours["tensors"].get(name), found) for name, found in theirs["tensors"].items()
                 if ours["tensors"].get(name) != found}  # fmt: skip
    assert differing == {}
    assert list(ours["tensors"]) == list(theirs["tensors"])


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_one_pass_is_that_of_llama_cpps_three_steps(name: str, tmp_path: Path) -> None:
    base = save_model(name, tmp_path / "base", torch.bfloat16)
    adapter = save_adapter(name, base, tmp_path / "adapter")
    make(base, adapter, tmp_path / "made", GgufOptions(FILE_TYPES))
    for file_type in FILE_TYPES:
        (file,) = (tmp_path / "made").glob(f"*-{file_type}.gguf")
        assert_same(digests(file), RECORDED[name][file_type], but=DIFFERING.get(name, ()))


@pytest.mark.parametrize("name", WEIGHTED)
def test_an_importance_matrix_gives_the_bytes_of_llama_quantize(name: str, tmp_path: Path) -> None:
    base = save_model(name, tmp_path / "base", torch.bfloat16)
    adapter = save_adapter(name, base, tmp_path / "adapter")
    with prepare(str(base), [(str(adapter), 1.0)], Options(gguf=GgufOptions(("BF16",))), target=tmp_path / "w") as job:
        imatrix = write_imatrix(_shapes(job), tmp_path / "imatrix.gguf")
    options = GgufOptions(WEIGHTED[name], imatrix_sha256=digest_of(imatrix))
    make(base, adapter, tmp_path / "made", options, imatrix)
    for file_type in WEIGHTED[name]:
        (file,) = (tmp_path / "made").glob(f"*-{file_type}.gguf")
        assert_same(digests(file), RECORDED[name][f"{file_type} weighted"])
    found = verify(tmp_path / "made", depth="against-inputs", base=str(base), adapters=[str(adapter)], imatrix=imatrix)
    assert found.ok, found.verdict


def _shapes(job: Job) -> dict[str, tuple[int, ...]]:
    assert job.document is not None
    return {tensor.name: tensor.shape for tensor in job.document.tensors}


def test_files_of_a_split_hold_the_tensors_of_the_whole(tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, tmp_path / "adapter")
    make(base, adapter, tmp_path / "split", GgufOptions(("Q4_K_M",), split_nbytes=500_000))
    files = sorted((tmp_path / "split").glob("*.gguf"))
    assert all(file.stem.endswith(f"-{n:05d}-of-{len(files):05d}") for n, file in enumerate(files, 1))
    assert len(files) > 2
    tensors = {name: found for file in files for name, found in digests(file)["tensors"].items()}
    assert tensors == RECORDED["llama"]["Q4_K_M"]["tensors"]
    assert sum(len(shapes_of(file)) for file in files) == len(tensors)
    assert verify(tmp_path / "split", depth="read").ok
