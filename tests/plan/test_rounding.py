"""Which tensor is rounded how, what the plan says of it, and what it warns of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.adapters.dora import Dora
from ingot.adapters.factor import Factor
from ingot.adapters.terms import Add, LowRank, Replace, ReplaceRows, Term
from ingot.errors import UsageError
from ingot.formats.tensor_ref import TensorRef
from ingot.merge import prepare
from ingot.plan.look import Look
from ingot.plan.model import Op, Options, PlacedTerm, Rounding
from ingot.plan.render import as_json, as_lines
from ingot.plan.rounding import LOST_BELOW, PRESERVE_BELOW, decide
from tests import toy

NEAREST, STOCHASTIC, PRESERVE = Rounding.NEAREST, Rounding.STOCHASTIC, Rounding.PRESERVE


def factor(*shape: int) -> Factor:
    return Factor(0, TensorRef("f", "F32", shape, "file", 0, 4))


LOW_RANK = LowRank(factor(8, 2), factor(2, 6), 1.0)
TERMS: dict[str, Term] = {
    "product": LOW_RANK,
    "dora": Dora(LOW_RANK, factor(8)),
    "bias": Add(factor(8, 6), 1.0),
    "saved": Replace(factor(8, 6)),
    "tokens": ReplaceRows((1,), factor(1, 6), 8),
}


class Ratios(Look):
    """A look that has seen `ratio` everywhere."""

    def __init__(self, ratio: float | None) -> None:
        super().__init__({}, [])
        object.__setattr__(self, "ratio", ratio)

    def delta_ulps(self, op: Op) -> float | None:
        return self.ratio  # type: ignore[attr-defined, no-any-return]


def op(*terms: str, dtype: str = "BF16", name: str = "w") -> Op:
    source = TensorRef(name, "BF16", (8, 6), "s", 0, 96)
    placed = tuple(PlacedTerm(TERMS[term], (0, 8), (0, 6)) for term in terms)
    return Op(name, dtype, (8, 6), source, (8, 6), placed)


def rounding(asked: str, *terms: str, ratio: float | None = 0.1, dtype: str = "BF16") -> Rounding:
    decided = decide({"s": [op(*terms, dtype=dtype)]}, Options(rounding=asked, seed=5), Ratios(ratio))
    (found,) = decided.ops["s"]
    assert found.seed == (5 if found.rounding is STOCHASTIC else 0)
    return found.rounding


@pytest.mark.parametrize(
    ("terms", "stochastic", "preserve"),
    [
        (["product"], STOCHASTIC, PRESERVE),
        (["product", "product"], STOCHASTIC, PRESERVE),
        (["dora"], STOCHASTIC, STOCHASTIC),
        (["bias"], STOCHASTIC, STOCHASTIC),
        (["product", "bias"], STOCHASTIC, STOCHASTIC),
        (["saved"], NEAREST, NEAREST),
        (["tokens"], NEAREST, NEAREST),
        ([], NEAREST, NEAREST),
    ],
    ids=lambda value: "+".join(value) or "none" if isinstance(value, list) else str(value),
)
def test_a_mode_applies_where_it_means_something(terms: list[str], stochastic: Rounding, preserve: Rounding) -> None:
    assert rounding("nearest", *terms) is NEAREST
    assert rounding("stochastic", *terms) is stochastic
    assert rounding("preserve", *terms) is preserve
    assert rounding("auto", *terms) is preserve
    assert {rounding(mode, *terms, dtype="F32") for mode in ("nearest", "stochastic", "preserve", "auto")} == {NEAREST}


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.99 * PRESERVE_BELOW, PRESERVE), (PRESERVE_BELOW, NEAREST), (100.0, NEAREST), (None, NEAREST)],
)
def test_auto_goes_by_the_ratio(ratio: float | None, expected: Rounding) -> None:
    assert rounding("auto", "product", ratio=ratio) is expected


def test_what_was_decided_is_said() -> None:
    ops = {"s": [op("product"), op("dora", name="d"), op(name="c")]}
    assert decide(ops, Options(rounding="auto"), Ratios(0.1)).notes == (
        "Rounding auto: stochastic for 1 tensor, preserve for 1 tensor.",
    )
    assert decide(ops, Options(rounding="preserve"), Ratios(0.1)).notes == (
        "Rounding preserve is for products of two factors; 1 tensor with other terms: stochastic.",
    )
    assert decide(ops, Options(rounding="stochastic"), Ratios(0.1)).notes == ()


def test_nearest_is_warned_of_where_it_loses_the_update() -> None:
    ops = {"s": [op("product", name=f"w{n}") for n in range(100)]}
    (warning,) = decide(ops, Options(), Ratios(0.25)).warnings
    assert "16 of 16 tensors" in warning
    assert "0.25" in warning
    assert all(remedy in warning for remedy in ("--rounding preserve", "--rounding auto", "--dtype float32"))
    assert decide(ops, Options(), Ratios(LOST_BELOW)).warnings == ()
    assert decide(ops, Options(), Ratios(None)).warnings == ()
    assert decide(ops, Options(rounding="auto"), Ratios(0.25)).warnings == ()


def test_another_word_is_refused() -> None:
    with pytest.raises(UsageError, match="no such rounding"):
        decide({}, Options(rounding="up"), Ratios(None))


def test_a_real_plan_warns_and_shows_what_was_chosen(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "small", scale=0.003)
    toy.make_adapter(tmp_path / "large", scale=0.3)

    def shown(adapter: str, **options: object) -> tuple[str, dict[str, object]]:
        with prepare(str(tmp_path / "base"), [(str(tmp_path / adapter), 1.0)], Options(**options)) as job:  # type: ignore[arg-type]
            return " ".join(" ".join(as_lines(job.plan, 100)).split()), as_json(job.plan)

    text, value = shown("small")
    assert "in 4 of 4 tensors looked at" in text
    assert len(value["warnings"]) == 1  # type: ignore[arg-type]
    assert "Warnings" not in shown("large")[0]
    assert "Warnings" not in shown("small", dtype="F32")[0]
    text, value = shown("small", rounding="auto", seed=3)
    assert "rounding: auto seed: 3" in text
    assert "Rounding auto: preserve for 4 tensors." in text
    assert value["options"]["rounding"] == "auto"  # type: ignore[index]
    assert value["options"]["seed"] == 3  # type: ignore[index]
    assert "Rounding auto: nearest for 4 tensors." in shown("large", rounding="auto")[0]


def test_the_budget_covers_error_feedback(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    peaks = {}
    for mode in ("nearest", "preserve"):
        with prepare(str(tmp_path / "base"), [(str(tmp_path / "adapter"), 1.0)], Options(rounding=mode), jobs=2) as job:
            assert job.plan.budget is not None
            peaks[mode] = job.plan.budget.peak_memory_nbytes
    assert peaks["preserve"] >= peaks["nearest"] + 2 * (4 << 20)
