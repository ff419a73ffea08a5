"""The table of a checkpoint whose model class is not known: a module is what shares the stem of its tensors' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ingot.adapters.module import Module, ModuleKind
from ingot.naming.layout import Layout
from ingot.naming.table import Table, split


def table(shapes: Mapping[str, tuple[int, ...]], *, why: str) -> Table:
    """Names and shapes in memory are taken to be those on disk; every module is of kind UNKNOWN."""
    return Table(
        model_class=None,
        why=why,
        modules=modules_from(shapes, lambda _: ModuleKind.UNKNOWN),
        shapes=shapes,
        layouts={name: Layout.whole(name, shape) for name, shape in shapes.items()},
        owners={name: name for name in shapes},
    )


def modules_from(shapes: Mapping[str, tuple[int, ...]], kind: Callable[[str], ModuleKind]) -> dict[str, Module]:
    """Modules with the parameters that stand on disk under their path; `kind` tells their kind by that path."""
    parameters: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        path, leaf = split(name)
        parameters.setdefault(path, {})[leaf] = shape
    return {path: Module(path, kind(path), own) for path, own in parameters.items()}
