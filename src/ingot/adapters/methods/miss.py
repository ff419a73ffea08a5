"""MiSS: one block added to every stretch of r inputs (Kang and Yin 2024, arXiv:2409.15371).

    default  W[o, i] + block[i mod r, o]               block[r, out]
    mini     W[o, i] + block[i mod r, o mod mini_r]    block[r, mini_r]
    bat      W_oi + W_oi @ block[o] + block[o]         block[out / r, r, r], W_oi the r x r squares of W

The last stretch may be shorter than r; bat wants whole squares. `init_weights` names the form. There is no scaling.
Source: `get_delta_weight` (bat) and `get_delta_weight_miss` of PEFT's tuners/miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Plus, Rewritten, Rows, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Repeated:
    """D[o, i] = block[i mod r, o mod width]."""

    block: Factor  # [r, width]
    shape: tuple[int, int]
    formula = "W + the block, repeated"

    @property
    def rank(self) -> int:
        return self.block.shape[0]

    def factors(self) -> tuple[Factor, ...]:
        return (self.block,)

    def make(self, load: Load, /) -> Rows:
        import torch

        turned = load(self.block.T)  # [width, r]
        columns = self.shape[1]
        times = -(-columns // turned.shape[1])

        def rows(begin: int, end: int) -> torch.Tensor:
            row = torch.arange(begin, end, device=turned.device) % len(turned)
            return turned[row].repeat(1, times)[:, :columns]

        return rows

    def flops(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Squares:
    """W_oi + W_oi @ blocks[o] + blocks[o] for the r x r squares of W: a row of W changes by its own squares alone."""

    blocks: Factor  # [rows / r, r, r]
    shape: tuple[int, int]
    needs = Needs.TILE
    formula = "W + W@block + block"

    def factors(self) -> tuple[Factor, ...]:
        return (self.blocks,)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        blocks = load(self.blocks)
        r = blocks.shape[1]

        def apply(tile: torch.Tensor, row: int) -> None:
            end = row + len(tile)
            for number in range(row // r, -(-end // r)):
                first, last = max(row, number * r), min(end, (number + 1) * r)
                part = tile[first - row : last - row].reshape(last - first, -1, r)
                own = blocks[number, first - number * r : last - number * r].unsqueeze(1)
                tile[first - row : last - row] += (part @ blocks[number] + own).reshape(last - first, -1)

        return apply

    def flops(self) -> int:
        return 2 * self.shape[0] * self.shape[1] * (self.blocks.shape[1] + 1)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    _, rows, columns = module.view("weight")
    form, r = _form(layer.fields), layer.fields.integer("r", 64)
    if form == "bat":
        if rows % r or columns % r:
            raise layer.mismatch("miss_block", module, f"a weight of whole squares of {r}")
        blocks = layer.check_shape("miss_block", module, rows // r, r, r)
        return (Edit("weight", 0, Rewritten(Squares(blocks, (rows, columns)))),)
    width = layer.fields.integer("mini_r", 1) if form == "mini" else rows
    if rows % width:
        raise layer.mismatch("miss_block", module, f"a number of rows that mini_r {width} divides")
    block = layer.check_shape("miss_block", module, r, width)
    return (Edit("weight", 0, Plus(Repeated(block, (rows, columns)))),)


def _form(fields: Fields) -> str:
    kind = fields.initialization("init_weights")
    if isinstance(kind, str) and kind not in ("bat", "mini"):
        raise AdapterError(
            "unknown form of MiSS", where=f"`init_weights` in {fields.where}", expected="true, false, bat or mini",
            found=kind[:80],
        )  # fmt: skip
    return kind if isinstance(kind, str) else "default"


def check(fields: Fields) -> None:
    fields.integer("r", 64)
    fields.integer("mini_r", 1)
    _form(fields)


METHOD = Method(peft_type="MISS", title="MiSS", roles=("miss_block",), edits=edits, check=check)
