"""`ingot demo`: plan, merge and verify both adapters, hold the merges against base + adapter, and show the evidence.

Where llama.cpp is installed, both are made into GGUF as well and run by it (`gguf`).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ingot.demo import assets, gguf
from ingot.demo.assets import Task
from ingot.demo.gguf import Quantized
from ingot.errors import CheckFailed
from ingot.merge import cores, prepare
from ingot.plan.render import summary_lines
from ingot.record import add_evaluation, read_record
from ingot.record.verify import verify
from ingot.storage import RECORD_NAME, PosixDisk, replace_file
from ingot.validate.answers.tasks import answer
from ingot.validate.models.libraries import need
from ingot.validate.models.whole import Whole
from ingot.validate.report.brief import brief
from ingot.validate.report.page import render
from ingot.validate.report.text import lines
from ingot.validate.request import Bar, Checked, Request, check
from ingot.validate.result import Evaluation
from ingot.validate.run import evaluate
from ingot.validate.spec import Located

NEW_TOKENS = 48


class Talk(Protocol):
    """What the demo says, and to whom; the command line's Output is one."""

    @property
    def width(self) -> int: ...
    def say(self, text: str = "", style: str | None = None) -> None: ...
    def lines(self, lines: Iterable[str], *, headings: bool = True) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...


@dataclass(frozen=True)
class Row:
    """The scores of one task, in percent, on `samples` held-out samples, and where what was made of it lies.

    `gguf` is empty where nothing here runs such files.
    """

    task: str
    samples: int
    base: float
    adapter: float
    merged: float
    same_answers: int
    ok: bool
    artifact: str
    report: str
    example: Mapping[str, str]
    gguf: tuple[Quantized, ...] = ()


def run(talk: Talk, bar: Bar, directory: Path, *, stop: threading.Event | None = None) -> list[Row]:
    """Run the demo into `directory`; what a former run finished there is used again.

    Raises:
        MissingComponent: PEFT or the demo's files are not installed.
        CheckFailed: a merged model does not verify, or is not what was trained; the directory holds something else.
    """
    need("peft", "jinja2", "scipy")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    directory.mkdir(parents=True, exist_ok=True)
    base, tasks = assets.base(), assets.tasks()
    artifacts = [_merge(task, base, directory, talk, stop) for task in tasks]
    talk.say("Evidence: base + adapter (PEFT, unmerged) against the merged model, on held-out samples")
    talk.say()
    rows = [_row(task, base, path, directory, talk, bar, stop) for task, path in zip(tasks, artifacts, strict=True)]
    scores = directory / "scores.json"
    replace_file(PosixDisk(), scores.absolute(), (json.dumps([asdict(row) for row in rows], indent=2) + "\n").encode())
    talk.lines(table(rows))
    without = gguf.missing()
    talk.lines(["", f"Without GGUF: {without}"] if without else gguf.table(of for row in rows for of in row.gguf))
    for row in rows:
        talk.lines(["", *(f"{who:<10} {text}" for who, text in row.example.items())])
    places = [line for row in rows for line in (f"merged     {row.artifact}", f"report     {row.report}")]
    places += [f"{of.type:<10} {of.file}" for row in rows for of in row.gguf[1:]]
    talk.lines(["", *places, f"scores     {scores}"])
    failed = [row for row in rows if not row.ok]
    if failed:
        raise CheckFailed("a merged model is not what was trained", where=failed[0].artifact,
                          hint=f"Look at {failed[0].report}.")  # fmt: skip
    return rows


def table(rows: Iterable[Row]) -> list[str]:
    """The scores as a table of text."""
    head = f"{'task':<12}{'samples':>8}{'base':>9}{'base + adapter':>17}{'merged':>9}{'same answers':>15}"
    body = [
        f"{row.task:<12}{row.samples:>8}{row.base:>8.1f}%{row.adapter:>16.1f}%{row.merged:>8.1f}%"
        f"{f'{row.same_answers} of {row.samples}':>15}"
        for row in rows
    ]
    return ["", head, "-" * len(head), *body]


def _merge(task: Task, base: Path, directory: Path, talk: Talk, stop: threading.Event | None) -> Path:
    target = directory / f"{task.name}-merged"
    with prepare(str(base), [(str(task.adapter), 1.0)], target=target) as job:
        for line in summary_lines(job.plan, 100):
            talk.say(line)
        if not target.exists():  # a former demo's output is as good, if it verifies
            job.run(stop=stop)
    checked = verify(target, depth="against-inputs", base=str(base), adapters=[str(task.adapter)], stop=stop)
    if not checked.ok:
        raise CheckFailed(
            "what lies here is not the demo's merged model", where=target,
            hint="Give another directory: ingot demo DIRECTORY",
        )  # fmt: skip
    talk.say(f"Verified   {target}: every byte recomputed from base and adapter")
    talk.say()
    talk.event("merged", task=task.name, artifact=str(target), identity=checked.identity)
    return target


def _row(
    task: Task, base: Path, merged: Path, directory: Path, talk: Talk, bar: Bar, stop: threading.Event | None
) -> Row:
    request = Request(
        f"{base}+{task.adapter}", (str(merged),), (str(task.file),), chat=True, new_tokens=NEW_TOKENS,
        dtype="float32", jobs=cores(), work=directory / "answers",
    )  # fmt: skip
    checked = check(request)
    found = evaluate(checked, bar, stop=stop)
    report = directory / f"{task.name}-report.html"
    replace_file(PosixDisk(), report.absolute(), render(found).encode("utf-8"))
    _record(merged, found)
    talk.lines([*lines(found, talk.width), ""])
    ((file, metric),) = checked.tasks
    sides = (checked.reference, *checked.candidates)
    base_answers, merged_answers = (
        _answers(Located(side.located.base), checked, bar) for side in sides if isinstance(side.located, Located)
    )
    right = sum(metric.score(text, sample) == 1 for text, sample in zip(base_answers, file.samples, strict=True))
    score = found.candidates[0].tasks[0]
    count, comparison = score.samples.count, score.comparison
    example = {"prompt": checked.prompts[0], "base": base_answers[0], "merged": merged_answers[0]}
    quantized: tuple[Quantized, ...] = ()
    if gguf.missing() is None:
        files = gguf.make(task, base, directory, stop)
        quantized = gguf.score(
            task, files, file, metric, merged, merged_answers, bar, new_tokens=NEW_TOKENS, work=request.work
        )
    talk.event("scored", task=task.name, report=str(report), ok=found.ok)
    return Row(
        task.name, count, 100 * right / count, 100 * comparison.reference, 100 * comparison.candidate,
        count - len(score.differing), found.ok, str(merged), str(report), example, quantized,
    )  # fmt: skip


def _answers(where: Located, checked: Checked, bar: Bar) -> list[str]:
    """What a checkpoint answers; what the evaluation was answered is found again and not asked twice."""
    ((file, metric),), request = checked.tasks, checked.request
    with (
        closing(Whole.open(where, dtype=request.dtype)) as model,
        bar(f"{where.name} answers {file.name}", len(file.samples), "answers") as progress,
    ):
        return answer(model, file, metric, progress, chat=True, new_tokens=NEW_TOKENS, work=request.work)


def _record(merged: Path, found: Evaluation) -> None:
    """Once: a demo that is run again finds what it found before."""
    record = read_record((merged / RECORD_NAME).read_bytes())
    if not record.statement.predicate.run.evaluations:
        add_evaluation(merged, brief(found, found.candidates[0]))
