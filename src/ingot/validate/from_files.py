"""What is known of a candidate without running it: the tokens that it makes, and its weights."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from ingot.validate.gguf_files import GgufFiles, GgufModel, gguf_subject
from ingot.validate.model import Unsupported
from ingot.validate.request import Bar, Checked, Side
from ingot.validate.result import Subject, Tokens, Weights
from ingot.validate.spec import Kind, Located

if TYPE_CHECKING:
    from ingot.validate.models.tokenizer import Tokenizer
    from ingot.validate.predictions.tokens import Reads


def subject_of(side: Side) -> Subject:
    """The model with its digest and the dtype that it is stored in. Raises InputChangedError, and as it is opened."""
    from ingot.validate.models.sources import Sources, stored_dtype

    if side.located is None:
        return Subject(side.name, str(side.spec.kind), None)
    if isinstance(side.located, GgufModel):
        with closing(GgufFiles.open(side.located)) as files:
            return gguf_subject(files)
    with closing(Sources.open(side.located)) as sources:
        return Subject(side.name, str(side.spec.kind), sources.digest(), stored_dtype(sources.base))


def tokens_of(checked: Checked, candidate: Side) -> Tokens | None:
    """Do both make the same tokens? None: there is no sample; or it is a GGUF, which must run for that.

    Raises Unsupported: one of them is an endpoint, or the reference has no tokenizer.
    """
    if not checked.tasks or isinstance(candidate.located, GgufModel):
        return None
    if candidate.located is None:
        raise Unsupported("an endpoint does not show its tokens")
    theirs = None
    with suppress(Unsupported):  # it has none: then that is the finding
        theirs = _tokenizer(candidate.located)
    return tokens_against(checked, theirs)


def tokens_against(checked: Checked, candidate: Reads | None) -> Tokens:
    """The reference's tokens against those that `candidate` makes.

    A chat template that was lost is a fault whether these samples go through it or not, so both ways are looked at.

    Raises Unsupported: the reference is no checkpoint, or it has no tokenizer.
    """
    from ingot.validate.predictions.tokens import compare_tokens

    if not isinstance(checked.reference.located, Located):
        raise Unsupported(f"the reference ({checked.reference.spec.kind}) does not show its tokens")
    ours, chat = _tokenizer(checked.reference.located), checked.request.chat
    ways = [chat] if chat or ours.template is None else [False, True]
    found = (compare_tokens(ours, candidate, checked.prompts, chat=way) for way in ways)
    return min(found, key=lambda one: one.same)


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
    if candidate.spec.kind is Kind.GGUF:
        raise Unsupported("those of a GGUF are not compared here; `ingot verify --against-inputs` makes them anew")
    if candidate.spec.kind is not Kind.CHECKPOINT or not isinstance(candidate.located, Located):
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
