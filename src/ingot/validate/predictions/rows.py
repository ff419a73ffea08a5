"""The samples as rows of token ids: the prompt as the reference reads it, and the expected answer after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.validate.model import Model, Unsupported

if TYPE_CHECKING:
    import torch

#: Tokens of one sample that are compared, from its beginning.
TOKENS_A_SAMPLE = 1024
#: Tokens that are compared in all. At 128,000 logits a token, those of 16,384 tokens take 8.4 GB.
TOKENS = 16_384
#: The same where a server gives logits as text, a token at a time: 2^25 numbers take it a minute or two.
ONE_BY_ONE, PROBABILITIES = 4096, 1 << 25
#: A batch holds at most so many tokens, padding counted, and at most so many bytes of float32 logits.
BATCH_TOKENS = 2048
BATCH_NBYTES = 256 << 20


@dataclass(frozen=True)
class Rows:
    """Token ids, the shortest row first.

    Attributes:
        samples: the number of each row's sample.
        ids: the row itself, at least two tokens.
        left_out: in a sentence, what of the samples is not in here; None where all is.
    """

    samples: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    left_out: str | None = None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


def rows_of(
    reference: Model,
    samples: Sequence[tuple[str, str]],
    *,
    chat: bool,
    tokens_a_sample: int = TOKENS_A_SAMPLE,
    tokens: int = TOKENS,
) -> Rows:
    """Render and encode (prompt, expected) pairs.

    Without a chat template one space is put between prompt and answer where neither has any. Of a long sample the first
    `tokens_a_sample` are taken, or as many as the model reads; where all are more than `tokens`, every second, third,
    ... sample is.

    Raises Unsupported: the reference has no chat template; no sample has two tokens.
    """
    tokens_a_sample = min(tokens_a_sample, reference.context or tokens_a_sample)
    texts = [_joined(reference.render(prompt, chat=chat), expected, chat=chat) for prompt, expected in samples]
    whole = [reference.encode(text, special=not chat) for text in texts]
    cut = [tuple(row[:tokens_a_sample]) for row in whole]
    usable = [number for number, row in enumerate(cut) if len(row) > 1]
    if not usable:
        raise Unsupported("no sample makes two tokens, so there is nothing to predict")
    step = next(s for s in range(1, len(usable) + 1) if s == len(usable) or _sum(cut, usable[::s]) <= tokens)
    taken = sorted(usable[::step], key=lambda number: (len(cut[number]), number))
    longer = sum(len(whole[number]) > tokens_a_sample for number in taken)
    return Rows(
        tuple(taken), tuple(cut[number] for number in taken), _said(len(samples), len(taken), longer, tokens_a_sample)
    )


def batches(lengths: Sequence[int], columns: int) -> Iterator[slice]:
    """Neighbouring rows that go through a model together; one row at least. `columns`: logits of a token."""
    limit = max(1, min(BATCH_TOKENS, BATCH_NBYTES // (4 * columns)))
    begin = 0
    while begin < len(lengths):
        end, longest = begin + 1, lengths[begin]
        while end < len(lengths) and (end + 1 - begin) * max(longest, lengths[end]) <= limit:
            longest = max(longest, lengths[end])
            end += 1
        yield slice(begin, end)
        begin = end


def padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 [rows, longest], the padding on the right or on the left."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, where] = torch.tensor(row)
        mask[number, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _joined(prompt: str, expected: str, *, chat: bool) -> str:
    apart = chat or prompt[-1:].isspace() or expected[:1].isspace() or not prompt
    return prompt + expected if apart else f"{prompt} {expected}"


def _sum(rows: Sequence[Sequence[int]], numbers: Sequence[int]) -> int:
    return sum(len(rows[number]) for number in numbers)


def _said(samples: int, taken: int, longer: int, limit: int) -> str | None:
    parts = []
    if taken < samples:
        parts.append(f"{taken} of {samples} samples were compared")
    if longer:
        parts.append(f"of {longer} samples only the first {limit} tokens")
    return "; ".join(parts) or None
