"""Reference and candidate one decoder layer at a time, from the files, in memory that does not grow with their depth.

At any time one layer of one model is in memory, or the embedding of one, or the last norm and head of both; besides
them the adapters, and the hidden states of all rows for both. The logits are those of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ingot.validate.model import Progress, Unsupported
from ingot.validate.models import unmerged
from ingot.validate.models.filling import Filling, build
from ingot.validate.models.march import March, decoder_layers
from ingot.validate.models.sources import Sources
from ingot.validate.models.stored import Stored
from ingot.validate.models.tokenizer import Tokenizer
from ingot.validate.predictions.logits import Tally, common_columns
from ingot.validate.predictions.rows import Rows, batches, padded
from ingot.validate.result import LayerDistance, Logits, Subject
from ingot.validate.spec import Located

if TYPE_CHECKING:
    import torch


class Streamed(Stored):
    """A `Model` of which one layer at a time is in memory. It gives logits; answers it cannot give."""

    def __init__(self, sources: Sources, tokenizer: Tokenizer, model: Any, filling: Filling, device: str) -> None:
        """Use `open`."""
        self.tokenizer = tokenizer
        self._sources = sources
        self._model = model
        self._filling = filling
        self._device = device

    @classmethod
    def open(cls, located: Located, *, dtype: str | None = None, device: str = "cpu") -> Streamed:
        """Build a model without weights and put its adapters on. Arguments and errors as those of `Whole.open`.

        Raises Unsupported: this architecture, or such an adapter, cannot be streamed.
        """
        sources = Sources.open(located)
        try:
            tokenizer = Tokenizer.open(sources)
            model = build(sources, dtype)
            decoder_layers(model)
            filling = Filling(model, sources, device)
            unmerged.apply(model, sources.adapters, from_meta=True)
            _move(model, device)
        except BaseException:
            sources.close()
            raise
        return cls(sources, tokenizer, model.eval(), filling, device)

    @cached_property
    def subject(self) -> Subject:
        dtype = str(self._model.dtype).removeprefix("torch.")
        return Subject(self._sources.located.name, str(self._sources.kind), self._sources.digest(), dtype)

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return len(decoder_layers(self._model))

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """See `Model.logits`. All rows go through a layer before the next is read."""
        parts = list(batches([len(row) for row in rows], self.columns))
        with self.march([rows[part] for part in parts]) as march:
            for _ in range(self.depth + 1):
                march.next_layer()
            for part, found in zip(parts, march.logits(), strict=True):
                progress(len(found))
                for row, logits in zip(rows[part], found, strict=True):
                    yield logits[: len(row)]

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:  # noqa: ARG002
        """Raises Unsupported: every new token would read the whole model from the disk."""
        raise Unsupported("answers take the whole model in memory; a model that is streamed gives logits alone")

    def march(self, groups: Sequence[Sequence[Sequence[int]]]) -> March:
        """Forward passes over batches of rows."""
        inputs = [padded(rows, 0) for rows in groups]
        here = [{name: tensor.to(self._device) for name, tensor in batch.items()} for batch in inputs]
        return March(self._model, self._filling, here)

    def close(self) -> None:
        self._sources.close()


def compare_layers(
    reference: Streamed, candidate: Streamed, rows: Rows, progress: Progress
) -> tuple[Logits, tuple[LayerDistance, ...]]:
    """Both models in step: how far apart their hidden states are after each layer, and then the logits' figures.

    `progress` is told of layers done: one more in all than `reference.depth`, the embedding counted.

    Raises:
        Unsupported: the models have another number of layers, other widths or vocabularies.
        NonFiniteError: a logit is NaN or infinite.
    """
    if reference.depth != candidate.depth:
        raise Unsupported(f"the reference has {reference.depth} layers, the candidate {candidate.depth}")
    columns = common_columns(reference.columns, candidate.columns, reference.tokenizer.count)
    parts = list(batches([len(row) for row in rows.ids], max(reference.columns, candidate.columns)))
    groups = [rows.ids[part] for part in parts]
    tally, depth = Tally(rows, columns), []
    with reference.march(groups) as ours, candidate.march(groups) as theirs:
        for layer in range(-1, reference.depth):
            depth.append(LayerDistance(layer, _distance(groups, ours.next_layer(), theirs.next_layer())))
            progress(1)
        for part, one, other in zip(parts, ours.logits(), theirs.logits(), strict=True):
            for at, number in enumerate(range(part.start, part.stop)):
                length = len(rows.ids[number])
                tally.add(number, one[at, :length], other[at, :length])
    return tally.result(), tuple(depth)


def _distance(
    groups: Sequence[Sequence[Sequence[int]]], reference: Sequence[torch.Tensor], candidate: Sequence[torch.Tensor]
) -> float:
    """|h' - h| / |h| over all tokens that are not padding, in float64."""
    apart = length = 0.0
    for rows, ours, theirs in zip(groups, reference, candidate, strict=True):
        if ours.shape != theirs.shape or ours.dim() != 3:
            raise Unsupported(f"the hidden states have the shapes {list(ours.shape)} and {list(theirs.shape)}")
        for row, one, other in zip(rows, ours, theirs, strict=True):
            h = one[: len(row)].double()
            apart += float((other[: len(row)].double() - h).square().sum())
            length += float(h.square().sum())
    return math.sqrt(apart / length) if length else 0.0


def _move(model: Any, device: str) -> None:
    """Move what has values: buffers, and the adapters' tensors."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)
