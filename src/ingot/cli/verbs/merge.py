"""`ingot merge`: the plan, executed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import (
    BASE_AND_ADAPTERS,
    combine_options,
    device_name,
    jobs_option,
    make_options,
    output_flags,
    parse_adapter,
    parse_base,
    result_options,
)
from ingot.cli.framework import OUTPUT, RUN, Option, Verb
from ingot.errors import IngotError, OutputError, UsageError
from ingot.plan.figures import LABEL_WIDTH, counted, nbytes_text, seconds_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.engine.outcome import Outcome
    from ingot.merge import Job
    from ingot.registry import Record

_EXAMPLES = (
    ("ingot merge ./llama-3.1-8b ./support-lora -o ./llama-3.1-8b-support", "One adapter; the dtype stays the base's."),
    ("ingot merge ./base ./style=0.7 ./facts=0.3 -o ./both --dtype bf16", "Two adapters with weights, in bfloat16."),
    ("ingot merge ./base ./a=2 ./b -o ./both --method ties --density 0.3", "Thinned out; where they disagree, the stronger."),
    ("ingot merge ./base ./lora -o ./out", "After Ctrl-C or a crash: the same command again goes on where it stopped."),
)


@click.command(
    cls=Verb,
    short_help="The same plan, executed: a checkpoint, whole or absent.",
    examples=_EXAMPLES,
    arguments_help=BASE_AND_ADAPTERS,
)
@click.argument("base", metavar="BASE")
@click.argument("adapters", metavar="ADAPTER[=WEIGHT]...", nargs=-1, required=True)
@click.option("-o", "--output", "target", cls=Option, group=RUN, metavar="OUT", required=True,
              help="The directory to be made. It appears when it is whole; it must not exist before.")  # fmt: skip
@click.option("--device", cls=Option, group=RUN, metavar="DEVICE", default="cpu", show_default=True,
              callback=device_name, help="Where the arithmetic is done: cpu, cuda or cuda:N.")  # fmt: skip
@jobs_option
@click.option("--restart", cls=Option, group=RUN, is_flag=True,
              help="Drop what an interrupted run of this output has finished, and begin anew.")  # fmt: skip
@click.option("-v", "--verbose", cls=Option, group=OUTPUT, is_flag=True, help="Show the whole plan first.")
@result_options
@combine_options
@output_flags
@click.pass_obj
def merge(
    session: Session,
    /,
    base: str,
    adapters: tuple[str, ...],
    target: str,
    device: str,
    jobs: int | None,
    restart: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Merge the adapters into the base and write a checkpoint: whole or absent, every tensor accounted for."""
    from ingot.merge import prepare

    if not target.strip() or "\0" in target:
        raise UsageError("OUT is empty", found=repr(target))
    weighted = [parse_adapter(adapter) for adapter in adapters]
    output, where = session.output, Path(target)
    asked = make_options(**options, adapters=[name for name, _ in weighted])
    with prepare(parse_base(base), weighted, asked, target=where, jobs=jobs) as job:
        _show_plan(output, job, verbose)
        record, outcome = _made_before(output, job, where), None
        if record is None:
            outcome = _run(session, job, device, restart)
            record = _read_record(where)
        _show_verdict(output, job, where, record, outcome)


def _show_plan(output: Output, job: Job, verbose: bool) -> None:
    from ingot.plan.render import as_json, as_lines, summary_lines

    for line in (as_lines if verbose else summary_lines)(job.plan, output.width):
        output.say(line)
    output.say()
    output.event("plan", **as_json(job.plan))


def _run(session: Session, /, job: Job, device: str, restart: bool) -> Outcome:
    from ingot.cli.progress import Progress

    total = sum(shard.nbytes for shard in job.plan.shards)
    with session.stopper.watched() as stop, Progress(session.output, total, "merging") as progress:
        return job.run(device=device, restart=restart, stop=stop, progress=progress)


def _made_before(output: Output, job: Job, target: Path) -> Record | None:
    """The record of a finished artifact at `target`, where it is what this very job would make; None otherwise.

    Then the run itself says what is wrong with the target.
    """
    from ingot.registry import verify
    from ingot.storage import RECORD_NAME, DigestMemory, PosixDisk, sweep

    if not (target / RECORD_NAME).is_file():
        return None
    output.say(f"{target} exists; comparing it with this plan ...")
    try:
        record = _read_record(target)
    except IngotError:
        return None
    if record.internals.plan_digest != job.plan.digest:
        return None
    memory = DigestMemory()
    for of, files in (("base", job.base.inputs), *((str(n), files) for n, files in enumerate(job.adapter_files))):
        recorded = {name: entry.digest.sha256 for name, entry in record.dependencies(of).items()}
        if recorded != {name: memory.sha256(file) for name, file in files.items()}:
            return None
    if not verify(target).ok:
        return None
    sweep(PosixDisk(), target)  # what a run that died right after its last step left
    return record


def _read_record(target: Path) -> Record:
    from ingot.registry import read_record
    from ingot.storage import RECORD_NAME, InputFile

    with InputFile.open(target, RECORD_NAME, error=OutputError) as file:
        return read_record(file.read(0, file.nbytes))


def _show_verdict(output: Output, job: Job, target: Path, record: Record, outcome: Outcome | None) -> None:
    checks = record.statement.predicate.run.checks
    nbytes, files = sum(subject.nbytes for subject in record.subjects.values()), len(record.subjects) + 1
    adapter, changed = checks["adapter_tensors"], checks["tensors_changed"]
    output.lines(
        [
            _line("Written" if outcome else "Unchanged", _what_happened(target, files, nbytes, outcome)),
            _line("Adapters", _consumed(adapter)),
            _line("Tensors", f"{changed['planned']:,} changed, {checks['tensors_untouched']['planned']:,} untouched"),
            _line("Identity", record.identity),
        ]
    )
    idle = changed["no_change_seen"]
    if idle:
        output.warn(f"{counted(len(idle), 'changed tensor')} kept every value that was sampled, such as {idle[0]}")
    _say_next(output, target, job.plan.base.model_class)
    output.essence(record.identity)
    output.result(
        verb="merge", output=str(target), already_made=outcome is None, identity=record.identity,
        plan_digest=job.plan.digest, nbytes=nbytes, seconds=outcome.seconds if outcome else 0.0,
        resumed=outcome.resumed if outcome else [], checks=checks,
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


def _say_next(output: Output, target: Path, model_class: str | None) -> None:
    """The commands that a person types now."""
    name = str(target)
    causal = model_class is None or model_class.endswith(("ForCausalLM", "LMHeadModel"))
    loader = "AutoModelForCausalLM" if causal else model_class
    output.say()
    output.say(_line("Verify", f"ingot verify {shlex.quote(name)} --read"))
    output.say(_line("Load", f"transformers.{loader}.from_pretrained({name!r}, dtype='auto')"))
