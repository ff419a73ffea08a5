"""`ingot demo`: a recipe for each of two adapters: merged, made into GGUF, validated, published in a registry.

Whoever wants to know whether ingot works on this machine sees it here in a minute, without a network.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from ingot.demo import assets
from ingot.demo.assets import Task
from ingot.demo.recipes import NEW_TOKENS, no_gguf, recipe_of
from ingot.errors import IngotError, OutputError
from ingot.plan.figures import counted, nbytes_text
from ingot.plan.render import summary_lines
from ingot.record import Record
from ingot.record.verify import verify
from ingot.registry.entry import Entry
from ingot.registry.keeping import Kept
from ingot.registry.store import Registry
from ingot.release.planning import Artifact, ReleasePlan, planned
from ingot.release.recipe import read_recipe
from ingot.release.run import Result
from ingot.release.run import run as run_release
from ingot.storage import PosixDisk, replace_file
from ingot.validate.answers.tasks import answer
from ingot.validate.models.libraries import need
from ingot.validate.models.whole import Whole
from ingot.validate.report.text import lines
from ingot.validate.request import Bar, Checked, check
from ingot.validate.result import Evaluation
from ingot.validate.spec import Located


class Talk(Protocol):
    """What the demo says, and to whom; the command line's Output is one."""

    @property
    def width(self) -> int: ...
    def say(self, text: str = "", style: str | None = None) -> None: ...
    def lines(self, lines: Iterable[str], *, headings: bool = True) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...


@dataclass(frozen=True)
class Made:
    """A published artifact. `score` in percent; `same_answers`: answers that are base + adapter's to the letter."""

    name: str
    format: str
    place: str
    nbytes: int
    score: float
    same_answers: int
    top1: float


@dataclass(frozen=True)
class Row:
    """The scores of one task, in percent, on `samples` held-out samples. `example`: a prompt and what was answered."""

    task: str
    samples: int
    base: float
    adapter: float
    recipe: str
    report: str
    made: tuple[Made, ...]
    example: Mapping[str, str]


def run(talk: Talk, bar: Bar, directory: Path, *, stop: threading.Event | None = None) -> list[Row]:
    """Run the demo into `directory`; what a former run published there is used again.

    Raises:
        MissingComponent: PEFT or the demo's files are not installed.
        CheckFailed: an artifact does not verify, or is not what was trained.
        OutputError, UsageError: the directory holds something else.
    """
    need("peft", "jinja2", "scipy")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    directory.mkdir(parents=True, exist_ok=True)
    registry = Registry.open(directory / "registry", create=True)
    without = no_gguf()
    rows = [_row(task, directory, registry, talk, bar, stop, gguf=without is None) for task in assets.tasks()]
    scores = directory / "scores.json"
    replace_file(PosixDisk(), scores.absolute(), (json.dumps([asdict(row) for row in rows], indent=2) + "\n").encode())
    talk.lines(table(rows))
    if without:
        talk.lines(["", f"Without GGUF: {without}"])
    for row in rows:
        talk.lines(["", *(f"{who:<10} {text}" for who, text in row.example.items())])
    places = [line for row in rows for line in (f"recipe     {row.recipe}", f"report     {row.report}")]
    talk.lines(["", *places, f"scores     {scores}"])
    return rows


def table(rows: Iterable[Row]) -> list[str]:
    """The scores as a table of text."""
    head = f"{'task':<12}{'model':<17}{'size':>9}{'samples':>9}{'score':>9}{'same answers':>15}{'top-1':>9}"
    body = []
    for row in rows:
        body += ["", f"{row.task:<12}{'base':<17}{'':>9}{row.samples:>9}{row.base:>8.1f}%"]
        body.append(f"{'':<12}{'base + adapter':<17}{'':>9}{row.samples:>9}{row.adapter:>8.1f}%")
        body += [
            f"{'':<12}{made.format:<17}{nbytes_text(made.nbytes):>9}{row.samples:>9}{made.score:>8.1f}%"
            f"{f'{made.same_answers} of {row.samples}':>15}{100 * made.top1:>8.1f}%"
            for made in row.made
        ]
    return ["", head, "-" * len(head), *body[1:]]


