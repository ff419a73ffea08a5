"""GLoRA: weight and bias of a Linear, scaled, shifted and coupled (Chavan et al. 2023, arXiv:2306.07967).

    W[out, in] + W ∘ A + B
    b[out]     + b ∘ D + E + W @ C[in]      W as the base stores it

Each of the five is stored in the form that the config names:

    lora      Xd @ Xu: A and B [out, r] @ [r, in], C [in, r] @ [r, 1]
    vector    X: A and B [out, 1], C [in, 1], D and E [out]
    constant  X[1], for all elements
    none      nothing, or `zeros`, which must be zeros; so are C, D and E of a layer without bias

There is no scaling. Source: `GloraLayer` of PEFT's tuners/glora.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Path:
    """One of the five matrices[rows, columns].

    Attributes:
        parts: its two factors, or one[rows, columns] in which 1 stands for any number; none for zeros.
        zeros: the zeros that PEFT stores for a path that is not trained.
    """

    parts: tuple[Factor, ...] = ()
    zeros: Factor | None = None

    def factors(self) -> tuple[Factor, ...]:
        return (*self.parts, *([] if self.zeros is None else [self.zeros]))

    def make(self, load: Load) -> Callable[[int, int], torch.Tensor] | None:
        """What gives its rows [begin, end); None for zeros."""
        if self.zeros is not None and load(self.zeros).any():
            raise AdapterError(
                "a path that the config leaves untrained is not zero",
                where=f"`{self.zeros.ref.name}`",
                hint="Use the adapter_config.json that was saved together with these weights.",
            )
        parts = [load(factor) for factor in self.parts]
        if len(parts) == 2:
            return lambda begin, end: parts[0][begin:end] @ parts[1]
        if parts:
            return lambda begin, end: parts[0] if len(parts[0]) == 1 else parts[0][begin:end]
        return None


@dataclass(frozen=True)
class Weight:
    """W + W ∘ A + B. `unused` are the paths of a bias that the layer does not have."""

    a: Path
    b: Path
    shape: tuple[int, int]
    unused: tuple[Path, ...] = ()
    needs = Needs.TILE
    formula = "W + W∘A + B"

    def factors(self) -> tuple[Factor, ...]:
        return tuple(factor for path in (self.a, self.b, *self.unused) for factor in path.factors())

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        a, b, *_ = [path.make(load) for path in (self.a, self.b, *self.unused)]

        def apply(tile: torch.Tensor, row: int) -> None:
            end = row + len(tile)
            if a is not None:
                tile.addcmul_(tile, a(row, end))
            if b is not None:
                tile.add_(b(row, end))

        return apply

    def flops(self) -> int:
        ranks = (path.parts[1].shape[0] for path in (self.a, self.b) if len(path.parts) == 2)
        return 2 * math.prod(self.shape) * (2 + sum(ranks))


@dataclass(frozen=True)
class Bias:
    """b + b ∘ D + E + W @ C, all as one row [1, out]; W[out, in] stands beside it."""

    c: Path  # [in, 1]
    d: Path  # [1, out]
    e: Path  # [1, out]
    shape: tuple[int, int]
    inputs: int
    needs = Needs.TILE
    formula = "b + b∘D + E + W@C"

    @property
    def beside(self) -> tuple[str, ...]:
        return ("weight",) if self.c.parts else ()

    def factors(self) -> tuple[Factor, ...]:
        return (*self.c.factors(), *self.d.factors(), *self.e.factors())

    def make(self, load: Load, whole: Whole, /) -> Apply:
        c, d, e = (path.make(load) for path in (self.c, self.d, self.e))
        coupled = None if c is None else self._coupled(c(0, self.inputs), whole)

        def apply(tile: torch.Tensor, _row: int) -> None:
            if d is not None:
                tile.addcmul_(tile, d(0, 1))
            if e is not None:
                tile.add_(e(0, 1))
            if coupled is not None:
                tile.add_(coupled)

        return apply

    def _coupled(self, c: torch.Tensor, whole: Whole) -> torch.Tensor:
        """(W @ C)[out]."""
        total = c.new_zeros(self.shape[1])
        for row, column, block in whole.beside("weight"):
            total[row : row + len(block)] += block @ c[column : column + block.shape[1], 0]
        return total

    def flops(self) -> int:
        return 2 * self.shape[1] * (self.inputs + 2)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, outputs, inputs = module.view("weight")
    a_b, c, d_e = _forms(layer.fields)
    a, b = (_path(layer, name, module, a_b, (outputs, inputs), (outputs, 1)) for name in "AB")
    biased = "bias" in module.parameters
    if not biased:
        c = d_e = "none"
    coupling = _path(layer, "C", module, c, (inputs, 1), (inputs, 1))
    scale, shift = (_path(layer, name, module, d_e, (outputs,), (outputs,)) for name in "DE")
    weight = Weight(a, b, (outputs, inputs), () if biased else (coupling, scale, shift))
    edits = [Edit("weight", 0, Rewritten(weight))] if weight.factors() else []
    bias = Bias(coupling, scale, shift, (1, outputs), inputs)
    if biased and bias.factors():
        edits.append(Edit("bias", 0, Rewritten(bias)))
    return tuple(edits)


def _path(layer: Layer, name: str, module: Module, form: str, whole: tuple[int, ...], vector: tuple[int, ...]) -> Path:
    """The path glora_`name` in this form: a matrix of shape `whole`, given by a vector or a product."""
    stem = f"glora_{name}"
    if form == "lora":
        rank = layer.axis(f"{stem}.Xu", module, 0, of=2)
        layer.check_rank(f"{stem}.Xu", rank, layer.fields.integer("r", 8))
        down = layer.check_shape(f"{stem}.Xd", module, whole[0], rank)
        return Path((down, layer.check_shape(f"{stem}.Xu", module, rank, whole[1])))
    if form == "vector":
        values = layer.check_shape(f"{stem}.X", module, *vector)
        return Path((values if len(vector) == 2 else values.then("reshape", 1, *vector),))
    if form == "constant":
        return Path((layer.check_shape(f"{stem}.X", module, 1).then("reshape", 1, 1),))
    zeros = layer.get(f"{stem}.zeros")
    return Path((), zeros and layer.check_shape(f"{stem}.zeros", module, *whole))


def _forms(fields: Fields) -> tuple[str, str, str]:
    """The forms of A and B, of C, and of D and E."""
    return (
        fields.choice("config_A_B", ("lora", "vector", "constant", "none")),
        fields.choice("config_C", ("lora", "vector", "none")),
        fields.choice("config_D_E", ("constant", "vector", "none")),
    )


def check(fields: Fields) -> None:
    fields.integer("r", 8)
    _forms(fields)


METHOD = Method(
    peft_type="GLORA",
    title="GLoRA",
    roles=tuple(f"glora_{name}.{part}" for name in "ABCDE" for part in ("Xd", "Xu", "X", "zeros")),
    edits=edits,
    check=check,
)
