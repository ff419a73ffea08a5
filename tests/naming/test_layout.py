"""Layouts against torch: the same operations, on descriptions and on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import core_model_loading as conversion

from ingot.adapters.module import Module, ModuleKind
from ingot.naming import Site
from ingot.naming.layout import Layout, NotPlaceable, placements, stack
from tests.naming.conftest import assemble


def _numbered(shapes: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors in which every element is another number."""
    count = 0
    tensors = {}
    for index, shape in enumerate(shapes):
        size = int(torch.Size(shape).numel())
        tensors[f"t{index}"] = torch.arange(count, count + size, dtype=torch.float32).reshape(shape)
        count += size
    return tensors


def _check(operation: Callable[..., Any], disk: dict[str, torch.Tensor], *, stacked: bool = True) -> None:
    """`operation` maps a list of tensors to one tensor, and must map their layouts to that tensor's layout."""
    expected = operation(list(disk.values()))
    layout = operation([Layout.whole(name, tuple(tensor.shape)) for name, tensor in disk.items()])
    assert layout.shape == tuple(expected.shape)
    kind = ModuleKind.EXPERTS if stacked else ModuleKind.CONV
    module = Module("m", kind, {"p": layout.shape})
    site = Site(module, {"p": placements(layout, stacked=stacked)}, {})
    assert torch.equal(assemble(site, "p", disk), expected)


CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "a vector": (lambda t: t[0], [(5,)]),
    "a scalar": (lambda t: t[0], [()]),
    "a matrix": (lambda t: t[0], [(3, 4)]),
    "a stack": (lambda t: t[0], [(2, 3, 4)]),
    "a transposed matrix": (lambda t: torch.transpose(t[0], 0, 1), [(3, 4)]),
    "a stack of transposed matrices": (lambda t: torch.transpose(t[0], 1, 2).contiguous(), [(2, 3, 4)]),
    "rows of two": (lambda t: torch.cat(t, dim=0), [(3, 4), (2, 4)]),
    "columns of two": (lambda t: torch.cat(t, dim=-1), [(3, 4), (3, 2)]),
    "two vectors": (lambda t: torch.cat(t), [(3,), (2,)]),
    "the second of three chunks": (lambda t: torch.chunk(t[0], 3, dim=0)[1], [(6, 4)]),
    "the last of three unequal chunks": (lambda t: torch.chunk(t[0], 3, dim=0)[2], [(7, 4)]),
    "a chunk of columns": (lambda t: t[0].chunk(2, dim=1)[1], [(3, 4)]),
    "a chunk over the seam of two": (lambda t: torch.cat(t).chunk(2)[1], [(3, 4), (3, 4), (2, 4)]),
    "experts": (lambda t: torch.stack(t, dim=0), [(3, 4), (3, 4)]),
    "gate and up experts": (
        lambda t: torch.cat([torch.stack(t[:2]), torch.stack(t[2:])], dim=1),
        [(3, 4), (3, 4), (2, 4), (2, 4)],
    ),
    "one expert of a stack": (lambda t: torch.unbind(t[0], dim=0)[1], [(2, 3, 4)]),
    "one squeezed expert": (lambda t: torch.chunk(t[0], 2, dim=0)[1].squeeze(), [(2, 3, 4)]),
    "half of one transposed expert": (lambda t: t[0].transpose(1, 2).unbind(0)[1].narrow(0, 1, 2), [(2, 3, 4)]),
    "a matrix of one row": (lambda t: t[0].transpose(0, 1), [(1, 4)]),
    "a kernel seen as a matrix": (lambda t: t[0].reshape(3, -1), [(3, 2, 2, 2)]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operation_on_layouts_places_what_torch_computes(case: str) -> None:
    operation, shapes = CASES[case]
    _check(operation, _numbered(shapes))


@pytest.mark.parametrize("shape", [(3, 2, 5), (3, 2, 2, 2), (3, 2, 2, 2, 2)])
def test_rows_of_kernels_are_concatenated_and_cut(shape: tuple[int, ...]) -> None:
    _check(lambda t: torch.cat(t).chunk(2)[1], _numbered([shape, shape]), stacked=False)


CHAIN = st.lists(
    st.one_of(
        st.tuples(st.just("cat"), st.integers(0, 2)),
        st.tuples(st.just("chunk"), st.integers(0, 2), st.integers(2, 3)),
        st.tuples(st.just("transpose"), st.just(1), st.just(2)),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(chain=CHAIN, shape=st.tuples(*[st.integers(1, 4)] * 3))
def test_any_chain_of_cuts_and_joins_places_what_torch_computes(chain: list[Any], shape: tuple[int, ...]) -> None:
    def run(parts: list[Any]) -> Any:
        """Every step joins the parts or takes the last chunk of each, in the same way for tensors and layouts."""
        for name, *numbers in chain:
            if name == "cat":
                parts = [torch.cat(parts, dim=numbers[0]), *parts[1:]] if len({p.shape for p in parts}) == 1 else parts
            elif name == "chunk":
                parts = [torch.chunk(part, numbers[1], dim=numbers[0])[-1] for part in parts]
            else:
                parts = [torch.transpose(part, *numbers) for part in parts]
        return parts[0]

    _check(run, _numbered([shape, shape]))


def _converted(operations: list[Any], sources: list[str], shapes: list[tuple[int, ...]], **options: Any) -> Any:
    converter: Any = conversion.WeightConverter(sources, "target", operations=operations)
    for index, (source, shape) in enumerate(zip(sources, shapes, strict=True)):
        converter.add_tensor("target", f"t{index}", source, Layout.whole(f"t{index}", shape))
    return converter.convert("target", **options)["target"]


@pytest.mark.parametrize(
    "operation",
    [conversion.Interleave(dim=0), conversion.PermuteForRope(permute_layer_names=["source"])],
    ids=["interleave", "rotary permutation"],
)
def test_operations_that_scatter_rows_are_not_placeable(operation: Any) -> None:
    class Config:
        num_attention_heads = 2

    with pytest.raises(NotPlaceable):
        _converted([operation], ["source"], [(8, 4)], config=Config())


def test_exchanging_a_stack_with_its_rows_is_not_placeable() -> None:
    layout = Layout.whole("t", (2, 3, 4)).transpose(0, 1)
    with pytest.raises(NotPlaceable, match="axes"):
        placements(layout, stacked=True)


def test_an_unknown_operation_names_itself() -> None:
    for operation in (lambda t: torch.flip(t, [0]), lambda t: t.flip(0), lambda t: t[0]):
        with pytest.raises(NotPlaceable):
            operation(Layout.whole("t", (4, 4)))


def test_parts_of_unequal_shape_are_not_placeable() -> None:
    with pytest.raises(NotPlaceable, match="unequal"):
        stack([Layout.whole("a", (2, 3)), Layout.whole("b", (3, 3))])
