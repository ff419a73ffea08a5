"""The two random matrices that all layers of VeRA and its like take a part of: they stand in the file, or in a seed.

PEFT makes them as large as the largest layer asks, and rounds them to the dtype that the base is loaded in. Where they
are drawn again, that is taken to be the dtype in which the base is stored, as transformers loads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from ingot.adapters.factor import Factor
from ingot.adapters.methods.drawn import PEFT_NBYTES, Drawn, need_peft, once
from ingot.adapters.methods.method import Layer
from ingot.adapters.methods.weights import largest
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


class Projections(Protocol):
    """A and B of an adapter: data until `read`."""

    @property
    def drawn_nbytes(self) -> int:
        """Bytes that they take to be drawn."""

    def factors(self) -> tuple[Factor, ...]: ...

    def read(self, load: Load, like: torch.Tensor, /) -> tuple[torch.Tensor, ...]:
        """A and B, as large as a layer asks or larger, in the dtype and on the device of `like`."""


@dataclass(frozen=True)
class Stored:
    """Those in the file."""

    a: Factor
    b: Factor
    drawn_nbytes = 0

    def factors(self) -> tuple[Factor, ...]:
        return (self.a, self.b)

    def read(self, load: Load, _like: torch.Tensor, /) -> tuple[torch.Tensor, ...]:
        return load(self.a), load(self.b)


@dataclass(frozen=True)
class Seeded(ABC):
    """Those of a seed.

    Attributes:
        outputs, inputs: the most of any layer.
        dtypes: of the weights under the layers, as safetensors spells them, each once.
    """

    seed: int
    rank: int
    outputs: int
    inputs: int
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, layer: Layer, rank: int, **settings: Any) -> Self:
        """As the config says. Raises AdapterError for a seed that is none, MissingComponent without PEFT."""
        need_peft()
        modules = layer.modules.values()
        dtypes = dict.fromkeys(module.dtypes["weight"] for module in modules if "weight" in module.dtypes)
        seed = layer.fields.seed("projection_prng_key", 0)
        return cls(seed, rank, *largest(modules), tuple(dtypes), **settings)

    @abstractmethod
    def draw(self) -> Drawn:
        """A and B by PEFT's own code."""

    @property
    def drawn_nbytes(self) -> int:
        return PEFT_NBYTES + 8 * self.rank * (self.inputs + self.outputs)

    def factors(self) -> tuple[Factor, ...]:
        return ()

    def read(self, load: Load, like: torch.Tensor, /) -> tuple[torch.Tensor, ...]:
        return tuple(matrix.to(like) for matrix in once(load, self, self.rounded))

    def rounded(self) -> Drawn:
        """A and B as PEFT's layers come to hold them."""
        from ingot.kernels.dtypes import TORCH_DTYPE

        matrices = self.draw()
        for dtype in self.dtypes:
            matrices = tuple(matrix.to(TORCH_DTYPE[dtype]) for matrix in matrices)
        return matrices
