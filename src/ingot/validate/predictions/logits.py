"""Logits of reference and candidate on the same tokens: KL divergence, top-1 agreement, perplexity.

Two passes, so that never both models are in memory: the reference's logits go to a file, row after row, as float32;
the candidate's are held against it as they come. All figures are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, cast

from ingot.errors import NonFiniteError
from ingot.storage import PosixDisk
from ingot.validate.model import Progress, Unsupported
from ingot.validate.predictions.rows import Rows
from ingot.validate.result import Logits

if TYPE_CHECKING:
    import torch

#: Elements of one piece of [tokens, vocabulary] that is computed on in float64 at a time.
_PIECE = 1 << 22


class HasLogits(Protocol):
    """As much of a `Model` as this needs. `columns`: logits of a token."""

    @property
    def columns(self) -> int: ...

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]: ...


@dataclass(frozen=True)
class Spool:
    """The reference's logits in a file: float32 [all tokens, columns], the rows one after the other.

    `vocabulary` is how many token ids the reference's tokenizer makes; columns beyond are padding.
    """

    path: Path
    rows: Rows
    columns: int
    vocabulary: int

    def compare(self, candidate: HasLogits, progress: Progress, *, normalized: bool = False) -> Logits:
        """Second pass. `normalized`: one of both gives log-probabilities, so the largest difference is of those.

        Raises:
            Unsupported: the candidate lacks columns for tokens of the reference.
            NonFiniteError: a logit is NaN or infinite.
        """
        columns = common_columns(self.columns, candidate.columns, self.vocabulary)
        tally = Tally(self.rows, columns, normalized=normalized)
        theirs = candidate.logits(self.rows.ids, progress)
        for number, (reference, logits) in enumerate(zip(self._read(), theirs, strict=True)):
            tally.add(number, reference, logits)
        return tally.result()

    def _read(self) -> Iterator[torch.Tensor]:
        import numpy as np
        import torch

        mapped = np.memmap(self.path, dtype=np.float32, mode="r", shape=(self.rows.tokens, self.columns))
        begin = 0
        for row in self.rows.ids:
            yield torch.from_numpy(mapped[begin : begin + len(row)].copy())
            begin += len(row)


@contextmanager
def spooled(
    reference: HasLogits, rows: Rows, *, vocabulary: int, directory: Path, progress: Progress
) -> Iterator[Spool]:
    """First pass: write the reference's logits to a file of known size in `directory`, and remove it at the end.

    Raises:
        ResourceError: the disk has no room for it.
        OutputError: the directory cannot be written to.
        Unsupported, and whatever the reference raises.
    """
    columns, offset = reference.columns, 0
    with TemporaryDirectory(dir=directory, prefix="logits-") as folder:
        path = Path(folder, "reference.float32")
        file = PosixDisk().create(path, nbytes=4 * rows.tokens * columns, direct=False)
        try:
            for logits in reference.logits(rows.ids, progress):
                file.write_at(memoryview(cast(Any, logits.contiguous().numpy())), offset)
                offset += logits.nbytes
        finally:
            file.close()
        yield Spool(path, rows, columns, vocabulary)


def common_columns(reference: int, candidate: int, vocabulary: int) -> int:
    """The columns that are compared: those of the smaller model, where the larger one only has padding beyond.

    Raises Unsupported: the smaller one has fewer columns than there are tokens.
    """
    fewer = min(reference, candidate)
    if reference != candidate and fewer < vocabulary:
        raise Unsupported(
            f"the vocabularies differ: {reference} logits in the reference, {candidate} in the candidate, "
            f"and the tokenizer makes {vocabulary} tokens"
        )
    return fewer


@dataclass
class Tally:
    """Adds up the figures of all rows. Only the first `columns` logits count; probabilities are taken over those.

    `normalized`: the largest difference is that of log-probabilities, and not of logits.
    """

    rows: Rows
    columns: int
    normalized: bool = False
    _kl: dict[int, float] = field(default_factory=dict)  # mean of each sample
    _kl_sum: float = 0.0
    _worst_kl: tuple[float, int] = (-1.0, -1)
    _largest: tuple[float, int] = (-1.0, -1)
    _agreeing: int = 0
    _surprise: tuple[float, float] = (0.0, 0.0)

    def add(self, number: int, reference: torch.Tensor, candidate: torch.Tensor) -> None:
        """Row `number`: float32 logits[tokens, at least `columns`] of both."""
        import torch

        sample, ids = self.rows.samples[number], torch.tensor(self.rows.ids[number])
        height = max(1, _PIECE // self.columns)
        found: list[float] = []
        for begin in range(0, len(ids), height):
            here = slice(begin, begin + height)
            ours, theirs = (logits[here, : self.columns].double() for logits in (reference, candidate))
            self._check_finite(sample, ours, theirs)
            p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
            found += (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()  # rounding may leave -1e-17
            self._agreeing += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
            apart = p - q if self.normalized else ours - theirs
            self._largest = max(self._largest, (float(apart.abs().max()), sample), key=_figure)
            following = ids[begin + 1 : begin + 1 + height]
            surprise = (-logs[: len(following)].gather(1, following[:, None]).sum().item() for logs in (p, q))
            self._surprise = (self._surprise[0] + next(surprise), self._surprise[1] + next(surprise))
        self._kl[sample] = math.fsum(found) / len(found)
        self._kl_sum += math.fsum(found)
        self._worst_kl = max(self._worst_kl, (max(found), sample), key=_figure)

    def result(self) -> Logits:
        """After all rows were added."""
        tokens, predicted = self.rows.tokens, self.rows.tokens - len(self.rows.ids)
        reference, candidate = (math.exp(min(700.0, total / predicted)) for total in self._surprise)
        samples = sorted(self._kl)
        return Logits(
            tokens=tokens,
            mean_kl=self._kl_sum / tokens,
            worst_kl=self._worst_kl[0],
            worst_kl_sample=self._worst_kl[1],
            top1=self._agreeing / tokens,
            perplexity_reference=reference,
            perplexity_candidate=candidate,
            largest_difference=self._largest[0],
            largest_difference_sample=self._largest[1],
            sample_kl=tuple(self._kl[sample] for sample in samples),
            samples=tuple(samples),
        )

    def _check_finite(self, sample: int, reference: torch.Tensor, candidate: torch.Tensor) -> None:
        for whose, logits in (("reference", reference), ("candidate", candidate)):
            if not logits.isfinite().all():
                hint = "Try the evaluation in float32: float16 overflows in some models."
                raise NonFiniteError(f"the {whose} gives a NaN or an infinity", where=f"sample {sample}", hint=hint)


def _figure(pair: tuple[float, int]) -> float:
    return pair[0]
