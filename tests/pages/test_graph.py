"""Who was made of what: from the records alone."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ingot.pages.drawing import draw
from ingot.pages.graph import Family, Graph, Kind, around, everything, forward
from ingot.registry.entry import Entry
from ingot.registry.store import Registry
from tests.pages import example


def entry(registry: Registry, name: str) -> Entry:
    return next(one for one in registry.entries() if one.name == name)


def titles(graph: Graph, kind: Kind) -> set[str]:
    return {node.title for node in graph.nodes.values() if node.kind is kind}


def edges(graph: Graph) -> set[tuple[str, str]]:
    return {(graph.nodes[one].title, graph.nodes[other].title) for one, other in graph.edges}


def test_an_artifact_stands_between_its_training_runs_and_all_that_was_made_of_it(registry: Registry) -> None:
    graph = around(Family(registry.entries()), entry(registry, "tiny-8b-styled"))
    assert edges(graph) == {
        (example.RUNS[0], "support-lora v1"), ("support-lora v1", "tiny-8b-support-v1"),
        ("tiny-8b", "tiny-8b-support-v1"), (example.RUNS[2], "style-lora v3"), ("style-lora v3", "tiny-8b-styled"),
        ("tiny-8b-support-v1", "tiny-8b-styled"), ("tiny-8b-styled", "tiny-8b-styled-with-facts"),
        ("tiny-8b-styled-with-facts", "tiny-8b-styled-with-facts-bfloat16"),
    }  # fmt: skip
    assert titles(graph, Kind.BASE) == {"tiny-8b"}


def test_the_whole_graph_has_every_artifact_and_each_input_once(registry: Registry) -> None:
    graph = everything(Family(registry.entries()))
    assert titles(graph, Kind.ARTIFACT) == {one.name for one in registry.entries()}
    assert titles(graph, Kind.BASE) == {"tiny-8b", "tiny-8b-instruct"}
    assert titles(graph, Kind.RUN) == set(example.RUNS)
    assert len([node for node in graph.nodes.values() if node.kind is Kind.ADAPTER]) == 3


def test_a_graph_is_cut_where_it_would_be_a_tangle_and_says_by_how_much(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingot.pages.graph.MOST", 2)
    family, newest = Family(registry.entries()), registry.entries()[0]
    assert len(titles(everything(family), Kind.ARTIFACT)) == 2
    assert everything(family).left_out == len(registry.entries()) - 2
    deep = around(family, entry(registry, "tiny-8b-styled"))
    assert titles(deep, Kind.ARTIFACT) == {"tiny-8b-styled", "tiny-8b-support-v1"}
    assert deep.left_out == 2
    assert around(family, newest).left_out == 0
    assert "10 more artifacts" in draw(everything(family), "all")


def test_an_adapter_leads_forward_and_not_to_the_other_inputs(registry: Registry) -> None:
    weights = entry(registry, "tiny-8b-styled").facts.weights("0")
    assert weights is not None
    graph = forward(Family(registry.entries()), weights.sha256)
    assert len(titles(graph, Kind.ADAPTER)) == 1
    assert titles(graph, Kind.BASE) == set()
    assert titles(graph, Kind.RUN) == {example.RUNS[2]}
    assert {"tiny-8b-styled", "tiny-8b-styled-with-facts-bfloat16", "tiny-8b-support-v2"} < titles(graph, Kind.ARTIFACT)


def test_a_freed_artifact_is_still_a_node(registry: Registry) -> None:
    graph = around(Family(registry.entries()), entry(registry, "tiny-8b-support-v1-float32"))
    [own] = [node for node in graph.nodes.values() if node.kind is Kind.ARTIFACT]
    assert own.freed


def test_an_artifact_that_is_as_its_base_was_is_not_its_own_parent(registry: Registry) -> None:
    one = entry(registry, "tiny-8b-styled")
    same = [replace(file, role="base") for file in one.facts.outputs]
    unchanged = replace(one, facts=replace(one.facts, files=(*one.facts.outputs, *same)))
    assert list(Family([unchanged]).parents(unchanged)) == []
