"""Which method is advised for which figures, and how they are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingot.plan.interference import (
    ALIKE,
    DROWNING,
    ENTANGLED,
    GroupInterference,
    Interference,
    Pair,
    advice,
    interference_lines,
)


def group(
    cosine: float = 0.0,
    *,
    sizes: tuple[float, float] = (0.02, 0.02),
    shared: float | None = 0.012,
    count: int = 4,
    pattern: str = "model.layers.*.self_attn.q_proj.weight",
) -> GroupInterference:
    pair = Pair((0, 1), cosine, 0.5, shared, None if shared is None else 0.01)
    return GroupInterference(pattern, count, min(count, 8), dict(enumerate(sizes)), (pair,), True)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (group(0.0), ("little in common", "--method linear, with weights of 1")),
        (group(ALIKE - 0.01), ("--method linear",)),
        (group(ALIKE), ("much the same", "--method ties")),
        (group(1.0), ("much the same", "cosine 1.00")),
        (group(-ALIKE), ("contradict", "two models", "no method keeps both")),
        (group(0.0, shared=0.01 * ENTANGLED), ("answer to the same inputs", "0.015; by chance 0.010")),
        (group(0.0, sizes=(0.01, 0.01 * DROWNING)), ("Adapter 2 is 2.0 times as large as adapter 1", "smaller weight")),
    ],
)
def test_each_figure_has_its_advice_with_the_reason(found: GroupInterference, words: tuple[str, ...]) -> None:
    told = " ".join(advice([found]))
    assert all(word in told for word in words), told
    assert "`ingot validate --samples`" in told


@pytest.mark.parametrize("unremarkable", [group(0.0), group(0.0, shared=None), group(0.1, sizes=(0.01, 0.015))])
def test_what_is_unremarkable_gives_no_other_advice_than_a_method(unremarkable: GroupInterference) -> None:
    assert len(advice([unremarkable])) == 2


def test_the_figures_of_groups_count_by_their_tensors() -> None:
    assert "little in common" in advice([group(0.9, count=1), group(0.0, count=9)])[0]
    assert "much the same" in advice([group(0.9, count=9), group(0.0, count=1)])[0]


def test_adapters_that_meet_nowhere_are_simply_added() -> None:
    assert advice([]) == (
        "No tensor is changed by more than one adapter: --method linear, which changes nothing of them.",
    )


def test_the_table_has_a_row_for_each_group_and_pair_and_the_advice_under_it() -> None:
    three = replace(
        group(), sizes={0: 0.5, 1: 0.25, 2: 0.125}, pairs=tuple(Pair(p, -0.001, None, None, None) for p in PAIRS)
    )
    found = Interference((group(0.25), three), 3, ("Do this, since that is so.",))
    lines = interference_lines(found, 80)
    assert lines[0] == "Interference: 8 tensors changed by several adapters, 3 by one alone"
    assert len(lines) == 2 + 1 + 3 + 1
    assert "0.25" in lines[2]
    assert "50%" in lines[2]
    assert "0.02, 0.02" in lines[2]
    assert [line.split()[2:4] for line in lines[3:6]] == [["1·2", "0.00"], ["1·3", "0.00"], ["2·3", "0.00"]]
    assert lines[-1].strip() == "advice   Do this, since that is so."
    assert all(len(line) <= 80 for line in lines)


PAIRS = ((0, 1), (0, 2), (1, 2))


def test_without_groups_there_is_no_table() -> None:
    lines = interference_lines(Interference((), 5, ("Add them.",)), 80)
    assert lines == ["Interference: 0 tensors changed by several adapters, 5 by one alone", "  advice   Add them."]
