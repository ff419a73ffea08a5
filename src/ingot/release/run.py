"""A release, executed: make, validate, gate, publish. Every step is found done by the next run of the same recipe.

make        work/NAME: whole, with its record. Formats of one pass share it
validate    all of them against one reference, whose answers are computed once; what was found goes into the records
publish     those that passed every gate: work/NAME -> artifacts/NAME, tags, kept adapters; then they are pushed
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ingot.errors import CheckFailed, IngotError, Interrupted, OutputError
from ingot.merge import run_together
from ingot.record import Record, add_evaluation
from ingot.record.artifact import record_in
from ingot.record.relabel import relabel
from ingot.registry.entry import Entry
from ingot.registry.keeping import Kept, keep_files, keep_small
from ingot.registry.layout import REPORT_NAME
from ingot.registry.store import Registry
from ingot.release.planning import Artifact, ReleasePlan, checked, looked_again
from ingot.release.pushing import push, targets_of
from ingot.release.wording import as_key
from ingot.storage import replace_file
from ingot.storage.removing import remove_tree
from ingot.validate.gates import judge
from ingot.validate.report.brief import brief
from ingot.validate.report.page import render
from ingot.validate.request import Bar, Request
from ingot.validate.result import Evaluation
from ingot.validate.run import evaluate


class Talk(Protocol):
    """Who is told how it goes; the command line is one."""

    def made(self, artifact: Artifact, record: Record, *, before: bool) -> None: ...
    def evaluated(self, evaluation: Evaluation) -> None: ...
    def published(self, entry: Entry, *, before: bool) -> None: ...
    def kept_out(self, artifact: Artifact, error: IngotError) -> None: ...
    def kept(self, adapter: Kept, name: str) -> None: ...
    def say(self, text: str) -> None: ...
    def pushed(self, entry: Entry, target: str, done: dict[str, object]) -> None: ...


@dataclass(frozen=True)
class Result:
    """What came of a release: entries of what is published, and why the others are not."""

    published: tuple[Entry, ...]
    kept_out: dict[str, IngotError]


def run(
    plan: ReleasePlan, talk: Talk, bar: Bar, *, device: str = "cpu", restart: bool = False,
    stop: threading.Event | None = None,
) -> Result:  # fmt: skip
    """Execute a plan. An artifact that fails on its own (a gate, a value that its type cannot hold) is kept out.

    Raises:
        Interrupted, ResourceError, InputChangedError, ...: what ends all of it; the same call goes on.
    """
    registry = Registry.open(plan.registry.layout.root, create=True, disk=plan.registry.disk)
    with _alone(registry, plan):
        now = looked_again(replace(plan, registry=registry))
        return _run(now, talk, bar, device, restart, stop or threading.Event())


def _run(plan: ReleasePlan, talk: Talk, bar: Bar, device: str, restart: bool, stop: threading.Event) -> Result:
    kept_out: dict[str, IngotError] = {}
    if restart:
        for one in plan.artifacts:
            remove_tree(plan.registry.disk, one.path)
    records = _make(plan, talk, bar, kept_out, device, restart, stop)
    kept_out |= _validate(plan, records, talk, bar, stop)
    for one in plan.artifacts:
        if one.name in kept_out:
            talk.kept_out(one, kept_out[one.name])
    _keep_adapters(plan, talk)
    entries = []
    for one in plan.artifacts:
        if one.name not in kept_out:
            _check(stop)
            entry = _publish(plan, one)
            entries.append(entry)
            talk.published(entry, before=one.published is not None)
    _tag(plan, entries)
    for entry, target in targets_of(plan.recipe, entries):
        _check(stop)
        with _published_all_the_same():
            talk.pushed(entry, target, push(plan.registry, entry, target, bar, stop, talk.say))
    now = {entry.identity: entry for entry in plan.registry.entries()}
    return Result(tuple(now[entry.identity] for entry in entries), kept_out)


@contextmanager
def _alone(registry: Registry, plan: ReleasePlan) -> Iterator[None]:
    """One release of a name at a time. Raises OutputError where another process makes one of them."""
    with ExitStack() as stack:
        for name in sorted(one.name for one in plan.artifacts):
            path = registry.layout.work / f".{name}.release-lock"
            try:
                stack.callback(registry.disk.lock(path).release)
            except OutputError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                raise OutputError("another release makes this artifact", where=name,
                                  hint="Wait for it to end; then run the same command again.") from error  # fmt: skip
        yield


# -- make


def _make(
    plan: ReleasePlan, talk: Talk, bar: Bar, kept_out: dict[str, IngotError], device: str, restart: bool,
    stop: threading.Event,
) -> dict[str, Record]:  # fmt: skip
    """The record of every artifact that lies in work/ afterwards."""
    waiting = [one for one in plan.artifacts if one.published is None and (restart or not one.made)]
    for one in waiting:
        if one.path.exists():  # of another recipe under this name, and never published
            remove_tree(plan.registry.disk, one.path)
    with bar("making", sum(one.job.nbytes for one in waiting), "bytes") as progress:
        for group in _passes(waiting):
            if group[0].is_gguf:
                done = run_together(
                    [one.job for one in group], device=device, restart=restart, stop=stop, progress=progress,
                    disk=plan.registry.disk, releases=[one.release for one in group],
                )  # fmt: skip
                kept_out |= {
                    one.name: error for one, error in zip(group, done, strict=True) if isinstance(error, IngotError)
                }
            else:
                group[0].job.run(device=device, restart=restart, stop=stop, progress=progress, disk=plan.registry.disk,
                                 release=group[0].release)  # fmt: skip
    records = {}
    for one in plan.artifacts:
        if one.published is None and one.name not in kept_out:
            before = one not in waiting
            records[one.name] = (
                relabel(one.path, one.release, disk=plan.registry.disk) if before else record_in(one.path)
            )
            talk.made(one, records[one.name], before=before)
    return records


def _passes(artifacts: Sequence[Artifact]) -> list[list[Artifact]]:
    """Artifacts that one pass makes: shards are alone, GGUF files of one converter are together."""
    passes = [[one] for one in artifacts if not one.is_gguf]
    together: dict[str | None, list[Artifact]] = {}
    for one in artifacts:
        if one.job.plan.options.gguf is not None:
            together.setdefault(one.job.plan.options.gguf.llama_cpp_sha256, []).append(one)
    return [*passes, *together.values()]


# -- validate


def _validate(
    plan: ReleasePlan, records: dict[str, Record], talk: Talk, bar: Bar, stop: threading.Event
) -> dict[str, IngotError]:
    """Evaluate what was not evaluated yet; why an artifact is kept out, by its name."""
    asked = [one for one in plan.artifacts if one.name in records and plan.is_checked(one)]
    if not asked or plan.request is None:
        return {}
    request = checked(plan, asked)
    sets = [asdict(file.as_set) for file, _ in request.tasks]
    known = {one.name: _known(records[one.name], _settings(request.request, one), sets) for one in asked}
    new = [one for one in asked if known[one.name] is None]
    if new:
        evaluation = evaluate(checked(plan, new), bar, stop=stop)
        judged = [
            replace(candidate, gates=judge(candidate, one.limits))
            for one, candidate in zip(new, evaluation.candidates, strict=True)
        ]
        evaluation = replace(evaluation, candidates=tuple(judged))
        talk.evaluated(evaluation)
        page = render(evaluation).encode("utf-8")
        for one, candidate in zip(new, judged, strict=True):
            replace_file(plan.registry.disk, one.report, page)
            own = replace(evaluation, settings=_settings(request.request, one))
            found = brief(own, candidate)
            add_evaluation(one.path, found, disk=plan.registry.disk)
            known[one.name] = found
    return {one.name: error for one in asked if (error := _failure(one, known[one.name])) is not None}


def _settings(request: Request, artifact: Artifact) -> dict[str, object]:
    return replace(request, limits=artifact.limits).as_settings()


def _known(record: Record, settings: dict[str, object], sets: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The evaluation that the record has of the same samples under the same settings."""
    for one in reversed(record.statement.predicate.run.evaluations):
        if isinstance(one, dict) and one.get("settings") == settings and one.get("samples") == sets:
            return one
    return None


