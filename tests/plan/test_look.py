"""The ratio of an update to half an ulp, against torch in float64 over the whole tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Add, LowRank, Replace, Term
from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef
from ingot.plan.look import Look
from ingot.plan.model import Op, PlacedTerm
from ingot.storage.inputs import InputFile

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
BITS = {"BF16": 8, "F16": 11, "F32": 24}
ROWS, COLUMNS = 400, 300


class Files:
    """Tensors in files of their own, as base and as adapter 0."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, InputFile] = {}

    def add(self, name: str, values: torch.Tensor, dtype: str) -> TensorRef:
        stored = values.to(TORCH[dtype])
        raw = stored.view(torch.uint8).numpy().tobytes()
        (self._folder / name).write_bytes(b"abc" + raw)
        self.files[name] = InputFile.open(self._folder, name, error=AdapterError)
        return TensorRef(name, dtype, tuple(values.shape), name, 3, 3 + len(raw))

    def look(self, op: Op) -> float | None:
        return Look(self.files, [self.files]).delta_ulps(op)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def normal(*shape: int, size: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double() * size


def op(source: TensorRef, dtype: str, *terms: PlacedTerm) -> Op:
    return Op("w", dtype, (ROWS, COLUMNS), source, (ROWS, COLUMNS), terms)


def everywhere(term: Term) -> PlacedTerm:
    return PlacedTerm(term, (0, ROWS), (0, COLUMNS))


def ratio(delta: torch.Tensor, weight: torch.Tensor, dtype: str) -> float:
    """rms(Δ) / rms(half ulp), the ulp of each weight by the exponent of its binade."""
    step = torch.ldexp(torch.ones_like(weight), torch.frexp(weight).exponent - BITS[dtype])
    return float(delta.square().mean().sqrt() / (step / 2).square().mean().sqrt())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("stored", ["BF16", "F16", "F32", "F64"])
def test_a_few_rows_tell_the_ratio_of_the_whole(files: Files, dtype: str, stored: str) -> None:
    weight = normal(ROWS, COLUMNS, size=0.03).to(TORCH[dtype]).double()
    B, A = normal(ROWS, 4, size=1e-3), normal(4, COLUMNS)
    term = LowRank(Factor(0, files.add("B", B, stored)), Factor(0, files.add("A", A, stored)), -0.5)
    found = files.look(op(files.add("w", weight, dtype), dtype, everywhere(term)))
    assert found == pytest.approx(ratio(-0.5 * B @ A, weight, dtype), rel=0.5)
    transposed = LowRank(Factor(0, files.add("Bt", B.T.contiguous(), stored)).T, term.right, -0.5)
    assert files.look(op(files.add("w", weight, dtype), dtype, everywhere(transposed))) == pytest.approx(
        found, rel=1e-6
    )


def test_rows_that_no_term_changes_do_not_count(files: Files) -> None:
    weight = normal(ROWS, COLUMNS, size=0.03).bfloat16().double()
    B, A = normal(40, 4, size=1e-3), normal(4, 100)
    term = LowRank(Factor(0, files.add("B", B, "F32")), Factor(0, files.add("A", A, "F32")), 1.0)
    ref = files.add("w", weight, "BF16")
    found = files.look(op(ref, "BF16", PlacedTerm(term, (200, 240), (150, 250))))
    assert found == pytest.approx(ratio(B @ A, weight[200:240, 150:250], "BF16"), rel=0.5)


def test_two_updates_add_up(files: Files) -> None:
    weight = files.add("w", normal(ROWS, COLUMNS, size=0.03), "BF16")
    left, right = (
        Factor(0, files.add("B", normal(ROWS, 4), "F32")),
        Factor(0, files.add("A", normal(4, COLUMNS), "F32")),
    )
    one, minus, half = (everywhere(LowRank(left, right, scaling)) for scaling in (1.0, -1.0, 0.5))
    alone = files.look(op(weight, "BF16", one))
    assert alone is not None
    assert files.look(op(weight, "BF16", one, half)) == pytest.approx(1.5 * alone)
    assert files.look(op(weight, "BF16", one, minus)) is None  # nothing is left


def test_a_trained_bias_counts(files: Files) -> None:
    weight, values = normal(ROWS, COLUMNS), normal(ROWS, COLUMNS, size=1e-3)
    term = Add(Factor(0, files.add("b", values, "F32")), 2.0)
    found = files.look(op(files.add("w", weight, "BF16"), "BF16", everywhere(term)))
    assert found == pytest.approx(ratio(2 * values, weight.bfloat16().double(), "BF16"), rel=0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("where", ["w", "A"])
def test_what_is_not_finite_has_no_ratio(files: Files, bad: float, where: str) -> None:
    values = {"w": normal(ROWS, COLUMNS), "A": normal(2, COLUMNS), "B": normal(ROWS, 2) * 1e300}
    values[where][:] = bad
    ref = {name: files.add(name, tensor, "F64" if name == "B" else "F32") for name, tensor in values.items()}
    found = files.look(op(ref["w"], "BF16", everywhere(LowRank(Factor(0, ref["B"]), Factor(0, ref["A"]), 1.0))))
    assert found is None or (bad == 3e38 and found > 0)


NOTHING: list[tuple[str, Callable[[Files], Op]]] = [
    ("no terms", lambda files: op(files.add("w", normal(ROWS, COLUMNS), "BF16"), "BF16")),
    (
        "all from the adapter",
        lambda files: op(
            files.add("w", normal(ROWS, COLUMNS), "BF16"),
            "BF16",
            everywhere(Replace(Factor(0, files.add("v", normal(ROWS, COLUMNS), "F32")))),
        ),
    ),
    (
        "an update of zero",
        lambda files: op(
            files.add("w", normal(ROWS, COLUMNS), "BF16"),
            "BF16",
            everywhere(Add(Factor(0, files.add("b", torch.zeros(ROWS, COLUMNS), "F32")), 1.0)),
        ),
    ),
]


@pytest.mark.parametrize("make", [make for _, make in NOTHING], ids=[name for name, _ in NOTHING])
def test_there_is_no_ratio_without_a_sum(files: Files, make: Callable[[Files], Op]) -> None:
    assert files.look(make(files)) is None
