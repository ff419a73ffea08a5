"""The formula on a tile, against float64."""

from __future__ import annotations

import pytest
import torch

from ingot.kernels.grid import TILE_ELEMENTS, TileGrid
from ingot.kernels.tile import BlockChange, merge_tile

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (7, 3), (5000, 300), (3, TILE_ELEMENTS + 1), (TILE_ELEMENTS + 1, 1), (0, 5), (5, 0)]
)
def test_a_grid_covers_every_row_exactly_once(rows: int, columns: int) -> None:
    grid = TileGrid(rows, columns)
    covered = [row for tile in range(grid.count) for row in range(*grid.rows_of(tile))]
    assert covered == (list(range(rows)) if columns else [])


def test_the_tiles_over_a_range_are_those_that_hold_its_elements() -> None:
    grid = TileGrid(5000, 300)
    size = grid.height * 300
    for begin, end in [(0, 1), (size - 1, size), (size - 1, size + 1), (0, 5000 * 300), (4999 * 300, 5000 * 300)]:
        held = {element // size for element in (begin, end - 1)}
        assert {grid.over(begin, end)[0], grid.over(begin, end)[-1]} == held
    assert len(grid.over(5, 5)) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_terms_add_in_float32_and_are_rounded_once(dtype: torch.dtype) -> None:
    weight = (random(64, 48) * 0.03).to(dtype)
    pairs = [(random(64, 4), random(4, 48), 0.01), (random(64, 8), random(8, 48), -0.02)]

    def change(b: torch.Tensor, a: torch.Tensor, s: float) -> BlockChange:
        return BlockChange((0, 64), (0, 48), lambda tile, row: tile.addmm_(b[row : row + len(tile)], a, alpha=s))

    out = torch.empty_like(weight)
    merge_tile(weight, 0, [change(*pair) for pair in pairs], torch.empty(TILE_ELEMENTS), out)
    exact = weight.double() + sum(s * (b.double() @ a.double()) for b, a, s in pairs)
    if dtype is torch.float32:
        torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-7)
    else:
        assert (out == exact.to(dtype)).float().mean() > 0.999
        info = torch.finfo(dtype)
        assert ((out.double() - exact).abs() <= exact.abs().clamp(min=info.tiny) * info.eps).all()


def test_a_block_changes_its_rows_and_columns_alone() -> None:
    weight = torch.zeros(10, 6)
    change = BlockChange((4, 8), (1, 3), lambda tile, row: tile.add_(torch.arange(row, row + len(tile))[:, None] + 1))
    out = torch.empty_like(weight)
    for first in range(0, 10, 3):  # in tiles of three rows, cut where they will
        rows = slice(first, min(first + 3, 10))
        merge_tile(weight[rows], first, [change], torch.empty(TILE_ELEMENTS), out[rows])
    expected = torch.zeros(10, 6)
    expected[4:8, 1:3] = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert torch.equal(out, expected)


def test_without_a_weight_a_tile_starts_at_zero() -> None:
    out = torch.full((2, 2), 9.0)
    merge_tile(None, 0, [], torch.full((TILE_ELEMENTS,), 5.0), out)
    assert torch.equal(out, torch.zeros(2, 2))


def test_weight_and_output_may_share_their_memory() -> None:
    weight = random(8, 8).to(torch.bfloat16)
    before = weight.clone()
    merge_tile(
        weight, 0, [BlockChange((0, 8), (0, 8), lambda tile, row: tile.mul_(2))], torch.empty(TILE_ELEMENTS), weight
    )
    assert torch.equal(weight, before * 2)
