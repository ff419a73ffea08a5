"""Paired statistics: both models answered the same samples, so only the samples on which they part say anything.

McNemar's test is the exact one: of the samples that one model alone got right, is the split between them that of a fair
coin? Two-sided binomial, mid-p not used [McNemar 1947, Psychometrika 12:153; Fagerland et al. 2013, BMC Med Res
Methodol 13:91]. The interval is the percentile bootstrap of the mean difference over samples [Efron & Tibshirani 1993,
ch. 13], ends taken outward to differences that were drawn. Where a handful of samples differ it is too narrow: in
simulations of 256 samples, one that says 95 % covered the truth in 95 of 100 cases with 9 % of samples differing, in 93
with 3 %, in 91 with 1.5 %, in 89 where all of 2 % differ one way. What a sample size can show is the exact power of
that test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ingot.validate.answers.metrics import RIGHT
from ingot.validate.models.libraries import need
from ingot.validate.result import Comparison

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

CONFIDENCE = 0.95
RESAMPLES = 10_000
#: At which p a difference is called one, and how often a true one should be found.
LEVEL, POWER = 0.05, 0.8

#: Numbers held at once while bootstrapping: 32 MiB.
_HELD = 1 << 22
#: Binomial weights further out than this many standard deviations are below 1e-14.
_SPREAD = 8.0


def compare(
    reference: Sequence[float],
    candidate: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Two models' scores in [0, 1] of the same samples, at least one; right is a score of at least a half.

    The same arguments give the same bits. Raises MissingComponent without scipy.
    """
    import numpy as np

    before, after = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(f"scores of the same samples, found shapes {before.shape} and {after.shape}")
    only_reference = int(np.sum((before >= RIGHT) & (after < RIGHT)))
    only_candidate = int(np.sum((before < RIGHT) & (after >= RIGHT)))
    return Comparison(
        samples=before.size,
        reference=float(before.mean()),
        candidate=float(after.mean()),
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=mcnemar(only_reference, only_candidate),
        interval=bootstrap(after - before, confidence=confidence, seed=seed, resamples=resamples),
        confidence=confidence,
        sees=sees(before.size, only_reference + only_candidate, confidence),
    )


def mcnemar(only_one: int, only_other: int) -> float:
    """Two-sided p of the exact test; 1 where no sample differs."""
    both = only_one + only_other
    return min(1.0, 2 * float(_special().bdtr(min(only_one, only_other), both, 0.5))) if both else 1.0


def bootstrap(differences: Floats, *, confidence: float, seed: int, resamples: int) -> tuple[float, float]:
    """Percentile interval of the mean of `differences`[samples], each resample as large as they are.

    To draw samples with replacement is to draw how often each distinct difference comes up: a multinomial.
    """
    import numpy as np

    values, counts = np.unique(differences, return_counts=True)
    shares, rng = counts / counts.sum(), np.random.default_rng(seed)
    rows = max(1, _HELD // len(values))
    sizes = [min(rows, resamples - first) for first in range(0, resamples, rows)]
    # Summed row by row: what a matrix product gives depends on how many rows there are, and on the machine.
    drawn = [(rng.multinomial(differences.size, shares, size=size) * values).sum(axis=1) for size in sizes]
    means = np.concatenate(drawn) / differences.size
    tail = (1 - confidence) / 2
    return float(np.quantile(means, tail, method="lower")), float(np.quantile(means, 1 - tail, method="higher"))


def most_that_differ(samples: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound of the share that differs when of `samples` none did: exact, about 3 / samples (rule of three)."""
    return float(1 - (1 - confidence) ** (1 / samples))


def power(samples: int, drop: float, differing: float) -> float:
    """How often McNemar's test at `LEVEL` finds a true `drop` when a share `differing` >= `drop` of samples differs.

    The number M of samples that differ is binomial(samples, differing); of those, the reference alone is right with
    probability (1 + drop / differing) / 2. Summed over M, not approximated.
    """
    import numpy as np

    special = _special()
    mean, spread = samples * differing, _SPREAD * (samples * differing * (1 - differing)) ** 0.5 + _SPREAD
    m = np.arange(max(1, int(mean - spread)), min(samples, int(mean + spread)) + 1)
    weight = special.bdtr(m, samples, differing) - special.bdtr(m - 1, samples, differing)
    edge = _edge(m)
    share = (1 + drop / differing) / 2
    # Rejected when the side that is alone right less often is right at most `edge` times; -1: never.
    few = np.where(edge >= 0, special.bdtr(np.maximum(edge, 0), m, 1 - share), 0.0)
    many = np.where(edge >= 0, special.bdtr(np.maximum(edge, 0), m, share), 0.0)
    return float(np.sum(weight * (few + many)))


def _edge(m: Integers) -> Integers:
    """Largest count k for each m with 2 · P(X <= k) <= `LEVEL`, X binomial(m, 1/2); -1 where there is none."""
    import numpy as np

    special = _special()
    inverse = np.floor(special.bdtrik(LEVEL / 2, m, 0.5))  # may be one off where it is whole; NaN below the first
    edge = np.where(np.isfinite(inverse), inverse, 0).astype(np.int64) + 1
    for _ in range(3):
        edge = edge - ((edge >= 0) & (2 * special.bdtr(np.maximum(edge, 0), m, 0.5) > LEVEL))
    return edge


def smallest_drop(samples: int, differing: int) -> float | None:
    """The smallest true drop, as a share, that is found with `POWER` at `LEVEL`; None where not even 1 would be.

    `differing` of `samples` were seen to differ; a drop above that share makes as many differ as it needs.
    """
    seen = differing / samples

    def found(drop: float) -> bool:
        return power(samples, drop, max(seen, drop)) >= POWER

    if not found(1.0):
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def sees(samples: int, differing: int, confidence: float = CONFIDENCE) -> str:
    """What so many samples can and cannot show, in plain words."""
    drop = smallest_drop(samples, differing)
    if drop is None:
        return (
            f"{_samples(samples)} cannot show a drop: even if every answer turned wrong, the test would "
            "not call it one at 5 %. At least 6 are needed, hundreds to see a few points."
        )
    reach = (
        f"A true drop of {_points(drop)} or more would be found 4 times in 5 (McNemar's test at 5 %); "
        "a smaller one may well go unseen."
    )
    if differing:
        return f"On {differing:,} of {_samples(samples)} one model alone is right. {reach}"
    bound = 100 * most_that_differ(samples, confidence)
    return (
        f"On none of {_samples(samples)} one model alone is right: with {100 * confidence:g} % confidence, that is so "
        f"of fewer than {bound:.2g} % of all such samples. {reach}"
    )


def _samples(number: int) -> str:
    return f"{number:,} sample{'' if number == 1 else 's'}"


def _points(share: float) -> str:
    return f"{100 * share:.2g} points" if share < 0.1 else f"{100 * share:.0f} points"


def _special() -> Any:
    need("scipy")
    from scipy import special

    return special
