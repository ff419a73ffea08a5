"""The log-likelihood of a text after another, as lm-evaluation-harness takes it, so that figures agree with its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ingot.validate.model import Model, Progress, Unsupported

if TYPE_CHECKING:
    import torch

#: Token ids of what is given, and of what is scored.
Pair = tuple[list[int], list[int]]

#: Rows whose logits are asked for at once; they come one after the other, so this bounds only the list of rows.
_ROWS = 512


def pair(encode: Callable[[str], list[int]], context: str, continuation: str) -> Pair:
    """Split where the context's own tokens end; spaces at its end go to the continuation, as tokenizers have them."""
    kept = context.rstrip()
    whole, given = encode(context + continuation), encode(kept)
    at = min(len(given), len(whole) - 1)  # where a token spans the edge, the continuation has at least the last
    return whole[:at], whole[at:]


def likelihoods(model: Model, pairs: Sequence[Pair], progress: Progress) -> list[tuple[float, bool]]:
    """Of each pair: log P(continuation | context) in nats, and whether greedy decoding would write it.

    `progress` is told of pairs. What is longer than the model's context loses tokens on the left. Pairs that need the
    logits of one row share them: single-token choices of one question are one row.

    Raises Unsupported: the model gives no logits; a pair has nothing to condition on; a continuation is too long.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        rows.setdefault(_row(model, context, continuation), []).append(number)
    found: dict[int, tuple[float, bool]] = {}
    order = sorted(rows, key=lambda row: (len(row), row))  # neighbours share a batch
    for first in range(0, len(order), _ROWS):
        part = order[first : first + _ROWS]
        for row, logits in zip(part, model.logits(part, lambda _: None), strict=True):
            for number in rows[row]:
                found[number] = _score(logits, pairs[number][1])
            progress(len(rows[row]))
    return [found[number] for number in range(len(pairs))]


def _row(model: Model, context: list[int], continuation: list[int]) -> tuple[int, ...]:
    """What the model reads: all but the last token."""
    if not context or not continuation:
        raise Unsupported("a likelihood needs a token to condition on, and one to score")
    longest = model.context
    if longest is not None and len(continuation) > longest:
        raise Unsupported(f"a text of {len(continuation)} tokens is longer than the model's context of {longest}")
    return tuple((context + continuation)[:-1][-(longest or 0) :])


def _score(logits: torch.Tensor, continuation: list[int]) -> tuple[float, bool]:
    """`logits`[tokens, vocabulary] of a row that ends before the continuation's last token."""
    import torch

    scored = torch.log_softmax(logits[-len(continuation) :], dim=-1)
    wanted = torch.tensor(continuation)
    greedy = bool((scored.argmax(dim=-1) == wanted).all())
    return float(scored.gather(1, wanted.unsqueeze(1)).sum()), greedy
