"""(IA)³: a learned factor for each output, or for each input, of a layer (Liu et al. 2022, arXiv:2205.05638).

    outputs        W[out, ...] * l[out], b[out] * l[out]    l[out, 1]; of a convolution [1, out, 1, ...]
    feedforward    W[out, in, ...] * l[in], b as it is      l[1, in];  of a convolution [1, in, 1, ...]

Modules that `feedforward_modules` names scale their inputs; it is matched as PEFT does, a list by the end of the path
without a dot. In a convolution with groups l has the inputs of all groups, one group after the other.
transformers' Conv1D stores W[in, out]; l is as for a Linear. Source: `Linear`, `_ConvNd` of PEFT's tuners/ia3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.patterns import compile_pattern
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScaledRows:
    """W[rows, columns] * values[rows]."""

    values: Factor  # [rows]
    shape: tuple[int, int]
    needs = Needs.TILE
    formula = "W·l"

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        values = load(self.values).unsqueeze(1)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.mul_(values[row : row + len(tile)])

        return apply

    def flops(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ScaledColumns:
    """W[rows, columns] * values[groups, columns / kernel]: a value for `kernel` columns, in its group of the rows."""

    values: Factor  # [groups, columns / kernel]
    shape: tuple[int, int]
    kernel: int = 1
    needs = Needs.TILE
    formula = "W·l"

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        import torch

        values = load(self.values).repeat_interleave(self.kernel, dim=1)
        height = self.shape[0] // len(values)

        def apply(tile: torch.Tensor, row: int) -> None:
            if len(values) == 1:
                tile.mul_(values)
            else:
                tile.mul_(values[torch.arange(row, row + len(tile), device=tile.device) // height])

        return apply

    def flops(self) -> int:
        return math.prod(self.shape)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    feedforward = _is_feedforward(layer)
    if len(module.parameters["weight"]) > 2:
        return _of_convolution(layer, module, feedforward)
    _, rows, columns = module.view("weight")
    length = max(1, layer.axis("ia3_l", module, 1 if feedforward else 0, of=2))
    other = rows * columns // length
    transposed = layer.is_transposed(module, *((other, length) if feedforward else (length, other)))
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    values = layer.check_shape("ia3_l", module, *((1, inputs) if feedforward else (outputs, 1)))
    if feedforward == transposed:
        scaled: ScaledRows | ScaledColumns = ScaledRows(values.then("reshape", rows), (rows, columns))
    else:
        scaled = ScaledColumns(values.then("reshape", 1, columns), (rows, columns))
    return (Edit("weight", 0, Rewritten(scaled)), *(() if feedforward else _bias(layer, values, module)))


def _of_convolution(layer: Layer, module: Module, feedforward: bool) -> tuple[Edit, ...]:
    outputs, per_group, *kernel = module.parameters["weight"]
    shape = module.view("weight")[1:]
    ones = (1,) * len(kernel)
    if feedforward:
        values = layer.check_shape("ia3_l", module, 1, per_group * module.groups, *ones)
        groups = values.then("reshape", module.groups, per_group)
        return (Edit("weight", 0, Rewritten(ScaledColumns(groups, shape, math.prod(kernel)))),)
    values = layer.check_shape("ia3_l", module, 1, outputs, *ones)
    scaled = ScaledRows(values.then("reshape", outputs), shape)
    return (Edit("weight", 0, Rewritten(scaled)), *_bias(layer, values, module))


def _bias(layer: Layer, values: Factor, module: Module) -> tuple[Edit, ...]:
    """The bias scaled like the outputs, where the layer has one."""
    if "bias" not in module.parameters:
        return ()
    outputs = module.view("bias")[2]
    if values.ref.numel != outputs:
        raise layer.mismatch("ia3_l", module, f"{outputs} values")
    return (Edit("bias", 0, Rewritten(ScaledColumns(values.then("reshape", 1, outputs), (1, outputs)))),)


def _is_feedforward(layer: Layer) -> bool:
    """Whether the layer scales its inputs."""
    names = layer.fields.texts_or_text("feedforward_modules") or ()
    if isinstance(names, str):
        return compile_pattern(names).fullmatch(layer.path) is not None
    return layer.path.endswith(names)


def check(fields: Fields) -> None:
    names = fields.texts_or_text("feedforward_modules")
    fields.boolean("fan_in_fan_out")
    if isinstance(names, str):
        compile_pattern(names)
    if names is None:
        raise AdapterError(
            "the config does not say which modules scale their inputs",
            where=f"`feedforward_modules` in {fields.where}",
            hint="Write their names there as they were in training; [] where none did.",
        )


METHOD = Method(
    peft_type="IA3",
    title="IA3",
    roles=("ia3_l",),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.CONV}),
    kernels=(2, 3),
    check=check,
)
