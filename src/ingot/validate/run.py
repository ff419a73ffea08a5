"""The evaluation: one reference, then every candidate, one model in memory at a time.

from the files          tokens, weights
the reference           its answers; its logits go to a file
each candidate          its answers; its logits against that file
  or layer by layer     both in step, in bounded memory
gates                   what all of it means
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ingot.errors import BaseError, Interrupted
from ingot.validate.answers.metrics import Metric
from ingot.validate.answers.samples import SampleFile
from ingot.validate.from_files import subject_of, tokens_against, tokens_of, weights_of
from ingot.validate.gates import judge
from ingot.validate.gguf_files import GgufModel
from ingot.validate.model import Model, Progress, Unsupported
from ingot.validate.predictions.rows import ONE_BY_ONE, PROBABILITIES, TOKENS, Rows, rows_of
from ingot.validate.reading import WITHOUT
from ingot.validate.request import Bar, Checked, Side
from ingot.validate.result import Candidate, Evaluation, HarnessScore, Subject, Task, Tokens
from ingot.validate.spec import Kind, Located
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.validate.answers.harness import Ran
    from ingot.validate.predictions.logits import Spool

Found = TypeVar("Found")


def evaluate(checked: Checked, bar: Bar, *, stop: threading.Event | None = None) -> Evaluation:
    """Hold every candidate against the reference.

    Raises:
        UsageError: nobody answers at a URL, a harness task or a user's metric is at fault.
        BaseError, AdapterError, MismatchError, UnsafeInputError: a model's files are not what they should be, or
            llama.cpp does not run a GGUF.
        MissingComponent: a library is not installed.
        NonFiniteError: a model gives a NaN.
        ResourceError, OutputError: no room for what is kept meanwhile.
        Interrupted: `stop` was set; answers so far are kept for the same command.
    """
    return _Run(checked, bar, stop or threading.Event()).evaluation()


@dataclass
class _Said:
    """What one model said: the answers to each task, None where it cannot answer; and its harness scores."""

    subject: Subject
    answers: list[list[str] | None] = field(default_factory=list)
    ran: Ran | None = None


class _Run:
    """One evaluation under way. A candidate goes by its number; None stands for the reference, and so for all."""

    def __init__(self, checked: Checked, bar: Bar, stop: threading.Event) -> None:
        self._checked = checked
        self._request = checked.request
        self._open_bar = bar
        self._stop = stop
        self._left_out: list[list[str]] = [[] for _ in checked.candidates]

    def evaluation(self) -> Evaluation:
        self._request.work.mkdir(parents=True, exist_ok=True)
        found = [self._from_files(number, side) for number, side in enumerate(self._checked.candidates)]
        reference, found = self._run_models(found)
        judged = tuple(
            replace(one, gates=judge(one, self._request.limits), left_out=tuple(dict.fromkeys(said)))
            for one, said in zip(found, self._left_out, strict=True)
        )
        sets = tuple(file.as_set for file, _ in self._checked.tasks)
        return Evaluation(reference, judged, sets, self._request.as_settings(), __version__)

    def _run_models(self, found: list[Candidate]) -> tuple[Subject, list[Candidate]]:
        if self._request.stream_layers:
            return self._by_layers(found)
        if self._checked.tasks or self._request.harness:
            return self._in_memory(found)
        self._note(None, "logits and answers: there are no samples")
        sides = self._checked.candidates
        subjects = [subject_of(side) for side in (self._checked.reference, *sides)]
        return subjects[0], [replace(one, subject=its) for one, its in zip(found, subjects[1:], strict=True)]

    def _from_files(self, number: int, side: Side) -> Candidate:
        tokens = self._attempt(number, "tokens", lambda: tokens_of(self._checked, side))
        weights = self._attempt(number, "weights", lambda: weights_of(self._checked, side, self._bar, self._stop))
        return Candidate(Subject(side.name, str(side.spec.kind), None), tokens, weights, None, (), (), (), ())

    # -- whole models, one after the other

    def _in_memory(self, found: Sequence[Candidate]) -> tuple[Subject, list[Candidate]]:
        with ExitStack() as stack:
            with closing(self._open(self._checked.reference)) as model:
                reference = self._ask(None, self._checked.reference, model)
                spool = stack.enter_context(self._spool(model))
            return reference.subject, [self._candidate(n, one, reference, spool) for n, one in enumerate(found)]

    def _candidate(self, number: int, found: Candidate, reference: _Said, spool: Spool | None) -> Candidate:
        side = self._checked.candidates[number]
        with closing(self._open(side)) as model:
            tokens = found.tokens or self._tokens(number, model)
            said = self._ask(number, side, model)
            logits = None
            if spool is not None:
                normalized = Kind.GGUF in {side.spec.kind, self._checked.reference.spec.kind}
                with self._bar(f"logits of {side.name}", len(spool.rows.ids), "samples") as progress:
                    compare = partial(spool.compare, model, progress, normalized=normalized)
                    logits = self._attempt(number, "logits", compare)
        tasks, harness = self._tasks(reference, said), self._harness(reference, said)
        return replace(found, subject=said.subject, tokens=tokens, logits=logits, tasks=tasks, harness=harness)

    def _tokens(self, number: int, model: Model) -> Tokens | None:
        """Of a model that makes tokens only while it runs; None of others."""
        from ingot.validate.models.llama_cpp import LlamaCpp

        if not isinstance(model, LlamaCpp) or not self._checked.tasks:
            return None
        return self._attempt(number, "tokens", lambda: tokens_against(self._checked, model))

    def _open(self, side: Side) -> Model:
        if side.located is None:
            from ingot.validate.models.endpoint import Endpoint

            return Endpoint.open(side.spec.base)
        if isinstance(side.located, GgufModel):
            from ingot.validate.models.llama_cpp import LlamaCpp

            request = self._request
            return LlamaCpp.open(
                side.located, context=self._checked.longest, threads=request.jobs, device=request.device
            )
        from ingot.validate.models.whole import Whole

        try:
            return Whole.open(side.located, dtype=self._request.dtype, device=self._request.device)
        except Unsupported as why:
            raise BaseError(f"the model cannot be asked anything: {why}", where=side.name, hint=WITHOUT) from why

    def _ask(self, number: int | None, side: Side, model: Model) -> _Said:
        said = _Said(model.subject)
        for file, metric in self._checked.tasks:
            ask = partial(self._answers, side, model, file, metric)
            said.answers.append(self._attempt(number, f"answers to {file.name}", ask))
        if self._request.harness:
            said.ran = self._harness_scores(side, model)
            for text in said.ran.left_out:
                self._note(number, text)
        return said

    def _answers(self, side: Side, model: Model, file: SampleFile, metric: Metric) -> list[str]:
        from ingot.validate.answers.tasks import answer

        request = self._request
        with self._bar(f"{side.name} answers {file.name}", len(file.samples), "answers") as progress:
            return answer(
                model, file, metric, progress, chat=request.chat, new_tokens=request.new_tokens, work=request.work
            )

    def _harness_scores(self, side: Side, model: Model) -> Ran:
        from ingot.validate.answers.harness import ask

        request = self._request
        with self._bar(f"harness tasks of {side.name}", 0, "requests") as progress:
            return ask(
                model, request.harness, progress, directory=request.harness_dir, chat=request.chat,
                limit=request.harness_limit,
            )  # fmt: skip

    @contextmanager
    def _spool(self, model: Model) -> Iterator[Spool | None]:
        """The reference's logits on the samples' tokens, in a file; None where there are none."""
        from ingot.validate.predictions.logits import spooled

        with ExitStack() as stack:

            def spool() -> Spool:
                rows = self._rows(model)
                name = self._checked.reference.name
                with self._bar(f"logits of {name}", len(rows.ids), "samples") as progress:
                    return stack.enter_context(
                        spooled(
                            model, rows, vocabulary=model.vocabulary, directory=self._request.work, progress=progress
                        )
                    )

            yield self._attempt(None, "logits", spool) if self._checked.tasks else None

    def _tasks(self, reference: _Said, said: _Said) -> tuple[Task, ...]:
        from ingot.validate.answers.tasks import compared

        return tuple(
            compared(file, metric, before, after, seed=self._request.seed)
            for (file, metric), before, after in zip(self._checked.tasks, reference.answers, said.answers, strict=True)
            if before is not None and after is not None
        )

    def _harness(self, reference: _Said, said: _Said) -> tuple[HarnessScore, ...]:
        if reference.ran is None or said.ran is None:
            return ()
        from ingot.validate.answers.harness import compare

        return compare(reference.ran, said.ran, seed=self._request.seed)

    # -- both models in step, layer by layer

    def _by_layers(self, found: Sequence[Candidate]) -> tuple[Subject, list[Candidate]]:
        from ingot.validate.models.layers import Streamed, compare_layers

        request, results = self._request, []
        self._note(None, "answers: they need the whole model in memory; leave --stream-layers out for them")

        def streamed(side: Side) -> Streamed:
            assert isinstance(side.located, Located)  # `check` refuses others
            return Streamed.open(side.located, dtype=request.dtype, device=request.device)

        with closing(streamed(self._checked.reference)) as reference:
            rows = self._rows(reference)
            for number, (side, one) in enumerate(zip(self._checked.candidates, found, strict=True)):
                with (
                    closing(streamed(side)) as candidate,
                    self._bar(f"layers of {side.name}", 1 + reference.depth, "layers") as progress,
                ):
                    compare = partial(compare_layers, reference, candidate, rows, progress)
                    logits, depth = self._attempt(number, "logits", compare) or (None, ())
                    results.append(replace(one, subject=candidate.subject, logits=logits, depth=depth))
            return reference.subject, results

    # -- what all of it shares

    def _rows(self, model: Model) -> Rows:
        kinds = {side.spec.kind for side in (self._checked.reference, *self._checked.candidates)}
        usual = min(ONE_BY_ONE, PROBABILITIES // model.columns) if Kind.GGUF in kinds else TOKENS
        tokens = self._request.logit_tokens or usual
        rows = rows_of(model, self._checked.pairs, chat=self._request.chat, tokens=tokens)
        if rows.left_out:
            self._note(None, f"logits: {rows.left_out}")
        return rows

    def _attempt(self, number: int | None, what: str, work: Callable[[], Found]) -> Found | None:
        """What `work` finds, or None where a model cannot be asked that; then it is noted why."""
        try:
            return work()
        except Unsupported as reason:
            self._note(number, f"{what}: {reason}")
            return None

    def _note(self, number: int | None, text: str) -> None:
        for said in self._left_out if number is None else [self._left_out[number]]:
            said.append(text)

    @contextmanager
    def _bar(self, what: str, total: int, unit: str) -> Iterator[Progress]:
        """A bar whose every step looks whether the user has stopped the run."""
        with self._open_bar(what, total, unit) as tell:

            def progress(number: int) -> None:
                tell(number)
                if self._stop.is_set():
                    raise Interrupted("the evaluation was interrupted")

            yield progress
