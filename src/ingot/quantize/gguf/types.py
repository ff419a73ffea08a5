"""ggml's types that weights are quantized to, and llama.cpp's file types, by the names of llama-quantize.

A type says how the weights of one row are coded: blocks of `block` weights in `nbytes` bytes. A file type (Q4_K_M) is a
mixture: a type for most tensors, others for some (`mixtures`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from ingot.errors import MissingComponent, UsageError
from ingot.formats.gguf import TYPES as NUMBERED

INSTALL = "Run `pip install 'ingot-merge[gguf]'`."

#: Types that a weight can be written in; IQ* and the small K types need ggml's own code (`native`).
TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
)  # fmt: skip

#: File type -> the type of most tensors. Source: llama.cpp, `llama_ftype_get_default_type`.
FILE_TYPES: Mapping[str, str] = MappingProxyType({
    "F32": "F32", "F16": "F16", "BF16": "BF16",
    "Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "MXFP4_MOE": "MXFP4",
    "Q2_K": "Q2_K", "Q2_K_S": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K",
    "IQ1_S": "IQ1_S", "IQ1_M": "IQ1_M",
    "IQ2_XXS": "IQ2_XXS", "IQ2_XS": "IQ2_XS", "IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S",
    "IQ3_XXS": "IQ3_XXS", "IQ3_XS": "IQ3_S", "IQ3_S": "IQ3_S", "IQ3_M": "IQ3_S",
    "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
})  # fmt: skip


@dataclass(frozen=True)
class GgmlType:
    """How the weights of a row are coded.

    Attributes:
        name: as in "Q4_K".
        id: ggml's number of it, as files have it.
        block: weights a block; a row holds whole blocks.
        nbytes: bytes a block.
    """

    name: str
    id: int
    block: int
    nbytes: int

    def row_nbytes(self, columns: int) -> int:
        """Bytes of a row.

        Raises:
            ValueError: `columns` is no multiple of the block.
        """
        if columns % self.block:
            raise ValueError(f"{columns} columns are no whole blocks of {self.name}")
        return columns // self.block * self.nbytes


@functools.cache
def ggml_type(name: str) -> GgmlType:
    """The type of that name, one of `TYPES`.

    Raises:
        UsageError: no such type.
    """
    if name not in TYPES:
        raise UsageError("no such ggml type", found=name, expected=", ".join(TYPES))
    number, block, nbytes = next((number, *sizes) for number, (known, *sizes) in NUMBERED.items() if known == name)
    return GgmlType(name, number, block, nbytes)


def file_type_id(name: str) -> int:
    """The number of a file type, the value of `general.file_type`.

    Raises:
        UsageError: no such file type.
        MissingComponent: the `gguf` library is not installed.
    """
    if name not in FILE_TYPES:
        raise UsageError("no such GGUF file type", found=name, expected=", ".join(FILE_TYPES))
    prefix = "ALL_" if name == "F32" else "MOSTLY_"
    return int(library().LlamaFileType[prefix + name])


def library() -> ModuleType:
    """The `gguf` library.

    Raises:
        MissingComponent: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingComponent("the gguf library is not installed", hint=INSTALL) from error
    return gguf
