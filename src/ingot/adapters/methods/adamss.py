"""AdaMSS: the rows of a weight in clusters, each with a small update of its own.

    Linear  W[out, in] + M @ P[:, :in]    and    b[out] + M @ P[:, in]

P[q, in + 1] is adamss_newB; without a bias it is [q, in]. The rows of M[out, q] that belong to cluster i are
B_i[rows, r_i] @ A_i[r_i, q]. Which rows these are is not stored: PEFT finds them again whenever it loads the adapter,
by a seeded randomized SVD of [W | b] in float32 and k-means (scikit-learn) on the rows of its left factor.

That SVD draws from the generator of the device that it runs on. Whether the clusters were found again can be seen: of
each the size is known, and P spans what the right factor spans. Source: PEFT's tuners/adamss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods import owner
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError, MismatchError

if TYPE_CHECKING:
    import torch

#: PEFT's limit for the rounds of k-means.
ROUNDS = 10
#: How much of P's span the right factor must span again. P may be stored in bfloat16; other draws leave far less.
SAME_SPAN = 0.99


@dataclass(frozen=True)
class Clustered:
    """W + M @ P, or of the bias where `of_bias`.

    Attributes:
        inner, outer: A_i[r_i, q] and B_i[rows, r_i] of each cluster.
        projection: P.
        weight: the shape of W.
        biased: the module has a bias.
        asked: the rank of the SVD that the config asks for.
    """

    inner: tuple[Factor, ...]
    outer: tuple[Factor, ...]
    projection: Factor
    weight: tuple[int, int]
    biased: bool
    of_bias: bool
    asked: int
    seed: int
    formula = "W + scatter(B@A)@P"
    needs = Needs.WHOLE

    @property
    def beside(self) -> tuple[str, ...]:
        return ("weight",) if self.of_bias else ("bias",) * self.biased

    @property
    def shape(self) -> tuple[int, int]:
        return (1, self.weight[0]) if self.of_bias else self.weight

    def factors(self) -> tuple[Factor, ...]:
        return (*self.inner, *self.outer, self.projection)

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.projection.shape[0] * sum(self.weight)

    @property
    def drawn_nbytes(self) -> int:
        return owner.PEFT_NBYTES + 4 * 3 * self.of_bias * math.prod(self.weight)

    def make(self, load: Load, whole: Whole, /) -> Apply:
        projection = load(self.projection)
        mixed = projection.new_zeros(self.weight[0], len(projection))
        with owner.ALONE:
            clusters = self._clusters(self._joined(whole), projection)
        for rows, outer, inner in zip(clusters, self.outer, self.inner, strict=True):
            mixed[rows] = load(outer) @ load(inner)
        if self.of_bias:
            added = mixed @ projection[:, -1]
            return lambda tile, _row: tile.add_(added)
        right = projection[:, : self.weight[1]].contiguous()
        return lambda tile, row: tile.addmm_(mixed[row : row + len(tile)], right)

    def _joined(self, whole: Whole) -> torch.Tensor:
        """[W | b] in float32."""
        own = whole().float()
        if not self.biased:
            return own
        joined = own.new_empty(self.weight[0], self.weight[1] + 1)
        weight, bias = joined[:, :-1], joined[:, -1:].T
        (bias if self.of_bias else weight).copy_(own)
        other = weight if self.of_bias else bias
        for row, column, block in whole.beside(*self.beside):
            other[row : row + block.shape[0], column : column + block.shape[1]] = block
        return joined

    def _clusters(self, joined: torch.Tensor, projection: torch.Tensor) -> list[torch.Tensor]:
        """The rows of each cluster."""
        module, device = "adamss.utils", joined.device
        right, left = owner.call(module, "slice_pca", joined[None, None], self.asked, device, random_seed=self.seed)
        labels, _ = owner.call(module, "clustering_Z", left[0, 0], len(self.outer), ROUNDS)
        clusters = [rows.to(device) for rows in owner.call(module, "seg_locations", labels).values()]
        span = (right[0, 0] @ projection.float().T).square().sum() / len(projection)
        if not span >= SAME_SPAN or [len(rows) for rows in clusters] != [factor.shape[0] for factor in self.outer]:
            raise MismatchError(
                "the clusters of this weight's rows are not those that the adapter was trained with",
                where=f"`{self.projection.ref.name}`",
                expected=f"clusters of {[factor.shape[0] for factor in self.outer]} rows and one span",
                found=f"{[len(rows) for rows in clusters]}, and {span:.3f} of the span",
                hint="The base is another one, or the adapter was trained on another kind of device: see --device.",
            )
        return clusters

    def flops(self) -> int:
        rows, columns = self.weight
        return 2 * rows * columns * self.projection.shape[0] * 12


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    owner.require("AdaMSS", "sklearn")
    fields = layer.fields
    _, rows, columns = module.view("weight")
    biased = "bias" in module.parameters
    asked, clusters = fields.integer("r", 100), min(fields.integer("num_subspaces", 5), rows)
    width = columns + biased
    rank = min(asked, rows, width)
    inner = tuple(layer.need(f"adamss_A.{n}") for n in range(clusters))
    outer = tuple(layer.need(f"adamss_B.{n}") for n in range(clusters))
    for n, (a, b) in enumerate(zip(inner, outer, strict=True)):
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape != (b.shape[1], rank):
            raise layer.mismatch(f"adamss_A.{n}", module, f"[r, {rank}] for B[rows, r] {list(b.shape)}")
    if sum(b.shape[0] for b in outer) != rows:
        raise layer.mismatch("adamss_B.0", module, f"clusters of {rows} rows in all")
    projection = layer.check_shape("adamss_newB", module, rank, width)
    changes = [
        Clustered(inner, outer, projection, (rows, columns), biased, of_bias, asked, fields.seed("random_seed", 0))
        for of_bias in (False, True)[: 1 + biased]
    ]
    return tuple(Edit("bias" if one.of_bias else "weight", 0, Rewritten(one)) for one in changes)


def check(fields: Fields) -> None:
    fields.integer("r", 100)
    fields.integer("num_subspaces", 5)
    fields.seed("random_seed", 0)
    if "random_seed" not in fields.raw:
        raise AdapterError(
            "the randomized SVD of this adapter was not seeded, so its clusters are lost", where=fields.where,
            found="no `random_seed`, as PEFT before 0.20 saved it",
            hint="Merge it in the session that trained it, or train it again with PEFT 0.20 or later.",
        )  # fmt: skip


METHOD = Method(
    peft_type="ADAMSS",
    title="AdaMSS",
    roles=("adamss_A.*", "adamss_B.*", "adamss_newB"),
    edits=edits,
    check=check,
)
