"""Asks a model for greedy answers, batch by batch; a batch that memory does not suffice for is halved."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from ingot.errors import ResourceError
from ingot.validate.model import Model

BATCH = 32
_ALLOCATOR_SAYS = ("can't allocate memory", "not enough memory", "out of memory")


def greedy(
    model: Model, prompts: Sequence[str], *, chat: bool, new_tokens: int, batch: int = BATCH
) -> Iterator[list[str]]:
    """The answers to all prompts in order, as many at a time as were asked together.

    Raises:
        Unsupported: the model cannot be asked that.
        ResourceError: memory does not suffice for one prompt.
    """
    first, size = 0, batch
    while first < len(prompts):
        part = prompts[first : first + size]
        found = _ask(model, part, chat, new_tokens)
        if found is None:
            size = _halved(len(part))
            continue
        if len(found) != len(part):
            raise AssertionError(f"{len(found)} answers to {len(part)} prompts")
        first += len(part)
        yield found


def _ask(model: Model, prompts: Sequence[str], chat: bool, new_tokens: int) -> list[str] | None:
    """None: memory ran out. What the failed attempt held is free when this has returned, and not before."""
    try:
        return model.answers(prompts, chat=chat, new_tokens=new_tokens)
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error):
            raise
        return None


def _ran_out(error: Exception) -> bool:
    """CUDA's error has a class of its own, that of the CPU's allocator only a message."""
    import torch

    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return memory or any(words in str(error) for words in _ALLOCATOR_SAYS)


def _halved(size: int) -> int:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size == 1:
        raise ResourceError("memory does not suffice for one prompt", hint="Use fewer new tokens or a larger machine.")
    return size // 2
