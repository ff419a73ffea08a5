"""ADAPTER=WEIGHT, and near matches."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.cli.arguments import DTYPES, ROUNDINGS, make_options, parse_adapter
from ingot.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out/lora", ("out/lora", 1.0)),
        ("out/lora=0.5", ("out/lora", 0.5)),
        ("out/lora=-1", ("out/lora", -1.0)),
        ("out/lora=+2e-1", ("out/lora", 0.2)),
        ("out/lora=.25", ("out/lora", 0.25)),
        ("org/name@v1=2", ("org/name@v1", 2.0)),
        ("runs/lr=1e-4/final", ("runs/lr=1e-4/final", 1.0)),
        ("runs/lr=1e-4/final=0.5", ("runs/lr=1e-4/final", 0.5)),
        ("a=b", ("a=b", 1.0)),
        ("a=1_0", ("a=1_0", 1.0)),
        ("a=b=3", ("a=b", 3.0)),
    ],
)
def test_a_number_behind_the_last_equals_sign_is_the_weight(text: str, expected: tuple[str, float]) -> None:
    assert parse_adapter(text) == expected


def test_a_directory_that_exists_is_never_cut(tmp_path: Path) -> None:
    (tmp_path / "alpha=16").mkdir()
    assert parse_adapter(f"{tmp_path}/alpha=16") == (f"{tmp_path}/alpha=16", 1.0)
    assert parse_adapter(f"{tmp_path}/alpha=16=0.5") == (f"{tmp_path}/alpha=16", 0.5)


@pytest.mark.parametrize("weight", ["0", "0.0", "-0", "1e-999", "nan", "inf", "-Infinity", "1e999"])
def test_a_weight_is_finite_and_not_zero(weight: str) -> None:
    with pytest.raises(UsageError, match="weight"):
        parse_adapter(f"lora={weight}")


@pytest.mark.parametrize("text", ["", "  ", "=0.5", "a\0b"])
def test_an_adapter_has_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="ADAPTER is empty"):
        parse_adapter(text)


def test_every_dtype_is_one_that_a_merge_can_store() -> None:
    from ingot.kernels.spelling import MERGEABLE

    assert set(DTYPES.values()) == MERGEABLE
    assert make_options("fp16", "nearest", None, False, False).dtype == "F16"
    assert make_options(None, "nearest", None, True, False).accept_nonfinite_base


def test_every_rounding_of_the_plan_can_be_asked_for() -> None:
    from ingot.plan.model import Rounding

    assert set(ROUNDINGS) == set(Rounding)
    options = make_options(None, "stochastic", None, False, False, 7)
    assert (options.rounding, options.seed) == ("stochastic", 7)
