"""RoAd: pairs of a layer's outputs rotated and scaled (Liao and Monz 2024, arXiv:2409.00119).

    Linear  R W[out, in]    and    R b[out]

In each group of `group_size` outputs the first half is paired with the second: output i with i' = i + group_size / 2.

    row i of R W   = c[i] W[i] - d[i] W[i']        row i' = c[i'] W[i'] + d[i'] W[i]

c and d are [out] and follow from the stored theta and alpha by the variant:

    road_1  theta[out / 2]  c = alpha cos(theta), d = alpha sin(theta), one value for a pair
    road_2  theta[out]      the same, one value for an output
    road_4  theta[2 out]    c from the first, d from the second of the two rows that each group has in them

Source: `_get_delta_weight` and `_prepare_cols` of PEFT's tuners/road.
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

#: variant -> values for each output.
_VALUES = {"road_1": 0.5, "road_2": 1.0, "road_4": 2.0}


@dataclass(frozen=True)
class Pairs:
    """R W of W[out, in], or b R^T of a bias b[1, out]: what stands in a tile's neighbours is read again."""

    theta: Factor
    alpha: Factor
    shape: tuple[int, int]
    variant: str
    group: int
    bias: bool = False
    formula = "R@W"

    @property
    def needs(self) -> Needs:
        return Needs.TILE if self.bias else Needs.TILES

    def factors(self) -> tuple[Factor, ...]:
        return (self.theta, self.alpha)

    def make(self, load: Load, whole: Whole, /) -> Apply:
        own, other = self.columns(load(self.theta), load(self.alpha))

        def rotate_bias(tile: torch.Tensor, _row: int) -> None:
            tile.copy_((own * tile.T + other * self._partners(tile.T)).T)

        def rotate(tile: torch.Tensor, row: int) -> None:
            end = row + len(tile)
            first, last = row - row % self.group, end + -end % self.group
            groups = tile if (first, last) == (row, end) else self._around(tile, whole, (first, row), (end, last))
            partners = self._partners(groups)[row - first : end - first]
            tile.copy_(own[row:end] * tile + other[row:end] * partners)

        return rotate_bias if self.bias else rotate

    @staticmethod
    def _around(tile: torch.Tensor, whole: Whole, before: tuple[int, int], after: tuple[int, int]) -> torch.Tensor:
        """The tile between the rest of the groups that its edges cut."""
        import torch

        above = [whole.rows(*before)] if before[0] < before[1] else []
        below = [whole.rows(*after)] if after[0] < after[1] else []
        return torch.cat([*above, tile, *below])

    def _partners(self, rows: torch.Tensor) -> torch.Tensor:
        """The row that each row of whole groups is paired with."""
        return rows.reshape(-1, 2, self.group // 2, rows.shape[1]).flip(1).reshape(rows.shape)

    def columns(self, theta: torch.Tensor, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """c[out, 1] and, with the sign of its half, d[out, 1]."""
        halves = theta.new_tensor([-1.0, 1.0]).view(1, 2, 1)
        if self.variant == "road_4":
            theta, alpha = theta.view(-1, 2, self.group), alpha.view(-1, 2, self.group)
            own, other = alpha[:, 0] * theta[:, 0].cos(), alpha[:, 1] * theta[:, 1].sin()
        else:
            own, other = alpha * theta.cos(), alpha * theta.sin()
        if self.variant == "road_1":
            own, other = (c.view(-1, 1, self.group // 2).expand(-1, 2, -1) for c in (own, other))
        other = other.reshape(-1, 2, self.group // 2) * halves
        return own.reshape(-1, 1), other.reshape(-1, 1)

    def flops(self) -> int:
        return 3 * self.shape[0] * self.shape[1]


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, rows, columns = module.view("weight")
    variant, group = _settings(layer.fields)
    values = int(_VALUES[variant] * rows)
    theta = layer.check_shape("road_theta", module, values)
    alpha = layer.check_shape("road_alpha", module, values)
    if rows % group:
        raise layer.mismatch("road_theta", module, f"a multiple of the group_size {group} of outputs")
    weight = Edit("weight", 0, Rewritten(Pairs(theta, alpha, (rows, columns), variant, group)))
    if "bias" not in module.parameters:
        return (weight,)
    return (weight, Edit("bias", 0, Rewritten(Pairs(theta, alpha, (1, rows), variant, group, bias=True))))


def _settings(fields: Fields) -> tuple[str, int]:
    group = fields.integer("group_size", 64)
    if group % 2:
        fields.refuse("group_size", "an even number above 0")
    return fields.choice("variant", tuple(_VALUES)), group


def check(fields: Fields) -> None:
    _settings(fields)


METHOD = Method(peft_type="ROAD", title="RoAd", roles=("road_theta", "road_alpha"), edits=edits, check=check)
