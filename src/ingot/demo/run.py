"""`ingot demo`: plan, merge and verify both adapters, score base, adapter-on-base and merged, and show the table."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ingot.demo import assets
from ingot.demo.assets import Task
from ingot.demo.score import Score, load, score
from ingot.errors import CheckFailed, MissingComponent
from ingot.merge import prepare
from ingot.plan.render import summary_lines
from ingot.registry.verify import verify


class Talk(Protocol):
    """What the demo says, and to whom; the command line's Output is one."""

    def say(self, text: str = "", style: str | None = None) -> None: ...
    def lines(self, lines: Iterable[str], *, headings: bool = True) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...


#: Opens a progress bar for so many units of a named work; what it yields is called with every number done.
Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Row:
    """The scores of one task, in percent, on `samples` held-out samples."""

    task: str
    samples: int
    base: float
    adapter: float
    merged: float
    same_answers: int
    artifact: str
    example: Mapping[str, str]


def run(talk: Talk, bar: Bar, directory: Path, *, stop: threading.Event | None = None) -> list[Row]:
    """Run the demo into `directory`; what a former run finished there is used again.

    Raises:
        MissingComponent: PEFT or the demo's files are not installed.
        CheckFailed: a merged model does not verify, or the directory holds something else.
    """
    _require_peft()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    base, tasks = assets.base(), assets.tasks()
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(3 * len(task.samples) for task in tasks)
    artifacts = {task.name: _merge(task, base, directory, talk, stop) for task in tasks}
    talk.say("scoring: greedy answers to held-out samples, by base, base + adapter (PEFT, unmerged) and merged")
    with bar(total, "scoring") as progress:
        rows = [_score(task, base, artifacts[task.name], progress) for task in tasks]
    report = directory / "scores.json"
    report.write_text(json.dumps([row.__dict__ for row in rows], indent=2) + "\n", encoding="utf-8")
    talk.lines(table(rows))
    for row in rows:
        talk.lines(["", *(f"{who:<10} {text}" for who, text in row.example.items())])
    talk.lines(["", *(f"merged     {row.artifact}" for row in rows), f"scores     {report}"])
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


def _score(task: Task, base: Path, merged: Path, progress: Callable[[int], None]) -> Row:
    def of(model: Path, adapter: Path | None = None) -> Score:
        return score(load(model, adapter), model, task.samples, progress)

    plain, adapted, result = of(base), of(base, task.adapter), of(merged)
    same = sum(a == b for a, b in zip(adapted.answers, result.answers, strict=True))
    example = {"prompt": task.samples[0].prompt, "base": plain.answers[0], "merged": result.answers[0]}
    return Row(task.name, len(task.samples), plain.percent, adapted.percent, result.percent, same, str(merged), example)


def _require_peft() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("peft", "jinja2") if find_spec(name) is None]
    if missing:
        raise MissingComponent(
            f"the demo compares with PEFT, which is not installed ({', '.join(missing)} missing)",
            hint="Run `pip install 'ingot-merge[validate]'`.",
        )
