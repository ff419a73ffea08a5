"""`layer_replication`: the adapter was trained on a model whose decoder layers are the base's, repeated.

PEFT shares the weights of repeated layers in memory and cannot merge them rightly; on disk each copy becomes a layer of
its own. [[0, 2], [1, 3]] on three layers means new layers 0, 1, 2, 3 from old layers 0, 1, 1, 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingot.errors import MismatchError

#: Where PEFT looks for the list of decoder layers (peft.tuners.tuners_utils.replicate_layers), by its path's end.
_LAYER = re.compile(
    r"^(?P<head>(?:.*\.)?(?:model\.layers|encoder\.layer|transformer\.h))\.(?P<number>\d+)\.(?P<tail>.+)$"
)


@dataclass(frozen=True)
class Replication:
    """New layer i is a copy of base layer `sources[i]`; no sources, no replication."""

    sources: tuple[int, ...] = ()

    @classmethod
    def of(cls, ranges: Sequence[Sequence[int]] | None, tensor_names: Iterable[str]) -> Replication:
        """Read PEFT's [begin, end) ranges, and check that the base has these layers."""
        if not ranges:
            return cls()
        sources = tuple(layer for begin, end in ranges for layer in range(begin, end))
        present = {int(m["number"]) for name in tensor_names if (m := _LAYER.match(name))}
        if not sources or not set(sources) <= present:
            raise MismatchError(
                "the adapter repeats layers that the base does not have",
                where="layer_replication",
                expected=f"layers among 0..{max(present, default=-1)}",
                found=[list(r) for r in ranges],
            )
        return cls(sources)

    def base_path(self, path: str) -> tuple[str, int | None]:
        """The base's module path for an adapter's module path, and the new layer's number."""
        match = _LAYER.match(path)
        if not self.sources or match is None:
            return path, None
        number = int(match["number"])
        if number >= len(self.sources):
            raise MismatchError(
                "the adapter changes a layer beyond those it makes", where=path,
                expected=f"layer < {len(self.sources)}", found=number,
            )  # fmt: skip
        return f"{match['head']}.{self.sources[number]}.{match['tail']}", number

    def renamed(self, tensor: str, layer: int | None) -> str:
        """The output name of a base tensor in new layer `layer`."""
        match = _LAYER.match(tensor)
        if layer is None or match is None:
            return tensor
        return f"{match['head']}.{layer}.{match['tail']}"

    def copies(self, tensor: str) -> list[str]:
        """All output names of a base tensor, in order; an unused layer's tensors have none."""
        match = _LAYER.match(tensor) if self.sources else None
        if match is None:
            return [tensor]
        number = int(match["number"])
        return [self.renamed(tensor, new) for new, old in enumerate(self.sources) if old == number]
