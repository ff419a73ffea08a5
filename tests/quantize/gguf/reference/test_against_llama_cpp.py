"""llama.cpp, built from source, is asked again: the records are its answers, and ours to what no record holds."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from ingot.quantize.gguf import selftest
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.imatrix import read_imatrix
from ingot.quantize.gguf.mixtures import plan_types
from ingot.quantize.gguf.native import Refusal, open_library
from ingot.quantize.gguf.types import ggml_type
from tests.quantize.gguf.imatrix_files import gguf_file, legacy_file
from tests.quantize.gguf.models import MODELS
from tests.quantize.gguf.reference import bytes as bytes_record
from tests.quantize.gguf.reference import files, llama_cpp, plans
from tests.quantize.gguf.skeletons import MOE, SKELETONS, Skeleton

pytestmark = pytest.mark.slow

SMALL = Skeleton("llama", 8, 8, 2, n_expert=2, layer=MOE)


@pytest.mark.parametrize("name", SKELETONS)
def test_the_recorded_plans_are_its_answers(name: str, tmp_path: Path) -> None:
    answers = plans.answers(SKELETONS[name], tmp_path)
    found = {case: plans.REFUSED if types is None else plans.digest(types) for case, types in answers.items()}
    assert found == json.loads(plans.RECORD.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_what_is_not_quantized_keeps_the_type_of_the_source(source: str, tmp_path: Path) -> None:
    skeleton = SKELETONS["gpt2"]
    skeleton.write(tmp_path / "source", source)
    for file_type in ("F16", "BF16", "F32", "Q4_K_M"):
        assert llama_cpp.quantize(tmp_path / "source", tmp_path / "target", file_type, None)
        ours = plan_types(skeleton.model, skeleton.tensors(), file_type, source=source)
        assert list(llama_cpp.types_of(tmp_path / "target").items()) == list(ours.items())


@pytest.mark.parametrize("name", MODELS)
def test_the_recorded_files_are_its_answers(name: str, tmp_path: Path) -> None:
    llama_cpp.binaries()
    found = json.loads(json.dumps(files.answers(name, tmp_path)))
    assert found == json.loads(files.RECORD.read_text(encoding="utf-8"))[name]


def test_the_recorded_bytes_are_its_answers() -> None:
    assert bytes_record.record() == json.loads(bytes_record.RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", selftest.DIGESTS)
def test_the_digests_of_the_self_test_are_its_answers(name: str) -> None:
    for weighted, known in zip((False, True), selftest.DIGESTS[name], strict=True):
        if known is not None:
            quantizer = llama_cpp.ggml().quantizer(ggml_type(name))
            assert selftest.digest(quantizer.quantize, weighted=weighted) == known


def test_a_build_with_fused_multiply_add_is_refused() -> None:
    refused = open_library("fma", llama_cpp.ggml_with_fma())
    assert isinstance(refused, Refusal)
    assert "built with FMA" in refused.reason


def _legacy(path: Path, sums: dict[str, np.ndarray]) -> None:
    legacy_file(path, {name: (3, values.reshape(-1)) for name, values in sums.items()}, 4, "text")


def _gguf(path: Path, sums: dict[str, np.ndarray]) -> None:
    counts = {name: [7.0, 0.0][: len(values)] for name, values in sums.items()}
    gguf_file(path, sums, counts, datasets=["text"], chunks=4)


@pytest.mark.parametrize("write", [_legacy, _gguf])
@pytest.mark.parametrize("file_type", ["Q4_K_M", "IQ4_XS", "Q2_K_S", "Q5_0"])
def test_its_command_reads_an_importance_matrix_as_we_do(
    write: Callable[[Path, dict[str, np.ndarray]], None], file_type: str, tmp_path: Path
) -> None:
    source, target, imatrix = tmp_path / "source.gguf", tmp_path / "target.gguf", tmp_path / "imatrix"
    SMALL.write(source, "F32")
    random, shapes = np.random.default_rng(3), SMALL.tensors()
    write(imatrix, {name: random.gamma(0.5, size=(math.prod(shape[:-2]), shape[-1])).astype(np.float32)
                    for name, shape in shapes.items() if len(shape) > 1})  # fmt: skip
    command = [str(llama_cpp.binaries() / "llama-quantize"), "--imatrix", str(imatrix), str(source), str(target)]
    subprocess.run([*command, file_type, "1"], check=True, capture_output=True)
    ours = read_imatrix(imatrix)
    types = plan_types(SMALL.model, shapes, file_type, source="F32", importance=ours.values)
    values = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(source).tensors}
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    assert list(made) == list(types)
    for name, of in types.items():
        matrix = np.atleast_2d(values[name])
        experts = matrix.reshape(-1, *matrix.shape[-2:])
        importance = ours.of(name, len(experts), experts.shape[-1])
        given = [None] * len(experts) if importance is None else list(importance)
        quantizer = quantizer_for(of, weighted=True)
        coded = [quantizer.quantize(rows, weights) for rows, weights in zip(experts, given, strict=True)]
        assert made[name].tensor_type.name == of
        assert np.concatenate(coded).tobytes() == made[name].data.tobytes(), name
