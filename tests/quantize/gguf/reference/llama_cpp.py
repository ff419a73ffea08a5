"""A llama.cpp built from source: its converter, its llama-quantize and llama-imatrix, and its libraries by ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ingot.quantize.gguf.native import Library, declare
from ingot.quantize.gguf.types import file_type_id

#: Its sdist has llama.cpp at commit 0c1e57098.
SDIST = "llama-cpp-python==0.3.36"
COMMANDS = ("llama-quantize", "llama-imatrix")
TARGETS = ("ggml-base", "llama", *COMMANDS)
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "ON", "GGML_NATIVE": "OFF", "GGML_OPENMP": "OFF",
    "LLAMA_BUILD_COMMON": "ON", "LLAMA_BUILD_TOOLS": "ON", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_SERVER": "OFF", "LLAMA_CURL": "OFF", "LLAMA_OPENSSL": "OFF",
}  # fmt: skip


def home() -> Path:
    """The folder of sources (`src`) and build (`build`)."""
    given = os.environ.get("INGOT_LLAMA_CPP")
    return Path(given) if given else Path(__file__).parents[4] / ".llama-cpp"


def source() -> Path:
    """llama.cpp's own tree: convert_hf_to_gguf.py with its gguf-py."""
    return home() / "src" / "vendor" / "llama.cpp"


def binaries() -> Path:
    """The folder of the commands and the libraries; builds them where one is missing."""
    folder = home() / "build" / "bin"
    if not all((folder / name).exists() for name in COMMANDS):
        _build()
    return folder


def _build() -> None:
    home().mkdir(parents=True, exist_ok=True)
    if not source().exists():
        sdist = home() / "sdist"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*pip, SDIST, "-d", str(sdist)], check=True)
        (archive,) = sdist.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(home() / "unpacked", filter="data")
        next((home() / "unpacked").iterdir()).rename(home() / "src")
    _cmake(home() / "build", OPTIONS, TARGETS)


def _cmake(folder: Path, options: Mapping[str, str], targets: Sequence[str]) -> None:
    given = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(["cmake", "-S", str(source()), "-B", str(folder), *given], check=True)
    subprocess.run(["cmake", "--build", str(folder), "-j2", "--target", *targets], check=True)


@functools.cache
def ggml() -> Library:
    """Its libggml-base."""
    code = ctypes.CDLL(str(binaries() / "libggml-base.so"))
    declare(code)
    return Library("reference", code)


def ggml_with_fma() -> Path:
    """The same library for processors with fused multiply-add, which gcc then uses: its bytes are others."""
    path = home() / "build-fma" / "bin" / "libggml-base.so"
    if not path.exists():
        binaries()
        flags = {"CMAKE_C_FLAGS": "-march=haswell", "CMAKE_CXX_FLAGS": "-march=haswell"}
        _cmake(home() / "build-fma", {**OPTIONS, **flags}, ("ggml-base",))
    return path


class _Imatrix(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


class _Params(ctypes.Structure):
    """`llama_model_quantize_params` of include/llama.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, ctypes.c_bool) for name in (
            "allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run",
        )),
        ("imatrix", ctypes.POINTER(_Imatrix)),
        *((name, ctypes.c_void_p) for name in ("kv_overrides", "tt_overrides", "prune_layers")),
        ("max_buf_size", ctypes.c_size_t),
    )  # fmt: skip


@functools.cache
def _llama() -> Any:
    code = ctypes.CDLL(str(binaries() / "libllama.so"))
    code.llama_model_quantize_default_params.restype = _Params
    code.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
    code.llama_model_quantize.restype = ctypes.c_uint32
    code.llama_log_set(_SILENT, None)
    return code


_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def quantize(path: Path, target: Path, file_type: str, importance: Mapping[str, np.ndarray] | None) -> bool:
    """Run llama_model_quantize; False where it refuses."""
    params = _llama().llama_model_quantize_default_params()
    params.nthread, params.ftype = 1, file_type_id(file_type)
    if importance is not None:
        entries = (_Imatrix * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.name, entry.data, entry.size = name.encode(), data, values.size
        params.imatrix = entries
    return _llama().llama_model_quantize(bytes(path), bytes(target), ctypes.byref(params)) == 0


def types_of(path: Path) -> dict[str, str]:
    """Tensor name -> type, in file order."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
