"""`ingot imatrix` against llama.cpp's llama-imatrix, on the same tokens in the same chunks.

llama-imatrix cuts one text after every CHUNK tokens. The text is made of words that are one token each, and the samples
of `ingot imatrix` are its chunks.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ingot.imatrix import compute_imatrix
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf.imatrix import ImportanceMatrix, read_imatrix
from tests.quantize.gguf.models import save_model
from tests.quantize.gguf.reference import llama_cpp

pytestmark = pytest.mark.slow

#: llama.cpp leaves out batches of less than 16 tokens.
CHUNK, CHUNKS = 32, 4
#: Both add up in float32, in orders of their own.
EXACT = 1e-5


def chunks_of(model: Path) -> list[list[str]]:
    """Words that are one token each with the space before them, CHUNK of them at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokens = (token for token in sorted(tokenizer.get_vocab()) if token.startswith("\u0120"))
    known = [token[1:] for token in tokens if token[1:].isascii() and token[1:].isalpha()]
    picked = np.random.RandomState(3).randint(0, len(known), (CHUNKS, CHUNK))
    chunks = [[known[number] for number in row] for row in picked]
    for row in [*chunks, [word for words in chunks for word in words]]:
        assert len(tokenizer(" " + " ".join(row))["input_ids"]) == len(row), "nothing is put around a text here"
    return chunks


def ours(model: Path, chunks: list[list[str]], folder: Path) -> ImportanceMatrix:
    lines = [json.dumps({"prompt": " " + " ".join(words[:-1]), "expected": words[-1]}) for words in chunks]
    (folder / "samples.jsonl").write_text("\n".join(lines))
    found = compute_imatrix(str(model), [str(folder / "samples.jsonl")], folder / "ours.gguf", chat=False)
    assert found.tokens == CHUNK * CHUNKS
    return read_imatrix(found.path)


def theirs(model: Path, chunks: list[list[str]], folder: Path) -> ImportanceMatrix:
    with prepare(str(model), [], Options(gguf=GgufOptions(("F32",))), target=folder / "made") as job:
        job.run()
    (file,) = (folder / "made").glob("*.gguf")
    (folder / "text.txt").write_text("".join(f" {word}" for words in chunks for word in words))
    target = folder / "theirs.gguf"
    command = [
        str(llama_cpp.binaries() / "llama-imatrix"), "-m", str(file), "-f", str(folder / "text.txt"), "-o", str(target),
        "-c", str(CHUNK), "-b", str(CHUNK), "--no-ppl", "-t", "1", "-ngl", "0", "-fa", "off", "-ctk", "f32",
        "-ctv", "f32",
    ]  # fmt: skip
    environment = {**os.environ, "LD_LIBRARY_PATH": str(llama_cpp.binaries())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return read_imatrix(target)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_every_importance_is_that_of_its_command(name: str, tmp_path: Path) -> None:
    model = save_model(name, tmp_path / "base", torch.float32)
    chunks = chunks_of(model)
    found, expected = ours(model, chunks, tmp_path), theirs(model, chunks, tmp_path)
    assert found.chunks == expected.chunks == CHUNKS
    routers = {tensor for tensor in expected.values if tensor.endswith("ffn_gate_inp.weight")}
    assert set(found.values) == set(expected.values) - routers, "a router is not quantized, so we leave it out"
    assert len(found.values) == 2 * 7
    for tensor, values in found.values.items():
        np.testing.assert_allclose(values, expected.values[tensor], rtol=EXACT, err_msg=tensor)
