"""Figures and verdicts as people read them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.validate.report.words import (
    interval_text,
    labels,
    limit_of,
    number_text,
    p_text,
    percent_text,
    points_text,
    power_text,
    sample_text,
    share_text,
    verdict,
)
from ingot.validate.result import Candidate, Gate
from tests.validate import example


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"), (0.5, "50.0 %"), (0.99997, "99.997 %"), (0.9992, "99.92 %"), (1 - 1e-9, "> 99.9999 %"),
        (1 + 1e-9, "≈ 100 %"), (0.0, "0.0 %"), (2.004, "200.4 %"), (-0.25, "-25.0 %"), (None, ""),
        (math.nan, "not finite"),
    ],
)  # fmt: skip
def test_shares_read_100_only_where_they_are(share: float | None, text: str) -> None:
    assert share_text(share) == text


@given(st.floats(-10, 10).filter(lambda share: share != 1))
def test_no_other_share_reads_100(share: float) -> None:
    assert share_text(share) not in ("100 %", "100.0 %")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (3.14159e-6, "3.14×10⁻⁶"), (0.00123, "0.00123"), (0.547, "0.547"), (7.412, "7.41"), (123.4, "123"),
        (12345.6, "12,346"), (1.5e9, "1.50×10⁹"), (-0.25, "-0.250"), (math.inf, "not finite"), (None, ""),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number_text(value) == text


@given(st.floats(1e-300, 1e300))
def test_a_number_reads_as_what_it_is_within_half_a_percent(value: float) -> None:
    mantissa, _, power = number_text(value).replace(",", "").partition("×10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
    assert math.isclose(float(mantissa) * 10.0**exponent, value, rel_tol=0.0051)


def test_other_figures() -> None:
    assert [points_text(value) for value in (-0.0125, 0.0, -1e-9, 0.2, math.nan)] == [
        "−1.2", "0.0", "0.0", "+20.0", "not finite",
    ]  # fmt: skip
    assert interval_text((-0.03, 0.01)) == "−3.0 to +1.0"
    assert [p_text(value) for value in (1.0, 0.0005, 0.0312)] == ["1.000", "< 0.001", "0.031"]
    assert [power_text(value) for value in (1e-4, 0.01, 0.1, 1.0, 100.0, 1e6)] == [
        "10⁻⁴",
        "0.01",
        "0.1",
        "1",
        "100",
        "10⁶",
    ]
    assert [percent_text(value) for value in (0.95, 0.999, 0.8)] == ["95 %", "99.9 %", "80 %"]


def test_the_verdict_names_who_failed_and_at_what() -> None:
    ruled = verdict(example.evaluation(4))
    assert ruled.word == "failed"
    assert ruled.sentence == (
        "1 of 4 candidates is outside its limits: merged-8b-int4 (same tokens, KL divergence, top-1 agreement, score, "
        "survival of the adapter)."
    )
    whole = example.evaluation(4)
    alone = verdict(replace(whole, candidates=whole.candidates[3:]))
    assert alone.sentence.startswith(
        "merged-8b-int4 is outside its limits when held against the reference on 200 samples:"
    )


def test_the_verdict_of_those_that_pass_and_of_those_that_nobody_judged() -> None:
    passed = verdict(example.evaluation(4, failing=False))
    assert passed.word == "passed"
    assert passed.sentence == (
        "All 4 candidates are within their limits when held against the reference on 200 samples."
    )
    assert verdict(example.bare()).word == "not judged"


def named(*names: str) -> list[Candidate]:
    one = example.evaluation(1).candidates[0]
    return [replace(one, subject=replace(one.subject, name=name)) for name in names]


def test_labels_are_short_and_tell_candidates_apart() -> None:
    assert labels(named("/data/out/merged", "org/model-7b")) == ["merged", "org/model-7b"]
    assert labels(named("/a/merged", "/b/merged")) == ["/a/merged", "/b/merged"]
    assert labels(named("base + adapters/x")) == ["base + adapters/x"]
    assert all(len(label) <= 32 for label in labels(named("y" * 500)))


def test_a_limit_is_read_as_a_fraction_whatever_its_task_is_called() -> None:
    [one] = named("m")
    for limit, value in (
        ("at least 80.00 % of every update", 0.8), ("mmlu 5 points: at most 2.00 points lost", 0.02),
        ("at most 0.05", 0.05), ("at most 1e-05", 1e-5), ("none", None),
    ):  # fmt: skip
        gates = (Gate("other", "9", "", True, ""), Gate("--limit", limit, "", True, ""))
        assert limit_of(replace(one, gates=gates), "--limit") == value
    assert limit_of(one, "--absent") is None


def test_a_sample_is_named_by_its_file() -> None:
    whole = example.evaluation(1)
    assert [sample_text(whole, number) for number in (0, 119, 120, 199, 200)] == [
        "sample 0 of commands", "sample 119 of commands", "sample 0 of dates", "sample 79 of dates", "sample 0",
    ]  # fmt: skip
