"""The verdict in a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingot.validate.report.text import lines
from tests.validate import example
from tests.validate.report.page import hostile


def test_the_verdict_and_the_reference_come_first() -> None:
    assert lines(example.evaluation(1, failing=False), 100)[:3] == [
        "Passed     merged-8b is within all 6 limits when held against the reference on 200 samples.",
        "",
        "Reference  acme/base-8b + adapters/commands + adapters/dates",
    ]


def test_every_candidate_has_a_row_with_its_figures() -> None:
    found = lines(example.evaluation(4), 200)
    head = next(line for line in found if "mean KL" in line)
    rows = found[found.index(head) + 1 :][:4]
    assert head.split()[:8] == ["verdict", "tokens", "equal", "survival", "mean", "KL", "top-1", "commands"]
    assert rows[2].split()[:7] == ["merged-8b-Q4_K_M.gguf", "passed", "same", "–", "–", "0.00617", "98.4"]
    assert "FAILED" in rows[3]
    assert "94.2 % → 80.0 % (−20.4 to −7.9)" in rows[3]
    ends = {line.index("passed") for line in rows[:3]}
    assert len(ends) == 1


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_lines_are_not_wider_than_the_terminal(width: int) -> None:
    found = lines(example.evaluation(4), width)
    assert max(map(len, found)) <= width
    assert not [line for line in found if line != line.rstrip()]


def test_what_failed_is_told_in_plain_words_and_modules_are_named() -> None:
    evaluation = example.evaluation(4)
    text = " ".join(" ".join(lines(evaluation, 120)).split())
    for gate in evaluation.candidates[3].gates:
        assert (gate.said in text) == (not gate.ok)
    assert "model.layers.13.mlp.down_proj: The adapter's update is not in it: the tensor equals the base." in text
    assert "model.layers.3.input_layernorm.weight: no adapter changes it, and it differs from the base" in text
    assert "left out Weights: tensors of a GGUF are not compared element by element." in text


def test_a_candidate_that_is_right_has_nothing_told_of_it() -> None:
    found = lines(example.evaluation(1, failing=False), 120)
    assert not [line for line in found if line == "merged-8b" or line.startswith(("failed", "modules", "left out"))]


def test_many_named_modules_are_counted_and_not_listed() -> None:
    whole = example.evaluation(4)
    weights = whole.candidates[3].weights
    assert weights is not None
    modules = tuple(replace(module, said="off") for module in weights.modules)
    bad = replace(whole.candidates[3], weights=replace(weights, modules=modules))
    text = "\n".join(lines(replace(whole, candidates=(bad,)), 100))
    assert text.count(": off") == 12
    assert "and 184 modules more" in text


def test_parts_that_were_not_measured_have_no_column() -> None:
    text = "\n".join(lines(example.bare(), 100))
    assert "survival" not in text
    assert "verdict" not in text
    assert "commands" in text
    assert lines(example.empty(), 100)[0].startswith("Not judged")


def test_nothing_of_a_model_reaches_the_terminal_as_a_control_character() -> None:
    assert all(line.isprintable() for line in lines(hostile.evaluation(), 100))
