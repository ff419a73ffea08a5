"""From options to an artifact: what `ingot merge` and `ingot quantize` show and do."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import UsageError
from ingot.plan.figures import LABEL_WIDTH, counted, nbytes_text, seconds_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.engine.outcome import Outcome
    from ingot.merge import Job
    from ingot.plan.model import Options
    from ingot.record import Record
    from ingot.registry.store import Registry


def how_to_make(options: dict[str, Any]) -> dict[str, Any]:
    """What `arguments.making_options` were given, taken out of `options`."""
    return {name: options.pop(name) for name in ("target", "device", "jobs", "restart", "registry", "verbose")}


def make(
    session: Session,
    /,
    verb: str,
    base: str,
    weighted: Sequence[tuple[str, float]],
    options: Options,
    *,
    target: str,
    device: str,
    jobs: int | None,
    restart: bool,
    registry: str | None,
    verbose: bool,
    imatrix: Path | None,
    llama_cpp: Path | None,
) -> None:
    """Plan, show, run, and say what came of it. Raises whatever the plan and the run raise."""
    from ingot.merge import prepare
    from ingot.merge.made import made_before
    from ingot.record.artifact import record_in
    from ingot.storage import RECORD_NAME

    if not target.strip() or "\0" in target:
        raise UsageError("OUT is empty", found=repr(target))
    output, where = session.output, Path(target)
    with prepare(base, weighted, options, target=where, jobs=jobs, imatrix=imatrix, llama_cpp=llama_cpp) as job:
        _show_plan(output, job, verbose)
        if (where / RECORD_NAME).is_file():
            output.say(f"{where} exists; comparing it with this plan ...")
        record, outcome = made_before(job, where), None
        if record is None:
            outcome = _run(session, job, device, restart)
            record = record_in(where)
        noted = _register(job, where, registry, imatrix, llama_cpp)
        _show_verdict(output, verb, job, where, record, outcome, noted)


def _show_plan(output: Output, job: Job, verbose: bool) -> None:
    from ingot.plan.render import as_json, as_lines, summary_lines

    for line in (as_lines if verbose else summary_lines)(job.plan, output.width):
        output.say(line)
    for text in gguf_lines(job):
        output.say(text)
    output.say()
    output.event("plan", **as_json(job.plan), gguf=gguf_json(job))


def gguf_lines(job: Job) -> list[str]:
    """The GGUF files of a job, each with its size and how many tensors have which type."""
    if job.document is None:
        return []
    lines: list[str] = []
    for of in job.document.formats:
        for file in of.files:
            types = Counter(entry.type for entry in file.entries)
            counts = ", ".join(f"{kind} {number:,}" for kind, number in types.most_common())
            lines.append(_line("GGUF" if not lines else "", f"{file.name}: {nbytes_text(file.nbytes)} ({counts})"))
    unquantized = ("F32", "F16", "BF16", "converter")
    makers = Counter(by for kind, by in job.document.backends.items() if kind not in unquantized)
    lines += [_line("", f"quantized by {', '.join(makers)}")] if makers else []
    converter = job.document.converter
    return lines if converter is None else [*lines, _line("", f"converted by {converter.title}")]


def gguf_json(job: Job) -> list[dict[str, object]]:
    """The same for scripts."""
    formats = job.document.formats if job.document else ()
    return [
        {"type": of.name, "file": file.name, "nbytes": file.nbytes,
         "types": dict(Counter(entry.type for entry in file.entries))}
        for of in formats for file in of.files
    ]  # fmt: skip


def _run(session: Session, /, job: Job, device: str, restart: bool) -> Outcome:
    from ingot.cli.progress import Progress

    doing = "merging" if job.adapters else "quantizing"
    with session.stopper.watched() as stop, Progress(session.output, job.nbytes, doing) as progress:
        return job.run(device=device, restart=restart, stop=stop, progress=progress)


def _register(
    job: Job, target: Path, place: str | None, imatrix: Path | None, llama_cpp: Path | None
) -> Registry | None:
    """Note the artifact, and keep its adapters, in the registry that the user named; None where there is none."""
    from ingot.registry.layout import ENVIRONMENT

    place = place if place is not None else os.environ.get(ENVIRONMENT)
    if not place:
        return None
    from ingot.registry.keeping import keep_small
    from ingot.registry.places import places_of
    from ingot.registry.store import Registry

    registry = Registry.open(Path(place), create=True)
    registry.add(target, places_of(job, target.resolve().name, imatrix, llama_cpp))
    for weighted in job.adapters:
        keep_small(weighted.inputs, registry.layout.adapters, registry.disk)
    return registry


def _show_verdict(
    output: Output,
    verb: str,
    job: Job,
    target: Path,
    record: Record,
    outcome: Outcome | None,
    registry: Registry | None,
) -> None:
    checks = record.statement.predicate.run.checks
    nbytes, files = sum(subject.nbytes for subject in record.subjects.values()), len(record.subjects) + 1
    adapter, changed = checks["adapter_tensors"], checks["tensors_changed"]
    output.lines(
        [
            _line("Written" if outcome else "Unchanged", _what_happened(target, files, nbytes, outcome)),
            *([_line("Adapters", _consumed(adapter))] if job.adapters else []),
            _line("Tensors", f"{changed['planned']:,} changed, {checks['tensors_untouched']['planned']:,} untouched"),
            _line("Identity", record.identity),
            *([_line("Registry", str(registry.layout.root))] if registry else []),
        ]
    )
    idle = changed["no_change_seen"]
    if idle:
        output.warn(f"{counted(len(idle), 'changed tensor')} kept every value that was sampled, such as {idle[0]}")
    _say_next(output, target, job)
    output.essence(record.identity)
    output.result(
        verb=verb, output=str(target), already_made=outcome is None, identity=record.identity,
        plan_digest=job.plan.digest, nbytes=nbytes, seconds=outcome.seconds if outcome else 0.0,
        resumed=outcome.resumed if outcome else [], checks=checks,
        registry=str(registry.layout.root) if registry else None,
        files=[{"name": s.name, "nbytes": s.nbytes, "sha256": s.sha256} for s in record.subjects.values()],
    )  # fmt: skip


def _what_happened(target: Path, files: int, nbytes: int, outcome: Outcome | None) -> str:
    what = f"{target}: {counted(files, 'file')}, {nbytes_text(nbytes)}"
    if outcome is None:
        return f"{what}; it already is this merge, nothing was written"
    rate = f", {nbytes_text(outcome.written_nbytes / outcome.seconds)}/s" if outcome.seconds >= 1 else ""
    resumed = f"; {counted(len(outcome.resumed), 'shard')} taken over from an earlier run" if outcome.resumed else ""
    return f"{what} in {seconds_text(outcome.seconds)}{rate}{resumed}"


def _consumed(adapter: Mapping[str, Any]) -> str:
    explained = len(adapter["explained"])
    text = f"{adapter['consumed']:,} of {adapter['total']:,} tensors merged"
    return text + (f", {explained:,} without a part in it, as listed in the record" if explained else "")


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _say_next(output: Output, target: Path, job: Job) -> None:
    """The commands that a person types now."""
    name = str(target)
    output.say()
    better = _better_name(target, job)
    if better is not None:
        output.say(_line("Name", f"{target.name} says nothing of what is in it; {better} would"))
    output.say(_line("Verify", f"ingot verify {shlex.quote(name)} --read"))
    if job.document is not None:
        first = target / job.document.formats[0].files[0].name
        output.say(_line("Run", f"llama-cli -m {shlex.quote(str(first))}"))
        return
    model_class = job.plan.base.model_class
    causal = model_class is None or model_class.endswith(("ForCausalLM", "LMHeadModel"))
    loader = "AutoModelForCausalLM" if causal else model_class
    output.say(_line("Load", f"transformers.{loader}.from_pretrained({name!r}, dtype='auto')"))


def _better_name(target: Path, job: Job) -> str | None:
    """For an output that is called `final` or `merged-model`; None for others."""
    from ingot.release.form import AdapterForm, BaseForm
    from ingot.release.names import suggest

    adapters = [AdapterForm(one.location.name) for one in job.adapters]
    return suggest(target.resolve().name, BaseForm(job.base.location.name), adapters)
