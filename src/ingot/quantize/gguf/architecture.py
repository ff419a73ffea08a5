"""What a file of `architectures/` says of one family: the tensors of its GGUF, of which rows they are made, its keys.

To add one: write a file with `ARCHITECTURES`, and name it in `architectures.registry`. Names of tensors come from the
`gguf` library's map, keys from its writer; what is here is what llama.cpp's graph of the family expects beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: config.json of the model, parsed; of its text part where it has one.
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows [begin, end) of a checkpoint's tensor seen as a matrix[rows, columns]: all axes but the last are rows.

    A vector [n] is one row of n columns.
    """

    tensor: str
    begin: int
    end: int


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file: rows of the checkpoint put one after the other.

    Attributes:
        name: GGUF's name, such as `blk.0.attn_q.weight`.
        shape: slowest axis first, as numpy and safetensors have it; the last one is a row.
        rows: where its rows come from, in order; none where `values` are given.
        heads: where above zero, the rows are those of so many heads whose rotary halves llama.cpp wants interleaved:
            row (2, d / 2) of a head becomes row (d / 2, 2).
        add: a constant that is added to every element (the 1 of Gemma's norms).
        values: the numbers themselves, float32, where they follow from the config (rotary factors).
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[Rows, ...] = ()
    heads: int = 0
    add: float = 0.0
    values: tuple[float, ...] | None = None


class Architecture(Protocol):
    """One family of models.

    Attributes:
        name: GGUF's name of the architecture, the prefix of its keys: "llama".
        classes: names of transformers' model classes, as config.json has them in `architectures`.
    """

    name: str
    classes: tuple[str, ...]

    def tensors(self, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> tuple[GgufTensor, ...]:
        """All tensors of the file, in the order of the model; `shapes` are the checkpoint's.

        Law: every tensor of the checkpoint is in some `rows`, or GGUF's graph has no use for it (rotary inverse
        frequencies, attention masks) and the architecture says so.

        Raises:
            BaseError: a tensor that nobody knows, one that is missing, or a shape that config.json does not give.
        """

    def describe(self, config: Config, writer: GGUFWriter) -> None:
        """Add the architecture's own keys: layers, heads, rotary settings, norms, experts."""
