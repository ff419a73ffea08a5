"""The papers' formulas in float64, on whole matrices with numpy: what knows nothing of ingot.

combined(method, deltas, weights, ...)   what is added to W, for deltas Δᵢ of one tensor
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def largest(scores: Array, k: int) -> Array:
    """A mask of the k largest, equal ones by their place."""
    order = np.argsort(-scores.reshape(-1), kind="stable")[:k]
    mask = np.zeros(scores.size, dtype=bool)
    mask[order] = True
    return mask.reshape(scores.shape)


def draws(seed: int, tensor: str, adapter: int, shape: tuple[int, int]) -> Array:
    """The numbers in [0, 1) that chance is: a hash of seed, name, adapter, row and column, in 32-bit words.

    Source: docs/combining.md; lowbias32 of C. Wellons, with arithmetic shifts.
    """
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{adapter}".encode()).digest()
    low, high = (int.from_bytes(digest[at : at + 4], "little", signed=True) for at in (0, 4))

    def mix(x: Array, between: Array) -> Array:
        x = x ^ (x >> 16)
        x = wrap(x * 0x7FEB352D) ^ between
        x = x ^ (x >> 15)
        return wrap(x * (0x846CA68B - 2**32))

    def wrap(x: Array) -> Array:
        return (x & 0xFFFFFFFF).astype(np.uint32).astype(np.int32).astype(np.int64)

    rows = np.arange(shape[0], dtype=np.int64)[:, None]
    columns = wrap(np.arange(shape[1], dtype=np.int64) * 0x9E3779B9)[None]
    one = mix(wrap(rows + low), np.int64(high))
    other = mix(one ^ high, np.int64(low))
    return (mix(wrap(one + columns), other) >> 8) * 2.0**-24 + 0.5


def kept(method: str, delta: Array, density: float, gamma: float, epsilon: float, chance: Array) -> Array:
    """K ∘ Δ."""
    size = delta.size
    if density == 1:
        return delta
    if method in ("ties", "magnitude_prune"):
        return delta * largest(np.abs(delta), max(1, int(density * size)))
    if method.startswith("breadcrumbs"):
        top, wanted = int(gamma * size), max(1, int(density * size))
        return delta * (largest(np.abs(delta), top + wanted) & ~largest(np.abs(delta), top))
    if method.startswith("dare"):
        return delta * (chance < np.float32(density)) / density
    rank = np.argsort(np.argsort(np.abs(delta), axis=1, kind="stable"), axis=1)
    p = (
        density - epsilon + 2 * epsilon * rank / (delta.shape[1] - 1)
        if delta.shape[1] > 1
        else np.full(rank.shape, density)
    )
    return delta * (chance < p) / p


def agreeing(deltas: Sequence[Array], weights: Sequence[float], frequency: bool) -> Array:
    """The mean of those that agree with the elected sign."""
    weighted = [weight * delta for weight, delta in zip(weights, deltas, strict=True)]
    sign = np.sign(sum(weighted))
    if frequency:
        votes = np.sign(sum(np.sign(delta) for delta in weighted))
        sign = np.where(votes == 0, sign, votes)
    agree = [(np.sign(delta) == sign) & (sign != 0) for delta in weighted]
    voices = sum(abs(weight) * mask for weight, mask in zip(weights, agree, strict=True))
    total = sum(delta * mask for delta, mask in zip(weighted, agree, strict=True))
    return np.divide(total, voices, out=np.zeros_like(total), where=voices != 0)


def sce(deltas: Sequence[Array], density: float, adapters: int) -> Array:
    """Select, calculate, erase."""
    everyone = np.stack([*deltas, *[np.zeros_like(deltas[0])] * (adapters - len(deltas))])
    if density < 1:
        variance = everyone.var(axis=0)
        everyone = everyone * largest(variance, int(density * np.count_nonzero(variance)))
    energies = np.square(everyone).sum(axis=(1, 2))
    eta = energies / energies.sum()
    sign = np.sign(everyone.sum(axis=0))
    agree = (np.sign(everyone) == sign) & (sign != 0)
    weights = eta[:, None, None] * agree
    total, divisor = (everyone * weights).sum(axis=0), weights.sum(axis=0)
    return np.divide(total, divisor, out=np.zeros_like(total), where=divisor != 0)


def combined(
    method: str,
    deltas: Sequence[Array],
    weights: Sequence[float],
    *,
    density: float = 0.5,
    scale: float = 1.0,
    frequency: bool = False,
    gamma: float = 0.01,
    epsilon: float = 0.15,
    chances: Sequence[Array] | None = None,
    adapters: int | None = None,
) -> Array:
    """What the method adds to W."""
    if method == "sce":
        return scale * sce(deltas, density, adapters or len(deltas))
    if method not in ("linear", "sequential"):
        chances = chances or deltas
        deltas = [
            kept(method, delta, density, gamma, epsilon, chance) for delta, chance in zip(deltas, chances, strict=True)
        ]
    if method in ("ties", "dare_ties", "della", "breadcrumbs_ties"):
        return scale * agreeing(deltas, weights, frequency)
    return scale * sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
