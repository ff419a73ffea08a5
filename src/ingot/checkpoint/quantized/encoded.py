"""A dense tensor that lies in files as parts: packed integers, scales, zero points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef

if TYPE_CHECKING:
    import torch


class Parts(Protocol):
    """The parts of one encoded tensor, to be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense tensor."""

    def __contains__(self, role: str) -> bool: ...

    def elements(self, role: str, begin: int, end: int) -> torch.Tensor:
        """Elements [begin, end) of a part, flat, in the dtype that is stored."""

    def raw(self, role: str, begin: int, end: int) -> torch.Tensor:
        """Bytes [begin, end) of a part, as uint8."""

    def kept(self, role: str, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """As `elements`, and kept in memory for the next tiles of this tensor."""


class Format(Protocol):
    """How parts make numbers. A frozen dataclass: its fields are the settings, and go into the plan's digest."""

    @property
    def title(self) -> str:
        """For people: "bitsandbytes nf4"."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Parts that are read whole because they are packed along another axis than the rows that are asked for."""

    def decode(self, parts: Parts, begin: int, end: int) -> torch.Tensor:
        """Elements [begin, end) of the dense tensor in row-major order, flat, in the dtype that the library gives.

        Raises:
            BaseError: a part holds what the format does not define.
        """


@dataclass(frozen=True)
class Encoded:
    """A tensor that the checkpoint shows and does not store.

    Attributes:
        name, dtype, shape: of the dense tensor; `dtype` is that of the checkpoint's own config.
        parts: what it is decoded from, by role; the first decides the shard that the dense tensor gets into.
        pieces: into how many equal pieces along the first axis the kept parts fall (experts).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: Format
    parts: tuple[tuple[str, TensorRef], ...]
    pieces: int = 1

    @property
    def by_role(self) -> Mapping[str, TensorRef]:
        return dict(self.parts)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the dense tensor."""
        return self.numel * DTYPE_NBYTES[self.dtype]

    @property
    def file(self) -> str:
        """The file of its first part."""
        return self.parts[0][1].file

    @property
    def kept_nbytes(self) -> int:
        """Bytes of parts that stay in memory while its tiles are decoded."""
        return sum(ref.nbytes for role, ref in self.parts if role in self.format.kept) // self.pieces


#: What an output tensor starts from.
Source = TensorRef | Encoded


@dataclass
class Found:
    """What one family's reader made of a checkpoint's tensors.

    Attributes:
        encoded: the dense tensors, each with its parts.
        set_aside: tensors that are no part of a weight and that a dense model has no use for: name -> why.
    """

    encoded: list[Encoded] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)
