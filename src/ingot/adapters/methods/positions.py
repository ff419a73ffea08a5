"""Where FourierFT and WaveFT put their coefficients: elements that a seed draws, for a shape of weights alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ingot.adapters.methods.drawn import PEFT_NBYTES, Drawn, need_peft, once
from ingot.adapters.methods.method import Layer
from ingot.adapters.methods.weights import Weight
from ingot.adapters.terms import Load
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Positions(ABC):
    """`count` elements of W[outputs, inputs], none twice."""

    outputs: int
    inputs: int
    count: int
    seed: int

    @classmethod
    def of(cls, layer: Layer, weight: Weight, count: int) -> Self:
        """As the config says. Raises AdapterError for more than there are, MissingComponent without PEFT."""
        need_peft()
        elements = weight.outputs * weight.inputs
        if count > elements:
            raise AdapterError(
                "`n_frequency` is more than the weight has elements", where=f"`{layer.path}`",
                expected=f"at most {elements}", found=count,
            )  # fmt: skip
        return cls(*weight.shape, count, layer.fields.seed("random_loc_seed", 777))

    @property
    def drawn_nbytes(self) -> int:
        """PEFT shuffles the numbers of all elements, int64, to take the first."""
        return PEFT_NBYTES + 8 * self.outputs * self.inputs

    @abstractmethod
    def draw(self) -> torch.Tensor:
        """Rows and columns as one [2, count], by PEFT's own code."""

    def read(self, load: Load, like: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Their rows and columns, int64, on the device of `like`."""
        (drawn,) = once(load, self, self._drawn)
        return drawn[0].to(like.device), drawn[1].to(like.device)

    def _drawn(self) -> Drawn:
        return (self.draw(),)
