"""Each gate holds at its limit, fails beyond it, and says what failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingot.errors import UsageError
from ingot.validate.gates import Limits, judge
from ingot.validate.result import (
    Candidate,
    Comparison,
    HarnessScore,
    Logits,
    ModuleFidelity,
    SampleSet,
    Subject,
    Task,
    Tokens,
    Weights,
)

MODULE = ModuleFidelity("a.weight", "a", 0, 100, 1.0, 0, 1e-3, 3.0, 1.0, 0.0)
WEIGHTS = Weights("BF16", (MODULE, replace(MODULE, tensor="b.weight", module="b")), 1.0, 0, 1.0, 5)
LOGITS = Logits(100, 0.01, 0.2, 3, 0.99, 5.0, 5.0, 0.5, 3, (0.01,), (3,))
SCORES = Comparison(100, 0.97, 0.96, 2, 1, 1.0, (-0.04, 0.02), 0.95, "")
TASK = Task(SampleSet("dates", "0" * 64, 100, "contains"), SCORES, ())
CLEAN = Candidate(
    Subject("c", "checkpoint", None), Tokens(8, 8), WEIGHTS, LOGITS, (), (TASK,),
    (HarnessScore("arc", "acc", 0.5, 0.5, 0.1, 0.1, 20),), (),
)  # fmt: skip


def failed(candidate: Candidate, limits: Limits | None = None) -> dict[str, str]:
    return {gate.name: gate.said for gate in judge(candidate, limits or Limits()) if not gate.ok}


def module(**changes: object) -> Candidate:
    changed = (replace(MODULE, tensor="b.weight", module="b", **changes), MODULE)  # type: ignore[arg-type]
    return replace(CLEAN, weights=replace(WEIGHTS, modules=changed))


def test_a_sound_candidate_passes_every_gate_that_there_is() -> None:
    gates = judge(CLEAN, Limits())
    assert all(gate.ok for gate in gates)
    names = [gate.name for gate in gates]
    assert names == ["tokens", "weights", "--min-survival", "--max-kl", "--min-top1"] + ["--max-score-drop"] * 2


def test_what_was_not_measured_has_no_gate() -> None:
    nothing = Candidate(Subject("c", "endpoint", None), None, None, None, (), (), (), ())
    assert judge(nothing, Limits()) == ()


def test_other_tokens_fail_whether_a_sample_shows_them_or_not() -> None:
    assert failed(replace(CLEAN, tokens=Tokens(8, 7, "sample 3: the candidate has lost the chat template"))) == {
        "tokens": "sample 3: the candidate has lost the chat template"
    }
    assert "tokens" in failed(replace(CLEAN, tokens=Tokens(8, 8, "2 of 2048 tokens have another id")))


def test_a_module_with_a_fault_is_named_with_it() -> None:
    assert failed(module(said="the update was added twice", survival=2.0)) == {
        "weights": "b: the update was added twice"
    }


@pytest.mark.parametrize("what", ["untouched_differ", "missing", "extra"])
def test_a_tensor_that_is_not_as_planned_is_named(what: str) -> None:
    found = failed(replace(CLEAN, weights=replace(WEIGHTS, **{what: ("norm.weight",)})))
    assert "norm.weight" in found["weights"]


def test_an_update_that_rounding_took_is_a_matter_of_the_limit_and_no_fault() -> None:
    lost = module(said="40 % of the update was lost to rounding", lost=True, survival=0.6)
    assert "40 %" in failed(lost)["--min-survival"]
    assert failed(lost, Limits(min_survival=0.6)) == {}


@pytest.mark.parametrize(
    ("gate", "limits", "beyond"),
    [
        ("--max-kl", Limits(max_kl=0.01), Limits(max_kl=0.0099)),
        ("--min-top1", Limits(min_top1=0.99), Limits(min_top1=0.991)),
        ("--min-survival", Limits(min_survival=1.0), Limits(min_survival=1.001)),
        ("--max-score-drop", Limits(max_score_drop=0.0100001), Limits(max_score_drop=0.0099)),
    ],
)
def test_a_gate_holds_at_its_limit_and_fails_beyond_it(gate: str, limits: Limits, beyond: Limits) -> None:
    assert failed(CLEAN, limits) == {}
    assert list(failed(CLEAN, beyond)) == [gate]


def test_a_score_of_the_harness_has_the_same_gate() -> None:
    dropped = replace(CLEAN, harness=(replace(CLEAN.harness[0], candidate=0.4),))
    assert failed(dropped)["--max-score-drop"] == "arc (acc): 50.00 % became 40.00 %"


def test_no_drop_is_no_negative_zero() -> None:
    same = replace(CLEAN, tasks=(replace(TASK, comparison=replace(SCORES, candidate=0.97)),))
    assert "-0" not in next(gate.found for gate in judge(same, Limits()) if gate.name == "--max-score-drop")


@pytest.mark.parametrize(
    "wrong",
    [{"max_kl": -1.0}, {"max_kl": float("nan")}, {"min_top1": 1.5}, {"max_score_drop": 2.0}],
)
def test_a_limit_that_no_figure_can_have_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range") as refusal:
        Limits(**wrong)
    assert (refusal.value.where or "").startswith("--")
