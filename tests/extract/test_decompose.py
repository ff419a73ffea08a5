"""Truncated decompositions against numpy's SVD in float64: singular values, energies, and the product itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ingot.extract import decompose as module
from ingot.extract.decompose import choose_rank, decompose, residual_energy, total_energy
from ingot.extract.model import Budget

RANK = Budget.of(8, None, None)


def matrix(rows: int, columns: int, decay: float = 0.5, seed: int = 0) -> torch.Tensor:
    """float32[rows, columns] with singular values i^-decay in random directions."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, min(rows, columns), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, min(rows, columns), generator=generator, dtype=torch.float64)).Q
    values = torch.arange(1, min(rows, columns) + 1, dtype=torch.float64) ** -decay
    return ((left * values) @ right.T).float()


def reference(delta: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(delta.double().numpy(), compute_uv=False)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64), (1, 30), (30, 1)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 3.0])
def test_the_exact_way_is_numpys_svd(shape: tuple[int, int], decay: float) -> None:
    delta = matrix(*shape, decay)
    found, expected = decompose(delta, RANK, "a"), reference(delta)
    rank = min(8, *shape)
    assert np.allclose(found.energies.numpy(), expected[:rank] ** 2, rtol=1e-9, atol=1e-14 * expected[0] ** 2)
    assert math.isclose(found.total, float((expected**2).sum()), rel_tol=1e-12)
    left, right = found.cut(rank)
    assert math.isclose(residual_energy(delta, left, right), float((expected[rank:] ** 2).sum()), abs_tol=1e-13)
    assert torch.allclose(left.square().sum(0), right.square().sum(1), rtol=1e-6)  # balanced


@pytest.mark.parametrize("shape", [(700, 300), (300, 700)])
@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_the_sketched_way_holds_as_much_and_says_exactly_how_much(
    shape: tuple[int, int], decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_SIDE", 100)
    delta = matrix(*shape, decay)
    found, expected = decompose(delta, RANK, "a"), reference(delta)
    best, held = float((expected[:8] ** 2).sum()), float(found.energies.sum())
    assert best * (1 - 1e-4) < held <= best * (1 + 1e-12)
    assert math.isclose(residual_energy(delta, *found.cut(8)), found.total - held, rel_tol=1e-9)


@pytest.mark.parametrize("exact_side", [100, 1024])
@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9, 1.0])
def test_the_smallest_rank_that_holds_the_energy_is_found(
    energy: float, exact_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_SIDE", exact_side)
    delta = matrix(500, 600, 0.75)
    budget = Budget.of(None, energy, 400)
    spectrum = decompose(delta, budget, "a")
    held = np.cumsum(reference(delta) ** 2) / (reference(delta) ** 2).sum()
    expected = min(400, int((held >= energy * (1 - 1e-12)).argmax()) + 1 if energy < 1 else 400)
    assert abs(choose_rank([spectrum], budget) - expected) <= (exact_side == 100)


def test_a_stack_gets_the_rank_that_holds_the_energy_of_all_its_matrices() -> None:
    budget = Budget.of(None, 0.95, None)
    deltas = [matrix(20, 30, 0.0) * 0.01, matrix(20, 30, 2.0, seed=1)]
    spectra = [decompose(delta, budget, "a") for delta in deltas]
    values = [reference(delta) ** 2 for delta in deltas]
    held = np.cumsum(values[0] + values[1]) / sum(float(v.sum()) for v in values)
    assert choose_rank(spectra, budget) == int((held >= 0.95).argmax()) + 1


def test_a_matrix_with_less_to_give_than_the_rank_is_padded_with_zeros() -> None:
    spectrum = decompose(matrix(5, 30), RANK, "a")
    left, right = spectrum.cut(8)
    assert (left.shape, right.shape) == ((5, 8), (8, 30))
    assert not left[:, 5:].any()
    assert residual_energy(matrix(5, 30), left, right) < 1e-12


def test_zeros_have_zero_factors() -> None:
    for columns in (6, 1100):
        spectrum = decompose(torch.zeros(2000, columns), Budget.of(2, None, None), "a")
        assert not spectrum.left.any()
        assert not spectrum.right.any()
        assert spectrum.total == 0


def test_the_same_seed_gives_the_same_factors_and_another_one_the_same_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_SIDE", 100)
    delta = matrix(400, 300)
    one, again, other = (decompose(delta, RANK, seed) for seed in ("a", "a", "b"))
    assert torch.equal(one.left, again.left)
    assert not torch.equal(one.left, other.left)
    assert torch.allclose(one.energies.sum(), other.energies.sum(), rtol=1e-4)


def test_energies_are_accumulated_in_float64() -> None:
    delta = torch.full((4096, 512), 1e-3)
    assert math.isclose(total_energy(delta), delta.numel() * float(delta[0, 0].double()) ** 2, rel_tol=1e-9)


@pytest.mark.slow
def test_a_matrix_of_a_real_size_in_noise_is_found_by_the_sketch() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(4096, 16, generator=generator), torch.randn(16, 1536, generator=generator)
    delta = left @ right / 4096 + torch.randn(4096, 1536, generator=generator) * 1e-4
    found, expected = decompose(delta, Budget.of(16, None, None), "a"), reference(delta)
    assert np.allclose(found.energies.numpy(), expected[:16] ** 2, rtol=1e-6)
