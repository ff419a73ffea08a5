"""The k largest of tiles: exactly k, equal ones by their place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ingot.combine.selection import Census, Cut
from ingot.errors import NonFiniteError
from tests.combine.reference import largest


def census(matrices: list[torch.Tensor], height: int) -> Census:
    def sweep() -> Iterator[tuple[int, list[torch.Tensor]]]:
        for row in range(0, len(matrices[0]), height):
            yield row, [matrix[row : row + height].clone() for matrix in matrices]

    return Census(sweep, matrices[0].numel())


def held(cut: Cut, matrix: torch.Tensor, height: int) -> np.ndarray:
    tiles = [cut.holds(matrix[row : row + height].clone(), row) for row in range(0, len(matrix), height)]
    return torch.cat(tiles).numpy()


def scores(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind == "spread":
        return torch.randn(37, 11, generator=generator).abs()
    if kind == "few values":
        return torch.randint(0, 4, (37, 11), generator=generator).float()
    if kind == "tiny and huge":
        return torch.randn(37, 11, generator=generator).abs() * 10.0 ** torch.randint(
            -44, 38, (37, 11), generator=generator
        )
    if kind == "neighbours":  # equal in their upper 16 bits
        return 1 + torch.randint(0, 300, (37, 11), generator=generator) * 2.0**-23
    return torch.zeros(37, 11) if kind == "zero" else torch.full((37, 11), 2.5)


KINDS = ("spread", "few values", "tiny and huge", "neighbours", "zero", "equal")


@pytest.mark.parametrize("height", [1, 5, 12, 37, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_k_largest_are_those_of_a_stable_sort(kind: str, height: int) -> None:
    matrix = scores(kind)
    wanted = (0, 1, 2, 90, 203, 406, 407)
    (cuts,) = census([matrix], height).cuts([wanted])
    for k, cut in zip(wanted, cuts, strict=True):
        found = held(cut, matrix, height)
        assert found.sum() == k
        assert (found == largest(matrix.numpy(), k)).all()


def test_several_matrices_are_counted_in_one_pass_each_with_its_own_numbers() -> None:
    matrices = [scores("spread"), scores("few values"), scores("zero")]
    counted = census(matrices, 10)
    for matrix, cuts, ks in zip(matrices, counted.cuts([(7,), (3, 200), ()]), [(7,), (3, 200), ()], strict=True):
        assert [
            (held(cut, matrix, 10) == largest(matrix.numpy(), k)).all() for cut, k in zip(cuts, ks, strict=True)
        ] == [True] * len(ks)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_has_no_rank(value: float) -> None:
    matrix = scores("spread")
    matrix[20, 3] = value
    with pytest.raises(NonFiniteError, match="beyond the range of float32"):
        census([matrix], 5)
