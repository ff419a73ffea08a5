"""Deltas of kohya and LyCORIS files that PEFT's methods do not have: a product around a core, and a stored difference.

LoHa and LoKr are `methods.loha.Hadamard`, `methods.loha.HadamardOfCores` and `methods.lokr.Kronecker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import Rows
from ingot.adapters.methods.lycoris import core_product
from ingot.adapters.methods.products import Product
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Cored(Product):
    """D[out, in·k] = Σ_pq up[out, p] · core[p, q, k, 1] · down[q, in]: LoCon's CP decomposition, kohya's `lora_mid`.

    Source: lycoris-lora 4.1.3, functional/general.py `rebuild_tucker`.
    """

    up: Factor
    down: Factor
    core: Factor

    @property
    def formula(self) -> str:
        return "W + s·up·mid·down"

    def factors(self) -> tuple[Factor, ...]:
        return (self.up, self.down, self.core)

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        return load(self.up), core_product(load(self.core), load(self.down))


@dataclass(frozen=True)
class Difference:
    """D[rows, columns] as it is stored."""

    values: Factor
    formula = "W + D"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.values.shape[0], self.values.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, /) -> Rows:
        values = load(self.values)
        return lambda begin, end: values[begin:end]

    def flops(self) -> int:
        rows, columns = self.shape
        return rows * columns