def _row(
    task: Task, directory: Path, registry: Registry, talk: Talk, bar: Bar, stop: threading.Event | None, *, gguf: bool
) -> Row:
    file = directory / f"{task.name}.yaml"
    replace_file(PosixDisk(), file.absolute(), recipe_of(task, assets.base(), gguf=gguf))
    talk.say(f"ingot release {file}", "bold")
    talk.say()
    with _not_stale(), planned(read_recipe(file), registry) as plan:
        for line in summary_lines(plan.artifacts[0].job.plan, talk.width):
            talk.say(line)
        result = run_release(plan, _Told(talk), bar, stop=stop)
        _check(plan, result, talk, stop)
        assert plan.request is not None  # the demo's recipes validate
        found = check(replace(plan.request, candidates=(str(result.published[0].place),)))
    base, merged = _answers(found, bar)
    ((samples, metric),) = found.tasks
    right = sum(metric.score(text, sample) == 1 for text, sample in zip(base, samples.samples, strict=True))
    example = {"prompt": found.prompts[0], "base": base[0], "merged": merged[0]}
    made = tuple(_made(entry) for entry in result.published)
    scores = result.published[0].facts.scores
    assert scores is not None  # every artifact of the demo is validated
    report = registry.layout.records / result.published[0].identity / "report.html"
    return Row(
        task.name, len(base), 100 * right / len(base), 100 * scores.tasks[0].reference, str(file), str(report), made,
        example,
    )  # fmt: skip


def _check(plan: ReleasePlan, result: Result, talk: Talk, stop: threading.Event | None) -> None:
    """Raises CheckFailed: an artifact was kept out, or is not what base and adapter make."""
    for error in result.kept_out.values():
        raise error
    recipe = plan.recipe
    adapters = [one.adapter for one in recipe.adapters]
    for entry in result.published:
        found = verify(
            Path(str(entry.place)), depth="against-inputs", base=recipe.base.model, adapters=adapters, stop=stop
        )
        found.raise_failure()
    talk.say(f"Verified   {counted(len(result.published), 'artifact')}: every byte recomputed from base and adapter")
    talk.say()


def _made(entry: Entry) -> Made:
    scores = entry.facts.scores
    assert scores is not None
    (task,) = scores.tasks
    return Made(
        entry.name, entry.facts.format, str(entry.place), entry.facts.nbytes, 100 * task.candidate,
        task.same_answers or 0, scores.top1 or 0.0,
    )  # fmt: skip


def _answers(found: Checked, bar: Bar) -> tuple[list[str], list[str]]:
    """What the base and the merged checkpoint answer; what the release was answered is not asked twice."""
    ((file, metric),), request = found.tasks, found.request
    sides = (found.reference.located, found.candidates[0].located)
    said = []
    for where in (Located(side.base) for side in sides if isinstance(side, Located)):
        with (
            closing(Whole.open(where, dtype=request.dtype)) as model,
            bar(f"{where.name} answers {file.name}", len(file.samples), "answers") as progress,
        ):
            said.append(answer(model, file, metric, progress, chat=True, new_tokens=NEW_TOKENS, work=request.work))
    return said[0], said[1]


@contextmanager
def _not_stale() -> Iterator[None]:
    """A registry with the artifacts of another ingot's demo says what helps."""
    try:
        yield
    except OutputError as error:
        raise OutputError(error.what, where=error.where,
                          hint="Remove it, or give another directory: ingot demo DIRECTORY") from error  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """See `release.run.Talk`."""

    talk: Talk

    def made(self, artifact: Artifact, record: Record, *, before: bool) -> None:
        self.talk.say(f"Made       {artifact.name}{', by a former run' if before else ''}")
        self.talk.event("made", name=artifact.name, identity=record.identity)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.talk.lines(["", *lines(evaluation, self.talk.width), ""])

    def published(self, entry: Entry, *, before: bool) -> None:
        self.talk.say(f"Published  {entry.name}{', by a former run' if before else ''}")
        self.talk.event("published", name=entry.name, identity=entry.identity, place=entry.place)

    def kept_out(self, artifact: Artifact, error: IngotError) -> None:
        self.talk.say(f"Kept out   {artifact.name}: {error.message}")

    def kept(self, adapter: Kept, name: str) -> None:
        self.talk.say(f"Kept       a copy of the adapter {name}")
        self.talk.event("adapter_kept", name=name, digest=adapter.digest)

    def say(self, text: str) -> None:
        self.talk.say(text)

    def pushed(self, entry: Entry, target: str, done: dict[str, object]) -> None:
        """The demo's recipes push nothing."""
