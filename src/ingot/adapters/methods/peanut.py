"""PEANuT: an update that a small network computes from the weight itself (Zhong et al. 2024, arXiv:2410.01870).

    Linear  W[out, in] + s * B[out, r] @ h(W^T A^T)^T

h works on the rows of W^T @ A^T[in, r] with A = peanut_A[r, out]: the activation f; then f(x @ E_n^T) for each encoder
E_n[r, r], whose input is kept; then f(x @ D_n^T) for each decoder, to which the input that was kept last is added.
s = `scaling`. Source: `_compute_delta_weight` of PEFT's tuners/peanut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs

if TYPE_CHECKING:
    import torch

#: transformers' names of activations, `ACT2FN`; the default of PEFT comes first.
ACTIVATIONS = (
    "relu", "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu2",
    "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
)  # fmt: skip
#: What importing these takes, measured.
IMPORT_NBYTES = 80 << 20


@dataclass(frozen=True)
class Network:
    """W + s * B @ h(W^T A^T)^T."""

    a: Factor  # [r, out]
    b: Factor  # [out, r]
    encoders: tuple[Factor, ...]  # [r, r]
    decoders: tuple[Factor, ...]
    columns: int
    activation: str
    scaling: float
    formula = "W + s·B@h(A@W)"
    needs = Needs.TILES

    @property
    def shape(self) -> tuple[int, int]:
        return (self.b.shape[0], self.columns)

    def factors(self) -> tuple[Factor, ...]:
        return (self.a, self.b, *self.encoders, *self.decoders)

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.a.shape[0] * sum(self.shape)

    @property
    def drawn_nbytes(self) -> int:
        return IMPORT_NBYTES + 4 * self.columns * self.a.shape[0] * (3 + len(self.encoders))

    def make(self, load: Load, whole: Whole, /) -> Apply:
        a, b = load(self.a), load(self.b)
        seen = a.new_zeros(len(a), self.columns)
        for row, tile in whole.tiles():
            seen.addmm_(a[:, row : row + len(tile)], tile)
        hidden = self.hidden(seen.T, load).T.contiguous()
        return lambda tile, row: tile.addmm_(b[row : row + len(tile)], hidden, alpha=self.scaling)

    def hidden(self, seen: torch.Tensor, load: Load) -> torch.Tensor:
        """h of seen[in, r]."""
        import torch
        from transformers.activations import ACT2FN

        act = ACT2FN[self.activation]
        with torch.no_grad():
            kept: list[torch.Tensor] = []
            state: torch.Tensor = act(seen)
            for encoder in self.encoders:
                kept.append(state)
                state = act(state @ load(encoder).T)
            for decoder in self.decoders:
                state = act(state @ load(decoder).T) + kept.pop()
        return state.to(seen.dtype)

    def flops(self) -> int:
        depth, rank = len(self.encoders), self.a.shape[0]
        return 4 * self.shape[0] * self.columns * rank + 4 * depth * self.columns * rank**2


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    fields = layer.fields
    _, rows, columns = module.view("weight")
    rank, depth = fields.integer("r", 32), fields.count("depth", 0)
    network = Network(
        layer.check_shape("peanut_A.weight", module, rank, rows),
        layer.check_shape("peanut_B.weight", module, rows, rank),
        tuple(layer.check_shape(f"peanut_encoders.{n}.weight", module, rank, rank) for n in range(depth)),
        tuple(layer.check_shape(f"peanut_decoders.{n}.weight", module, rank, rank) for n in range(depth)),
        columns,
        fields.choice("act_fn", ACTIVATIONS),
        fields.real("scaling", 1.0),
    )
    return (Edit("weight", 0, Rewritten(network)),)


def check(fields: Fields) -> None:
    fields.integer("r", 32)
    fields.count("depth", 0)
    fields.choice("act_fn", ACTIVATIONS)
    fields.real("scaling", 1.0)


METHOD = Method(
    peft_type="PEANUT",
    title="PEANuT",
    roles=("peanut_A.weight", "peanut_B.weight", "peanut_encoders.*.weight", "peanut_decoders.*.weight"),
    edits=edits,
    check=check,
)
