"""OFT: orthogonal finetuning, the inputs of a layer rotated in blocks (Qiu et al. 2023, arXiv:2306.07280).

    Linear     W[out, in]              @ R^T
    Conv2d     W[out, in * k * k]      @ R^T
    Embedding  W[num_embeddings, dim]  @ R

R is block-diagonal with n blocks [b, b], n * b the number of columns; with `block_share` one block stands for all. Each
comes from a skew-symmetric Q whose values above the diagonal are stored, oft_R[n, b * (b - 1) / 2]:

    Cayley          R = (I - Q) (I + Q)^-1
    Cayley-Neumann  R = I + 2 Q + 2 Q^2 + ... + 2 Q^(t-2) + Q^(t-1)   of t terms, with +Q; up to PEFT 0.17 2 Q^(t-1)

COFT first shortens each Q to a Frobenius norm of eps / sqrt(stored blocks). Source: PEFT's tuners/oft, 0.16 .. 0.21.2.
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
from ingot.adapters.methods.rotation import (
    cayley,
    cayley_neumann,
    refuse_convolution,
    skew,
    skew_size,
    times_blocks,
)
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Apply, Load, Needs
from ingot.adapters.versions import last_cayley_term
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockRotation:
    """W @ R^T, or W @ R where `forward`.

    Attributes:
        size: b.
        terms: t of the Cayley-Neumann series; None for the Cayley transform itself.
        last: the coefficient of Q^(t-1).
        eps: of COFT; None without.
    """

    packed: Factor  # [n or 1, b * (b - 1) / 2]
    shape: tuple[int, int]
    size: int
    terms: int | None
    last: float
    eps: float | None
    forward: bool
    needs = Needs.TILE

    @property
    def formula(self) -> str:
        return "W@R" if self.forward else "W@Rᵀ"

    def factors(self) -> tuple[Factor, ...]:
        return (self.packed,)

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.packed.shape[0] * self.size**2

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        rotation = self.rotation(load(self.packed))
        blocks = rotation if self.forward else rotation.transpose(1, 2).contiguous()
        return lambda tile, _row: tile.copy_(times_blocks(tile, blocks))

    def rotation(self, packed: torch.Tensor) -> torch.Tensor:
        """R[n or 1, b, b]."""
        import torch

        matrix = skew(packed, self.size)
        if self.eps is not None:
            norm = torch.linalg.matrix_norm(matrix, keepdim=True)
            limit = self.eps / math.sqrt(len(packed))
            matrix = torch.where(norm <= limit, matrix, matrix * (limit / norm))
        return cayley(matrix) if self.terms is None else cayley_neumann(matrix, self.terms, self.last)

    def flops(self) -> int:
        return 2 * self.shape[0] * self.shape[1] * self.size


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    if (old := layer.get("oft_r") or layer.get("oft_s")) is not None:
        raise _too_old(f"`{old.ref.name}`")
    embedding = module.kind is ModuleKind.EMBEDDING or layer.get("oft_R.weight") is None
    role = "oft_embedding_R.weight" if embedding else "oft_R.weight"
    refuse_convolution(layer, role, module)
    packed, fields = layer.need(role), layer.fields
    _, rows, columns = module.view("weight")
    count = packed.shape[0] if len(packed.shape) == 2 else 0
    size = skew_size(packed.shape[1]) if count else None
    shared = fields.boolean("block_share")
    if size is None or columns % size or count != (1 if shared else columns // size):
        blocks = "1" if shared else f"{columns} / b"
        raise layer.mismatch(role, module, f"[{blocks}, b * (b - 1) / 2] for blocks [b, b]")
    series = fields.boolean("use_cayley_neumann", True)
    rotation = BlockRotation(
        packed, (rows, columns), size,
        terms=fields.integer("num_cayley_neumann_terms", 5) if series else None,
        last=_last_coefficient(layer) if series else 1.0,
        eps=fields.number("eps", 6e-5) if fields.boolean("coft") else None,
        forward=embedding,
    )  # fmt: skip
    return (Edit("weight", 0, Rewritten(rotation)),)


def _last_coefficient(layer: Layer) -> float:
    coefficient = last_cayley_term(layer.config.peft_version)
    if coefficient is None:
        raise AdapterError(
            "nothing tells which PEFT release trained this adapter, and 0.18 changed the Cayley-Neumann series",
            where="`peft_version` in adapter_config.json",
            found=layer.config.peft_version,
            hint="Say which one it was: `--assume-peft-version 0.17.1`, for example. Files before 0.18 do not say it.",
        )
    return coefficient


def _too_old(where: str) -> AdapterError:
    what = "this OFT adapter was saved by PEFT 0.15 or before, which rotated in another way"
    return AdapterError(what, where=where, hint="Merge it with `merge_and_unload` of the PEFT that trained it.")


def check(fields: Fields) -> None:
    if "oft_block_size" not in fields.raw:
        raise _too_old(f"{fields.where} without `oft_block_size`")
    fields.boolean("coft")
    fields.number("eps", 6e-5)
    fields.boolean("block_share")
    fields.boolean("use_cayley_neumann", True)
    fields.integer("num_cayley_neumann_terms", 5)


METHOD = Method(
    peft_type="OFT",
    title="OFT",
    roles=("oft_R.weight", "oft_embedding_R.weight", "oft_r", "oft_s"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV, ModuleKind.EMBEDDING}),
    kernels=(2,),
    check=check,
)