def _failure(artifact: Artifact, found: dict[str, Any] | None) -> IngotError | None:
    """The first gate that failed."""
    failed = [gate for gate in (found or {}).get("gates", ()) if not gate["ok"]]
    if not failed:
        return None
    more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
    return CheckFailed(
        f"a gate failed: {as_key(failed[0]['name'])}: {failed[0]['said']}{more}", where=artifact.name,
        hint=f"Look at {artifact.report}; change the recipe's gates, or the format, and run it again.",
    )  # fmt: skip


# -- publish


def _keep_adapters(plan: ReleasePlan, talk: Talk) -> None:
    """Copies of the adapters, as far as the recipe wants them: with them what is freed can be made again."""
    wanted, job = plan.recipe.publish.keep_adapters, plan.artifacts[0].job
    for weighted in job.adapters:
        place = (weighted.inputs, plan.registry.layout.adapters, plan.registry.disk)
        kept = keep_small(*place) if wanted is None else keep_files(*place, large=True) if wanted else None
        if kept is not None:
            talk.kept(kept, weighted.location.name)


def _publish(plan: ReleasePlan, artifact: Artifact) -> Entry:
    """Give the artifact its name, and its report a place beside the record; each may have been done by a former run."""
    entry = artifact.published or plan.registry.publish(artifact.path, artifact.places)
    if artifact.report.is_file():
        plan.registry.attach(entry, REPORT_NAME, artifact.report.read_bytes())
        plan.registry.disk.remove(artifact.report)
    return entry


def _tag(plan: ReleasePlan, entries: Sequence[Entry]) -> None:
    by_name = {entry.name: entry.identity for entry in entries}
    plan.registry.tag(
        (plan.recipe.filled(template, one.form), by_name[one.name])
        for template in plan.recipe.publish.tags for one in plan.artifacts if one.name in by_name
    )  # fmt: skip


@contextmanager
def _published_all_the_same() -> Iterator[None]:
    """A push that fails says that the rest is done."""
    try:
        yield
    except IngotError as error:
        done = "In this registry all is published; the same command goes on with the push."
        error.hint = f"{error.hint} {done}" if error.hint else done
        raise


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("the release was interrupted")
