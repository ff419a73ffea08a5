"""Orthogonal matrices of small blocks: how OFT, BOFT and PSOFT make them, and their product with rows of a weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ingot.adapters.methods.method import Layer
from ingot.adapters.module import Module
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


def skew_size(elements: int) -> int | None:
    """b of a skew-symmetric matrix whose b * (b - 1) / 2 values above the diagonal are stored; None for no such b."""
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    return size if size * (size - 1) // 2 == elements else None


def skew(packed: torch.Tensor, size: int) -> torch.Tensor:
    """Q[n, b, b] with Q = -Q^T, from the values above the diagonal, row by row: packed[n, b * (b - 1) / 2]."""
    import torch

    rows, columns = torch.triu_indices(size, size, 1)
    matrix = packed.new_zeros(len(packed), size, size)
    matrix[:, rows, columns] = packed
    return matrix - matrix.transpose(1, 2)


def cayley(skewed: torch.Tensor) -> torch.Tensor:
    """(I - Q) (I + Q)^-1 of each Q[n, b, b]: orthogonal where Q is skew-symmetric."""
    import torch

    identity = torch.eye(skewed.shape[-1], dtype=skewed.dtype, device=skewed.device)
    rotation: torch.Tensor = torch.linalg.solve(identity + skewed, identity - skewed, left=False)
    return rotation


def cayley_neumann(skewed: torch.Tensor, terms: int, last: float = 1.0) -> torch.Tensor:
    """The first `terms` terms of (I + Q) (I - Q)^-1 = I + 2 Q + 2 Q^2 + ..., the last one times `last` instead of 2.

    subtle: PEFT stops there only from the fourth term on: two terms are I + 2 Q, three are I + 2 Q + 2 Q^2 + Q^3 since
    0.18, where `last` is 1, and I + 2 Q + 2 Q^2 before, where it was 2. Source: `_cayley_batch` of PEFT's tuners/oft.
    """
    import torch

    total = torch.eye(skewed.shape[-1], dtype=skewed.dtype, device=skewed.device).repeat(len(skewed), 1, 1)
    if terms > 1:
        total += 2 * skewed
    if terms > 2:
        power = skewed @ skewed
        total += 2 * power
        for _ in range(3, terms - 1):
            power = power @ skewed
            total += 2 * power
        if last == 1 or terms > 3:
            total += last * (power @ skewed)
    return total


def times_blocks(tile: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """tile[rows, n * b] @ block_diag(blocks[n, b, b]); one block stands for as many as there are columns for."""
    import torch

    count, size, _ = blocks.shape
    if count == 1:
        return (tile.reshape(-1, size) @ blocks[0]).view(tile.shape)
    product = torch.bmm(tile.reshape(len(tile), count, size).transpose(0, 1), blocks)
    return product.transpose(0, 1).reshape(tile.shape)


def refuse_convolution(layer: Layer, role: str, module: Module) -> None:
    """Raise AdapterError for a convolution on which PEFT itself fails: with groups, or a kernel that is not square."""
    shape = module.parameters["weight"]
    if module.groups != 1 or len(set(shape[2:])) > 1:
        raise AdapterError(
            f"{layer.config.title} has no merged form on a convolution with groups or with a kernel that is not square",
            where=f"`{layer.need(role).ref.name}`",
            found=f"weight {list(shape)} and {module.groups} groups in `{module.path}`",
            hint="PEFT cannot run such a layer either: train the adapter without it.",
        )
