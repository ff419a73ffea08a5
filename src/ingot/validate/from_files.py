"""What is known of a candidate without running it: the tokens that it makes, and its weights."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from ingot.validate.model import Unsupported
from ingot.validate.request import Bar, Checked, Side
from ingot.validate.result import Subject, Tokens, Weights
from ingot.validate.spec import Kind, Located

if TYPE_CHECKING:
    from ingot.validate.models.tokenizer import Tokenizer


def subject_of(side: Side) -> Subject:
    """The model with its digest and the dtype that it is stored in. Raises InputChangedError, and as it is opened."""
    from ingot.validate.models.sources import Sources, stored_dtype

    if side.located is None:
        return Subject(side.name, str(side.spec.kind), None)
    with closing(Sources.open(side.located)) as sources:
        return Subject(side.name, str(side.spec.kind), sources.digest(), stored_dtype(sources.base))


def tokens_of(checked: Checked, candidate: Side) -> Tokens | None:
    """Do both make the same tokens? None: there is no sample.

    A chat template that was lost is a fault whether these samples go through it or not, so both ways are looked at.

    Raises Unsupported: one of them is an endpoint, or the reference has no tokenizer.
    """
    from ingot.validate.predictions.tokens import compare_tokens

    if not checked.tasks:
        return None
    if checked.reference.located is None or candidate.located is None:
        raise Unsupported("an endpoint does not show its tokens")
    ours, theirs = _tokenizer(checked.reference.located), None
    with suppress(Unsupported):  # it has none: then that is the finding
        theirs = _tokenizer(candidate.located)
    chat = checked.request.chat
    ways = [chat] if chat or ours.template is None else [False, True]
    return min((compare_tokens(ours, theirs, checked.prompts, chat=way) for way in ways), key=lambda found: found.same)


def weights_of(checked: Checked, candidate: Side, bar: Bar, stop: threading.Event) -> Weights:
    """Every tensor of a merged checkpoint against base and adapters.

    Raises:
        Unsupported: there is no merged checkpoint, or no adapter, to compare.
        BaseError, AdapterError, MismatchError: the reference cannot be planned.
        Interrupted.
    """
    from ingot.checkpoint.checkpoint import Checkpoint
    from ingot.merge import prepare
    from ingot.validate.weights.compare import compare

    spec = checked.reference.spec
    if spec.kind is not Kind.ADAPTED:
        raise Unsupported("the reference has no adapter, so there is no update to look for")
    if candidate.spec.kind is not Kind.CHECKPOINT or candidate.located is None:
        raise Unsupported(f"the candidate ({candidate.spec.kind}) has no merged weights")
    with ExitStack() as stack:
        job = stack.enter_context(prepare(spec.base, spec.adapters))
        checkpoint = stack.enter_context(closing(Checkpoint.open(candidate.located.base)))
        progress = stack.enter_context(bar(f"weights of {candidate.name}", checkpoint.nbytes, "bytes"))
        return compare(job, checkpoint, jobs=checked.request.jobs, stop=stop, progress=progress)


def _tokenizer(located: Located) -> Tokenizer:
    from ingot.validate.models.sources import Sources
    from ingot.validate.models.tokenizer import Tokenizer

    with closing(Sources.open(located)) as sources:
        return Tokenizer.open(sources)
