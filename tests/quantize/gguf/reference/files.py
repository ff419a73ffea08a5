"""What llama.cpp makes of base and adapter by the long way: PEFT's merge, its converter, its llama-quantize.

Of every small model of `models`: a digest of each tensor's bytes, and of the keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tests.oracle.reference import unheard
from tests.quantize.gguf.imatrix_files import gguf_file
from tests.quantize.gguf.models import FILES, MODELS, save_adapter, save_model
from tests.quantize.gguf.reference import llama_cpp

RECORD = Path(__file__).with_name("files.json")
FILE_TYPES = ("F16", "BF16", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K")
#: Types that are also made with an importance matrix, of two models.
WEIGHTED = {"llama": ("Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS", "IQ3_XXS"), "mixtral": ("Q4_K_M", "IQ4_XS")}
#: Keys that tell who made the file, of what, and when: ours says more.
WHO = ("general.name", "general.basename", "general.finetune", "general.size_label", "general.base_model",
       "general.quantized_by", "general.version", "quantize.imatrix.file", "ingot.", "GGUF.", "split.")  # fmt: skip
#: The converter leaves these out where llama.cpp's default is meant; ours always says so.
SAID_ALWAYS = ("tokenizer.ggml.add_bos_token",)
#: Runs the converter with a name for the pre-tokenizer, which it knows by hashes of well-known vocabularies only.
CONVERT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import convert_hf_to_gguf
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "starcoder"
sys.argv = ["convert", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""


def record(folder: Path) -> dict[str, dict[str, Any]]:
    """Model -> case -> digests."""
    return {name: answers(name, folder / name) for name in MODELS}


def write(recorded: Mapping[str, Mapping[str, Any]]) -> None:
    """The record, a case a line."""
    models = []
    for name, cases in recorded.items():
        lines = (f" {json.dumps(case)}: {json.dumps(found, separators=(',', ':'))}" for case, found in cases.items())
        models.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    RECORD.write_text("{\n" + ",\n".join(models) + "\n}\n", encoding="utf-8")


def answers(name: str, folder: Path) -> dict[str, Any]:
    """Case -> digests, of one model."""
    base = save_model(name, folder / "base", torch.bfloat16)
    merged = _merged(base, save_adapter(name, base, folder / "adapter"), folder / "merged")
    whole = folder / "whole.gguf"
    convert(merged, whole)
    found = {}
    for file_type in FILE_TYPES:
        found[file_type] = digests(_quantized(whole, folder / f"{file_type}.gguf", file_type, None))
    for file_type in WEIGHTED.get(name, ()):
        imatrix = write_imatrix(shapes_of(whole), folder / "imatrix.gguf")
        made = _quantized(whole, folder / f"{file_type}-weighted.gguf", file_type, imatrix)
        found[f"{file_type} weighted"] = digests(made)
    return found


def convert(model: Path, target: Path) -> None:
    """llama.cpp's convert_hf_to_gguf.py, with its default output type."""
    arguments = [sys.executable, "-c", CONVERT, str(llama_cpp.source()), str(model), "--outfile", str(target)]
    subprocess.run(arguments, check=True, capture_output=True)


def _merged(base: Path, adapter: Path, target: Path) -> Path:
    import peft
    import transformers

    with unheard():
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(target)
    for file in (*FILES, "tokenizer.model", "config.json"):
        if (base / file).exists():
            (target / file).write_bytes((base / file).read_bytes())
    return target


def _quantized(whole: Path, target: Path, file_type: str, imatrix: Path | None) -> Path:
    options = ["--imatrix", str(imatrix)] if imatrix else []
    command = [str(llama_cpp.binaries() / "llama-quantize"), *options, str(whole), str(target), file_type]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(llama_cpp.binaries())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return target


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    return {str(t.name): tuple(int(n) for n in t.shape[::-1]) for t in gguf.GGUFReader(path).tensors}


def write_imatrix(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """An importance matrix for every matrix of blocks."""
    state = np.random.RandomState(13)
    sums, counts = {}, {}
    for name, shape in sorted(shapes.items()):
        if len(shape) > 1 and name.startswith("blk."):
            experts = shape[0] if len(shape) == 3 else 1
            sums[name] = (state.randint(1, 1 << 20, (experts, shape[-1])) / float(1 << 16)).astype(np.float32)
            counts[name] = [4.0] * experts
    gguf_file(path, sums, counts, datasets=["samples.txt"], chunks=4)
    return path


def digests(path: Path) -> dict[str, Any]:
    """Types and bytes of the tensors in file order, and the keys that do not tell who made the file."""
    reader = gguf.GGUFReader(path)
    tensors = {
        str(t.name): [t.tensor_type.name, [int(n) for n in t.shape[::-1]], _sha(t.data.tobytes())]
        for t in reader.tensors
    }
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith(WHO)}
    shown = {key: value if _is_short(value) else _sha(json.dumps(value).encode()) for key, value in keys.items()}
    return {"tensors": tensors, "keys": {key: value for key, value in shown.items() if key not in SAID_ALWAYS}}


def _is_short(value: object) -> bool:
    return not isinstance(value, list) and len(str(value)) < 40


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
