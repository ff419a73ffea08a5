"""Asks a model for its answers to a task file, keeps them for a resume, and compares those of two models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ingot.formats import strict_json
from ingot.storage import Log, PosixDisk
from ingot.validate.answers.asking import BATCH, greedy
from ingot.validate.answers.likelihood import likelihoods, pair
from ingot.validate.answers.metrics import RIGHT, Metric
from ingot.validate.answers.samples import Sample, SampleFile
from ingot.validate.answers.statistics import compare
from ingot.validate.model import Model, Progress
from ingot.validate.result import Answer, Task

#: Samples of multiple choice that are asked between two entries of the log.
_CHOICES_AT_ONCE = 64


def answer(
    model: Model,
    file: SampleFile,
    metric: Metric,
    progress: Progress,
    *,
    chat: bool,
    new_tokens: int,
    batch: int = BATCH,
    work: Path | None = None,
) -> list[str]:
    """The model's answers in the order of the samples, stripped; of multiple choice the text that it chose.

    Args:
        progress: is told of every number of samples, those of an earlier run too.
        batch: prompts that are asked together, halved as often as memory runs out.
        work: a directory where answers are kept, bound to the model's and the file's digests and to these settings.
            None, or a model without a digest (an endpoint may be another model tomorrow): nothing is kept.

    Raises:
        Unsupported: the model cannot be asked that.
        ResourceError: memory does not suffice for one prompt.
        OutputError: another run has the same answers open, or `work` cannot be written.
    """
    order = sorted(range(len(file.samples)), key=lambda number: (len(file.samples[number].prompt), number))
    with _kept(model, file, metric, chat, new_tokens, work) as log:
        known = _believed(log, len(order))
        progress(len(known))
        left = [file.samples[number] for number in order if number not in known]
        for found in _asked(model, left, metric, chat, new_tokens, batch):
            numbers = [sample.number for sample in left[: len(found)]]
            left = left[len(found) :]
            known.update(zip(numbers, found, strict=True))
            if log is not None:
                log.append({"samples": numbers, "answers": found})
            progress(len(found))
    return [known[number] for number in range(len(order))]


def compared(
    file: SampleFile, metric: Metric, reference: Sequence[str], candidate: Sequence[str], *, seed: int = 0
) -> Task:
    """Both models' answers scored and held against each other.

    Raises:
        UsageError: the user's metric fails, or a pattern takes too long; the sample is named.
        MissingComponent: scipy is not installed.
    """
    before = [metric.score(text, sample) for text, sample in zip(reference, file.samples, strict=True)]
    after = [metric.score(text, sample) for text, sample in zip(candidate, file.samples, strict=True)]
    differing = tuple(
        Answer(
            sample.number, sample.prompt, sample.expected_text, reference[sample.number], candidate[sample.number],
            before[sample.number] >= RIGHT, after[sample.number] >= RIGHT,
        )
        for sample in file.samples
        if reference[sample.number] != candidate[sample.number]
    )  # fmt: skip
    return Task(file.as_set, compare(before, after, seed=seed), differing)


def _asked(
    model: Model, samples: Sequence[Sample], metric: Metric, chat: bool, new_tokens: int, batch: int
) -> Iterator[list[str]]:
    """The answers to all samples in order, some at a time."""
    if metric.by_likelihood:
        for first in range(0, len(samples), _CHOICES_AT_ONCE):
            yield _choose(model, samples[first : first + _CHOICES_AT_ONCE], metric, chat)
        return
    prompts = [sample.prompt for sample in samples]
    for found in greedy(model, prompts, chat=chat, new_tokens=new_tokens, batch=batch):
        yield [text.strip() for text in found]


def _choose(model: Model, part: Sequence[Sample], metric: Metric, chat: bool) -> list[str]:
    """The likeliest choice of each sample; the first of equals."""
    pairs = []
    for sample in part:
        context = model.render(sample.prompt, chat=chat)
        apart = "" if chat or context[-1:].isspace() else " "
        for choice in sample.choices:
            pairs.append(pair(lambda text: model.encode(text, special=not chat), context, apart + choice))
    found = iter(likelihoods(model, pairs, lambda _: None))
    chosen = []
    for sample in part:
        scores = [next(found)[0] / (len(choice) if metric.name == "choice_norm" else 1) for choice in sample.choices]
        chosen.append(sample.choices[scores.index(max(scores))])
    return chosen


@contextmanager
def _kept(
    model: Model, file: SampleFile, metric: Metric, chat: bool, new_tokens: int, work: Path | None
) -> Iterator[Log | None]:
    subject = model.subject
    if work is None or subject.digest is None:
        yield None
        return
    identity = {
        "asked": metric.name if metric.by_likelihood else "answer",
        "chat": str(chat),
        "dtype": str(subject.dtype),
        "model": subject.digest,
        "new_tokens": str(new_tokens),
        "samples": file.sha256,
    }
    key = hashlib.sha256(strict_json.dumps_canonical(identity)).hexdigest()
    with Log.open(PosixDisk(), work / f"answers-{key[:16]}.jsonl", identity) as log:
        yield log


def _believed(log: Log | None, count: int) -> dict[int, str]:
    """Answers by the number of their sample."""
    known: dict[int, str] = {}
    for entry in log.entries if log is not None else ():
        match entry:
            case {"samples": list(numbers), "answers": list(texts)} if len(numbers) == len(texts):
                pairs = zip(numbers, texts, strict=True)
                known.update({n: text for n, text in pairs if n in range(count) and isinstance(text, str)})
    return known
