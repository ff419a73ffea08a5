"""An artifact in brief: what its record says, and nothing that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.registry.entry import facts_of
from tests.registry.conftest import Library
from tests.registry.inputs import merge
from tests.registry.shelf import evaluated

EVALUATION = {
    "ok": False, "evaluated_on": "2026-11-30T00:00:00Z", "logits": {"mean_kl": 0.25, "top1": 0.5},
    "tasks": [{"name": "billing", "candidate": 0.75, "reference": 1, "samples": 8}],
    "harness": [{"task": "arc", "metric": "acc", "candidate": 0.5, "reference": 0.5, "samples": 9}],
}  # fmt: skip


def test_labels_and_inputs_are_those_of_the_recipe(library: Library) -> None:
    facts = library.entry("support-v2").facts
    record = json.loads((library.folder("support-v2") / "ingot.json").read_bytes())
    build = record["predicate"]["buildDefinition"]
    assert (facts.title, facts.version, facts.format, facts.base) == ("support", "2", "safetensors", "base")
    (adapter,) = facts.adapters
    assert (adapter.version, adapter.training_run, adapter.ranks, adapter.alphas) == ("2", "run-2", (2,), (4.0,))
    assert {file.sha256 for file in facts.files if file.role != "output"} == {
        entry["digest"]["sha256"] for entry in build["resolvedDependencies"]
    }
    assert facts.nbytes == sum((library.folder("support-v2") / file.name).stat().st_size for file in facts.outputs)
    weights = facts.weights("0")
    assert weights is not None
    assert weights.name == "adapter_model.safetensors"


def test_scores_are_those_of_the_latest_evaluation(library: Library) -> None:
    folder = library.folder("support-v1")
    evaluated(folder, ok=True, tasks=[])
    evaluated(folder, **EVALUATION)
    scores = library.entry("support-v1").facts.scores
    assert scores is not None
    assert [(one.task, one.candidate, one.reference, one.samples) for one in scores.tasks] == [
        ("billing", 0.75, 1.0, 8), ("arc:acc", 0.5, 0.5, 9),
    ]  # fmt: skip
    assert (scores.ok, scores.mean_kl, scores.top1) == (False, 0.25, 0.5)


@pytest.mark.parametrize("change", [
    {"tasks": 3}, {"tasks": [{"name": "x", "candidate": "good", "reference": 1, "samples": 8}]}, {"logits": "fine"},
    {"harness": [{"task": "arc"}]}, {"logits": {"mean_kl": "none"}}, {"logits": {"top1": []}}, {"harness": 1},
])  # fmt: skip
def test_an_evaluation_of_another_form_tells_no_scores_and_no_fault(
    library: Library, change: dict[str, object]
) -> None:
    evaluated(library.folder("support-v1"), **{**EVALUATION, **change})
    assert library.entry("support-v1").facts.scores is None
    assert library.registry.faults == {}


def test_an_artifact_without_a_release_is_called_after_its_inputs(library: Library, tmp_path: Path) -> None:
    record = merge(library.root / "base", [(library.root / "lora-1", 1.0)], tmp_path / "out")
    facts = facts_of(record)
    assert (facts.title, facts.version, facts.recipe_sha256) == ("base-lora-1", None, None)
