"""Merges in bfloat16 and float16 against the formula in float64, rounded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.oracle.cases import ALL_LINEAR, EVERYWHERE, EXPERT_CASES, VARIANTS, Case
from tests.oracle.reference import Workshop, by_formula, load_base, load_output, merged, on_disk

#: dtype -> (bits of the significand, exponent of the smallest step)
PRECISION = {torch.bfloat16: (8, -133), torch.float16: (11, -24)}
#: Share of elements that must be the float64 result rounded once, over all cases; the rest may be a number beside it.
EXACT = 0.999

_TRIED = {
    "lora_bias",
    "lora_bias, bias all",
    "token rows",
    "token rows of both embeddings",
    "dora on Conv1D",
    "convolutions",
    "dora on convolutions",
    "dora on the patch embedding",
    "patch embedding (Conv3d)",
    "lm_head and embed_tokens saved",
    "wpe targeted",
}
CASES = [
    *EVERYWHERE,
    *(case for case in EXPERT_CASES if "and" in case.what),
    *(c for c in VARIANTS if c.what in _TRIED),
]
QUICK = [case for number, case in enumerate(CASES) if number % 3 == 0]


def step(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbouring numbers of `dtype` at each value."""
    bits, smallest = PRECISION[dtype]
    exponent = torch.frexp(values).exponent
    return torch.ldexp(torch.ones_like(values), torch.clamp(exponent - bits, min=smallest))


def rounded_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 to the nearest number of `dtype`, ties to even: torch goes by way of float32 and rounds twice."""
    return (values / step(values, dtype)).round() * step(values, dtype)


@pytest.mark.parametrize("dtype", PRECISION, ids=["bfloat16", "float16"])
def test_rounding_once_is_torchs_rounding_where_float32_holds_the_value(dtype: torch.dtype) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(3)).double() * 1e-3
    assert torch.equal(rounded_once(values, dtype), values.float().to(dtype).double())


def compare(case: Case, dtype: torch.dtype, workshop: Workshop, target: Path) -> tuple[int, int]:
    """(elements that are the float64 result rounded once, all that the adapter changes); the rest is checked here."""
    base, adapter = workshop.base(case.model, dtype), workshop.adapter(case)
    merged(base, adapter, target)
    assert {tensor.dtype for tensor in on_disk(target).values()} == {dtype}  # transformers loads some as float32
    model = load_base(case, base, dtype)
    before, ours, expected = model.state_dict(), load_output(target, dtype).state_dict(), by_formula(model, adapter)
    assert ours.keys() == before.keys()
    reached = {before[name].data_ptr() for name in expected}  # with the aliases of tied parameters
    untouched = [name for name, tensor in before.items() if tensor.data_ptr() not in reached]
    assert [name for name in untouched if not torch.equal(ours[name], before[name])] == []
    exact = total = 0
    for name, values in expected.items():
        nearest, found = rounded_once(values, dtype), ours[name].double()
        exact += int((found == nearest).sum())
        total += values.numel()
        assert bool(((found - nearest).abs() <= step(nearest, dtype)).all()), name
    return exact, total


def check(
    cases: list[Case], dtype: torch.dtype, workshop: Workshop, directory: Path, subtests: pytest.Subtests
) -> None:
    counts = []
    for number, case in enumerate(cases):
        with subtests.test(case.name):
            counts.append(compare(case, dtype, workshop, directory / str(number)))
    exact, total = (sum(column) for column in zip(*counts, strict=True))
    assert len(counts) == len(cases)
    assert exact >= EXACT * total, f"{exact} of {total}"


@pytest.mark.parametrize("dtype", PRECISION, ids=["bfloat16", "float16"])
def test_merges_are_the_float64_result_rounded_once(
    dtype: torch.dtype, workshop: Workshop, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    check(QUICK, dtype, workshop, tmp_path, subtests)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISION, ids=["bfloat16", "float16"])
def test_all_other_merges_are_the_float64_result_rounded_once(
    dtype: torch.dtype, workshop: Workshop, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    rest = [case for case in [*CASES, *ALL_LINEAR] if case not in QUICK]
    check(rest, dtype, workshop, tmp_path, subtests)
