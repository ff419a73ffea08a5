"""Terms on a part of a matrix, on its transpose, and in any tiles: always the same change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ingot.adapters import Add, Dora, Factor, LowRank, Needs, Replace, ReplaceRows, Term
from ingot.adapters.principal import Method, Principal
from ingot.errors import AdapterError, MismatchError
from ingot.formats import TensorRef

ROWS, COLUMNS, RANK = 9, 7, 3
GENERATOR = torch.Generator().manual_seed(11)
TENSORS = {
    "A": torch.randn(RANK, COLUMNS, generator=GENERATOR),
    "B": torch.randn(ROWS, RANK, generator=GENERATOR),
    "V": torch.randn(ROWS, COLUMNS, generator=GENERATOR),
    "T": torch.randn(3, COLUMNS, generator=GENERATOR),
    "m_rows": torch.rand(ROWS, generator=GENERATOR) + 0.5,
    "m_columns": torch.rand(COLUMNS, generator=GENERATOR) + 0.5,
}
W = torch.randn(ROWS, COLUMNS, generator=GENERATOR)


def factor(name: str) -> Factor:
    tensor = TENSORS[name]
    return Factor(0, TensorRef(name, "F32", tuple(tensor.shape), "f", 0, 4 * tensor.numel()))


LOW_RANK = LowRank(factor("B"), factor("A"), 1.7)
V64 = W.double() + 1.7 * TENSORS["B"].double() @ TENSORS["A"].double()
TERMS: dict[str, tuple[Term, torch.Tensor]] = {
    "low rank": (LOW_RANK, V64),
    "dora over columns": (
        Dora(LOW_RANK, factor("m_rows"), axis=1),
        (TENSORS["m_rows"].double() / V64.norm(dim=1))[:, None] * V64,
    ),
    "dora over rows": (
        Dora(LOW_RANK, factor("m_columns"), axis=0),
        TENSORS["m_columns"].double() / V64.norm(dim=0) * V64,
    ),
    "replace": (Replace(factor("V")), TENSORS["V"].double()),
    "replace rows": (
        ReplaceRows((5, 0, 8), factor("T"), ROWS),
        W.double().index_copy(0, torch.tensor([5, 0, 8]), TENSORS["T"].double()),
    ),
    "add": (Add(factor("V"), 0.4), W.double() + 0.4 * TENSORS["V"].double()),
    "principal": (
        Principal((ROWS, COLUMNS), RANK, 1.7, Method.SVD, "F32"),
        W.double() - sum(s * u[:, None] * v[None] for s, u, v in list(zip(
            torch.linalg.svd(W.double()).S, torch.linalg.svd(W.double()).U.T, torch.linalg.svd(W.double()).Vh,
            strict=False))[:RANK]),
    ),
}  # fmt: skip


def applied(term: Term, matrix: torch.Tensor, height: int) -> torch.Tensor:
    result = matrix.clone()

    def tiles() -> Iterator[tuple[int, torch.Tensor]]:
        for row in range(0, len(matrix), height):
            yield row, matrix[row : row + height].clone()

    def load(wanted: Factor) -> torch.Tensor:
        tensor = wanted.of(TENSORS[wanted.ref.name])
        assert tuple(tensor.shape) == wanted.shape
        return tensor

    change = term.prepare(load, tiles)
    for row in range(0, len(result), height):
        change(result[row : row + height], row)
    return result


@pytest.mark.parametrize("height", [1, 2, 4, 9, 50])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_its_formula_in_tiles_of_any_height(name: str, height: int) -> None:
    term, expected = TERMS[name]
    torch.testing.assert_close(applied(term, W, height).double(), expected, rtol=1e-5, atol=1e-5)
    assert term.shape == (ROWS, COLUMNS)
    assert term.flops() >= 0
    assert term.formula
    assert term.needs in Needs


@pytest.mark.parametrize("rows", [(0, 9), (2, 7), (8, 9)])
@pytest.mark.parametrize("columns", [(0, 7), (3, 5)])
@pytest.mark.parametrize("name", TERMS)
def test_a_part_of_a_term_changes_a_block_as_the_whole_does(
    name: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    term, expected = TERMS[name]
    needs_rows = name in ("dora over rows", "replace rows", "principal")
    needs_columns = name in ("dora over columns", "principal")
    if (needs_rows and rows != (0, 9)) or (needs_columns and columns != (0, 7)):
        with pytest.raises(MismatchError):
            term.part(rows, columns)
        return
    block = (slice(*rows), slice(*columns))
    part = term.part(rows, columns)
    assert part.shape == (rows[1] - rows[0], columns[1] - columns[0])
    torch.testing.assert_close(applied(part, W[block], 2).double(), expected[block], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_transposed_term_changes_the_transpose(name: str) -> None:
    term, expected = TERMS[name]
    if name == "replace rows":
        with pytest.raises(MismatchError):
            term.transposed()
        return
    turned = term.transposed()
    assert turned.shape == (COLUMNS, ROWS)
    torch.testing.assert_close(applied(turned, W.T.contiguous(), 2).double(), expected.T, rtol=1e-5, atol=1e-5)


def test_the_principal_part_of_olora_is_the_same_for_the_transpose() -> None:
    term = Principal((ROWS, COLUMNS), RANK, 1.7, Method.QR, "F32")
    q, r = torch.linalg.qr(W.double())
    expected = W.double() - 1.7 * q[:, :RANK] @ r[:RANK]
    torch.testing.assert_close(applied(term, W, 4).double(), expected, rtol=1e-5, atol=1e-5)
    turned = applied(term.transposed(), W.T.contiguous(), 4)
    torch.testing.assert_close(turned.double(), expected.T, rtol=1e-5, atol=1e-5)


def test_the_residual_is_rounded_to_the_dtype_of_the_base() -> None:
    result = applied(Principal((ROWS, COLUMNS), RANK, 1.0, Method.SVD, "BF16"), W, 4)
    assert torch.equal(result, result.bfloat16().float())


def test_a_dtype_that_pissa_cannot_start_from_is_refused() -> None:
    with pytest.raises(MismatchError):
        applied(Principal((ROWS, COLUMNS), RANK, 1.0, Method.SVD, "F8_E4M3"), W, 4)


def test_factors_that_do_not_multiply_are_refused_by_name() -> None:
    with pytest.raises(MismatchError, match="A"):
        LowRank(factor("A"), factor("B"), 1.0)


@pytest.mark.parametrize(
    "steps",
    [
        (("transpose", 0, 1),),
        (("reshape", 3, 3, 7), ("select", 1, 2), ("narrow", 1, 2, 6)),
        (("narrow", 0, 1, 4), ("block_diagonal", 3), ("transpose", 0, 1)),
        (("reshape", 9, 7, 1), ("select", 2, 0)),
    ],
)
def test_a_factors_shape_is_that_of_what_it_reads(steps: tuple[tuple[str | int, ...], ...]) -> None:
    view = factor("V")
    for step in steps:
        view = view.then(*step)
    assert tuple(view.of(TENSORS["V"]).shape) == view.shape


@pytest.mark.parametrize(
    "step", [("reshape", 2, 2), ("select", 0, 9), ("narrow", 0, 3, 10), ("block_diagonal", 2), ("fold", 1)]
)
def test_a_view_that_does_not_fit_is_refused(step: tuple[str | int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        factor("V").then(*step)


@pytest.mark.parametrize("scaling", [1e39, -1e39, 1e308, float("inf"), float("nan")])
def test_a_scaling_that_float32_does_not_hold_is_refused(scaling: float) -> None:
    LowRank(factor("B"), factor("A"), torch.finfo(torch.float32).max)
    with pytest.raises(AdapterError, match=r"float32.* B"):
        LowRank(factor("B"), factor("A"), scaling)
