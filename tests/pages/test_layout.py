"""Where nodes stand: apart, in order, with edges that go around them."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from ingot.pages.layout import HEIGHT, WIDTH, lay_out, spread

RANDOM = random.Random(5)


def graph(nodes: int, edges: int) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{number}" for number in range(nodes)]
    found = []
    for _ in range(edges if nodes > 1 else 0):
        one, other = sorted(RANDOM.sample(range(nodes), 2))
        found.append((names[one], names[other]))
    return names, found


@pytest.mark.parametrize(("nodes", "edges"), [(1, 0), (2, 1), (12, 20), (40, 70), (40, 0), (60, 180)])
def test_no_two_nodes_touch_and_no_edge_crosses_a_node(nodes: int, edges: int) -> None:
    names, pairs = graph(nodes, edges)
    places = lay_out(names, pairs)
    assert set(places.nodes) == set(names)
    boxes = [(x, y, x + WIDTH, y + HEIGHT) for x, y in places.nodes.values()]
    for at, one in enumerate(boxes):
        assert one[0] >= 0
        assert one[1] >= 0
        assert one[2] <= places.width
        assert one[3] <= places.height
        for other in boxes[at + 1 :]:
            assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    for points in places.edges.values():
        for (x1, y1), (x2, y2) in pairwise(points):
            for left, top, right, bottom in boxes:  # curves lie between columns, level pieces within one
                assert x2 <= left or right <= x1 or (y1 == y2 and not top <= y1 <= bottom)


def test_what_was_made_stands_right_of_what_it_was_made_of() -> None:
    names, pairs = graph(30, 60)
    places = lay_out(names, pairs)
    assert set(places.edges) == set(pairs)
    for one, other in pairs:
        assert places.nodes[one][0] + WIDTH < places.nodes[other][0]
        assert places.edges[one, other][0] == (places.nodes[one][0] + WIDTH, places.nodes[one][1] + HEIGHT // 2)
        assert places.edges[one, other][-1] == (places.nodes[other][0], places.nodes[other][1] + HEIGHT // 2)


def test_columns_may_begin_later_and_late_nodes_stand_by_their_first_use() -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("base", "d"), ("run", "adapter"), ("adapter", "c")]
    places = lay_out(["a", "b", "c", "d", "base", "run", "adapter"], pairs, first={"a": 4}, late=["base"])
    columns = {name: x for name, (x, _) in places.nodes.items()}
    assert columns["base"] == columns["c"]
    assert columns["run"] == 0
    assert columns["a"] > columns["adapter"]


def test_a_circle_is_drawn_without_the_edge_that_closes_it() -> None:
    places = lay_out(["a", "b", "c", "own"], [("a", "b"), ("b", "c"), ("c", "a"), ("own", "own")])
    assert set(places.nodes) == {"a", "b", "c", "own"}
    assert len(places.edges) == 2


def test_nothing_takes_no_room() -> None:
    assert lay_out([], []).nodes == {}


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_spread_is_the_least_squares_solution(count: int) -> None:
    random_ = np.random.default_rng(count)
    wanted, apart = random_.normal(0, 30, count), random_.uniform(5, 40, count - 1)
    shifts = np.concatenate([[0], np.cumsum(apart)])
    expected = isotonic_regression(wanted - shifts).x + shifts
    assert spread(wanted.tolist(), apart.tolist()) == pytest.approx(expected.tolist())


def test_the_same_graph_is_drawn_the_same() -> None:
    names, pairs = graph(200, 400)
    assert lay_out(names, pairs) == lay_out(names, pairs)
