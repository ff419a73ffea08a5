"""The size of the vocabulary: all embeddings of one model have the same number of rows, or it cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ingot.adapters.module import Module
from ingot.adapters.saved import is_embedding
from ingot.errors import MismatchError
from ingot.naming import Names
from ingot.plan.resolve import ResolvedEdit
from ingot.plan.ties import Ties


def resized_vocabulary(edits: Sequence[ResolvedEdit], ties: Ties, names: Names) -> int | None:
    """The rows that every embedding of the vocabulary gets; None where the adapters bring no other number of rows.

    Raises:
        MismatchError: some embeddings would have another number of rows than the rest; the message names them.
    """
    resized = {e.parameter: (e.edit.term.shape[0], e.site.module) for e in edits if e.edit.resizes}
    if not resized:
        return None
    rows = {name: height for name, (height, _) in resized.items()}
    for name in _beside([module for _, module in resized.values()], names):
        inherits = any(item.edit.resizes for item in ties.inherited.get(name, ()))
        follows = name in names.tied and (inherits or name not in ties.untied)
        source = names.tied[name] if follows else name
        rows.setdefault(name, rows.get(source, _height(source, names)))
    if len(set(rows.values())) > 1:
        raise MismatchError(
            "the embeddings would have different numbers of rows", where=", ".join(rows),
            found=", ".join(map(str, rows.values())),
            hint="The vocabulary was resized in training, and this file does not hold every embedding as it was then.",
        )  # fmt: skip
    return next(iter(rows.values()))


def _beside(resized: Sequence[Module], names: Names) -> Iterator[str]:
    """The weights of all embeddings that have as many rows as one that is resized, by their full names."""
    heights = {module.parameters["weight"][0] for module in resized if "weight" in module.parameters}
    for path, module in names.modules.items():
        shape = module.parameters.get("weight", ())
        if is_embedding(path) and len(shape) == 2 and shape[0] in heights:
            yield f"{path}.weight"


def _height(name: str, names: Names) -> int:
    return names.modules[name.removesuffix(".weight")].parameters["weight"][0]
