"""Blocks of a tensor that hold one row space each, and the factor that spans it."""

from __future__ import annotations

import torch

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Add, LowRank
from ingot.engine.blocks import blocks_of
from ingot.formats.tensor_ref import TensorRef
from ingot.plan.model import Op, PlacedTerm


def factor(name: str, *shape: int) -> Factor:
    return Factor(0, TensorRef(name, "F32", shape, "file", 0, 4 * shape[0] * shape[1]))


def product(name: str, rows: tuple[int, int], columns: tuple[int, int], rank: int = 2) -> PlacedTerm:
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    return PlacedTerm(LowRank(factor(f"{name}.B", height, rank), factor(f"{name}.A", rank, width), 1.0), rows, columns)


def op(*terms: PlacedTerm) -> Op:
    return Op("w", "BF16", (100, 60), None, (100, 60), terms)


def shown(*terms: PlacedTerm) -> list[tuple[tuple[int, int], tuple[int, int], list[str]]]:
    return [
        (block.rows, block.columns, [placed.term.factors()[1].ref.name for placed in block.terms])
        for block in blocks_of(op(*terms))
    ]


def test_two_adapters_of_one_module_share_a_block() -> None:
    whole = (0, 100), (0, 60)
    assert shown(product("a", *whole), product("b", *whole)) == [(*whole, ["a.A", "b.A"])]


def test_a_fused_tensor_has_a_block_for_each_module() -> None:
    q, v = product("q", (0, 40), (0, 60)), product("v", (70, 100), (0, 60))
    assert shown(v, q) == [((0, 40), (0, 60), ["q.A"]), ((70, 100), (0, 60), ["v.A"])]


def test_rows_that_overlap_are_cut_at_every_edge() -> None:
    found = shown(product("a", (0, 60), (0, 60)), product("b", (40, 100), (0, 60)))
    assert found == [
        ((0, 40), (0, 60), ["a.A"]),
        ((40, 60), (0, 60), ["a.A", "b.A"]),
        ((60, 100), (0, 60), ["b.A"]),
    ]


def test_columns_that_overlap_are_one_block_and_others_are_not() -> None:
    rows = (0, 100)
    found = shown(product("a", rows, (0, 20)), product("c", rows, (40, 60)), product("b", rows, (10, 30)))
    assert found == [(rows, (0, 30), ["a.A", "b.A"]), (rows, (40, 60), ["c.A"])]


def test_a_bias_has_no_row_space() -> None:
    assert shown(PlacedTerm(Add(factor("b", 100, 60), 1.0), (0, 100), (0, 60))) == []


def test_factors_stand_on_one_another_each_in_its_own_columns() -> None:
    (block,) = blocks_of(op(product("a", (0, 100), (5, 20)), product("b", (0, 100), (10, 30), rank=3)))
    values = {"a.A": torch.randn(2, 15), "b.A": torch.randn(3, 20)}
    expected = torch.zeros(5, 25)
    expected[:2, :15], expected[2:, 5:] = values["a.A"], values["b.A"]
    assert torch.equal(block.factor(lambda f: values[f.ref.name]), expected)
