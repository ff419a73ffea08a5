"""The type of every tensor of every skeleton, by file type, without and with an importance matrix for all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ingot.quantize.gguf.types import FILE_TYPES
from tests.quantize.gguf.reference import llama_cpp
from tests.quantize.gguf.skeletons import SKELETONS, Skeleton

RECORD = Path(__file__).with_name("plans.json")
#: In place of a digest: llama.cpp does not make such a file.
REFUSED = "refused"
SOURCE = "BF16"


def case_name(file_type: str, *, weighted: bool) -> str:
    return f"{file_type} weighted" if weighted else file_type


def digest(types: Mapping[str, str]) -> str:
    """Of names and types, in order."""
    text = "".join(f"{name} {of}\n" for name, of in types.items())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def importance_of(skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Ones for all matrices."""
    shapes = skeleton.tensors().items()
    return {n: np.ones(math.prod(s[:-2]) * s[-1], np.float32) for n, s in shapes if len(s) > 1}


def answers(skeleton: Skeleton, folder: Path) -> dict[str, dict[str, str] | None]:
    """Case -> types as llama.cpp gives them; None where it refuses."""
    path, target = folder / "source.gguf", folder / "quantized.gguf"
    skeleton.write(path, SOURCE)
    found = {}
    for file_type in FILE_TYPES:
        for importance in (None, importance_of(skeleton)):
            done = llama_cpp.quantize(path, target, file_type, importance)
            found[case_name(file_type, weighted=importance is not None)] = llama_cpp.types_of(target) if done else None
    return found


def record(folder: Path) -> dict[str, dict[str, str]]:
    """Skeleton -> case -> digest, or `REFUSED`."""
    return {
        name: {case: REFUSED if types is None else digest(types) for case, types in answers(skeleton, folder).items()}
        for name, skeleton in SKELETONS.items()
    }
