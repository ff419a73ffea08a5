"""`ingot validate`: is the candidate the model that was trained?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.arguments import DTYPES, device_name, output_flags
from ingot.cli.framework import OUTPUT, RESULT, RUN, Option, Verb
from ingot.errors import CheckFailed, UsageError
from ingot.kernels.spelling import TORCH

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.validate.request import Checked, Request, Side
    from ingot.validate.result import Candidate, Evaluation

_EXAMPLES = (
    ("ingot validate ./merged --reference ./base+./lora", "Weights alone: needs no sample, and no model in memory."),
    ("ingot validate ./merged --reference ./base+./lora --samples tests.jsonl --chat",
     "Also logits and answers, through the chat template."),
    ("ingot validate ./merged http://127.0.0.1:8000/v1 --reference ./base+./lora --samples a.jsonl --samples b.jsonl",
     "Two candidates and two tasks in one table."),
    ("ingot validate ./merged/merged-Q4_K_M.gguf --reference ./base+./lora --samples tests.jsonl --chat",
     "As llama.cpp runs it."),
    ("ingot validate ./merged --reference ./base+./lora --tasks gsm8k --max-score-drop 0.01",
     "A task of lm-evaluation-harness, and a tighter gate."),
)  # fmt: skip
_ARGUMENTS = (
    ("CANDIDATE", "A checkpoint, BASE+ADAPTER, a .gguf file, or the URL of an OpenAI-compatible server (URL#model)."),
)  # fmt: skip


def _option(*names: str, group: str = RUN, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=Option, group=group, **settings)


@click.command(
    cls=Verb, short_help="Is it the model that was trained? Weights, logits, scores, gates, a report.",
    examples=_EXAMPLES, arguments_help=_ARGUMENTS,
)  # fmt: skip
@click.argument("candidates", metavar="CANDIDATE...", nargs=-1, required=True)
@_option(
    "--reference",
    group=RESULT,
    metavar="BASE+ADAPTER",
    required=True,
    help="What all are held against: PEFT applies the adapters, unmerged. BASE+A=0.7+B=0.3 weighs them.",
)
@_option(
    "--samples",
    group=RESULT,
    multiple=True,
    metavar="[NAME=]FILE.jsonl[:METRIC]",
    help='Lines of {"prompt": ..., "expected": ...}; once for each task.',
)
@_option(
    "--metric",
    group=RESULT,
    metavar="METRIC",
    help="contains (default), exact, regex, numeric, json, choice, choice_norm, or FILE.py:function.",
)
@_option("--chat", group=RESULT, is_flag=True, help="Put the prompts through the chat template.")
@_option(
    "--new-tokens",
    group=RESULT,
    type=click.IntRange(1, 8192),
    default=64,
    show_default=True,
    metavar="N",
    help="The most tokens that an answer may have.",
)
@_option(
    "--tasks",
    "harness",
    group=RESULT,
    metavar="NAME[,NAME...]",
    help="Tasks of lm-evaluation-harness, whose data is on this machine.",
)
@_option(
    "--tasks-dir",
    "harness_dir",
    group=RESULT,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where YAML files of such tasks of your own are.",
)
@_option(
    "--tasks-limit",
    "harness_limit",
    group=RESULT,
    type=click.IntRange(1),
    metavar="N",
    help="Only the first N documents of each of those tasks.",
)
@_option(
    "--logit-tokens",
    group=RESULT,
    type=click.IntRange(2),
    metavar="N",
    help="Compare logits on about so many tokens [16,384; of a GGUF 4,096, or fewer where there are many words].",
)
@_option("--max-score-drop", group=RESULT, type=float, metavar="X", help="Gate: of each task's score [0.02].")
@_option("--max-kl", group=RESULT, type=float, metavar="X", help="Gate: mean KL divergence in nats [0.05].")
@_option(
    "--min-top1",
    group=RESULT,
    type=float,
    metavar="X",
    help="Gate: share of positions with the same likeliest token [0.9].",
)
@_option(
    "--min-survival",
    group=RESULT,
    type=float,
    metavar="X",
    help="Gate: of every tensor's update, what is left after rounding [0.8].",
)
@_option(
    "--dtype",
    group=RESULT,
    type=click.Choice(list(DTYPES)),
    metavar="DTYPE",
    help="What the models compute in; default: as they are stored.",
)
@_option(
    "--seed",
    group=RESULT,
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="N",
    help="Of the bootstrap intervals [0].",
)
@_option(
    "--stream-layers",
    is_flag=True,
    help="Run both layer by layer from the files, in bounded memory: logits, and where along the depth they part.",
)
@_option(
    "--device", metavar="DEVICE", default="cpu", show_default=True, callback=device_name, help="Where the models run."
)
@_option(
    "--work",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where answers are kept for a resume; default: ingot's cache.",
)
@_option(
    "--report", group=OUTPUT, metavar="FILE.html", type=click.Path(path_type=Path), help="Write the report page there."
)
@_option("--no-record", group=OUTPUT, is_flag=True, help="Do not add the result to the candidate's ingot.json.")
@output_flags
@click.pass_obj
def validate(
    session: Session,
    /,
    candidates: tuple[str, ...],
    report: Path | None,
    no_record: bool,
    **options: Any,
) -> None:
    """Hold candidates against base + adapter: their weights, tokens, logits and answers. Exits with 1 where a gate
    fails."""
    from ingot.cli.progress import bars
    from ingot.validate.request import check
    from ingot.validate.run import evaluate

    output = session.output
    _check_report(report)
    checked = check(_request(candidates, **options))
    for warning in checked.warnings:
        output.warn(warning)
    with session.stopper.watched() as stop:
        evaluation = evaluate(checked, bars(output), stop=stop)
    if report is not None:
        _write_report(report, evaluation)
    recorded = [] if no_record else _record(checked, evaluation)
    _show(output, evaluation, report, recorded)


def _request(candidates: tuple[str, ...], /, **options: Any) -> Request:
    from ingot.merge import cores
    from ingot.storage import cache_directory
    from ingot.validate.gates import Limits
    from ingot.validate.request import Request

    names = ("max_score_drop", "max_kl", "min_top1", "min_survival")
    limits = {name: value for name in names if (value := options.pop(name)) is not None}
    dtype, work, harness = options.pop("dtype"), options.pop("work"), options.pop("harness")
    cache = cache_directory()
    if work is None:
        if cache is None:
            raise UsageError("there is no home directory for what is kept meanwhile", hint="Pass --work DIR.")
        work = cache / "evaluations"
    return Request(
        candidates=candidates, limits=Limits(**limits), dtype=TORCH[DTYPES[dtype]] if dtype else None,
        harness=tuple(name.strip() for name in harness.split(",") if name.strip()) if harness else (),
        jobs=cores(), work=work, **options,
    )  # fmt: skip


def _check_report(path: Path | None) -> None:
    """Before an hour's work, not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError("the report cannot be written there", where=path, hint="Name a file in an existing directory.")


def _write_report(path: Path, evaluation: Evaluation) -> None:
    from ingot.storage import PosixDisk, replace_file
    from ingot.validate.report.page import render

    replace_file(PosixDisk(), path.absolute(), render(evaluation).encode("utf-8"))


def _record(checked: Checked, evaluation: Evaluation) -> list[str]:
    """Add each candidate's result to its own record, where it is an artifact of ingot; returns the records."""
    from ingot.record import add_evaluation
    from ingot.storage import RECORD_NAME
    from ingot.validate.report.brief import brief

    recorded = []
    for side, candidate in zip(checked.candidates, evaluation.candidates, strict=True):
        path = _artifact(side)
        if path is not None:
            add_evaluation(path, brief(evaluation, candidate))
            recorded.append(str(path / RECORD_NAME))
    return list(dict.fromkeys(recorded))


def _artifact(side: Side) -> Path | None:
    """The directory with a record that the candidate is, or that names its file; None of anything else."""
    from ingot.record import read_record
    from ingot.storage import RECORD_NAME
    from ingot.validate.gguf_files import GgufModel

    if side.located is None:
        return None
    if isinstance(side.located, GgufModel):
        path = side.located.files[0].parent
        record = path / RECORD_NAME
        return path if record.is_file() and side.located.name in read_record(record.read_bytes()).subjects else None
    path = side.located.base.path
    return path if not side.located.adapters and (path / RECORD_NAME).is_file() else None


def _show(output: Output, evaluation: Evaluation, report: Path | None, recorded: list[str]) -> None:
    from ingot.validate.report.brief import as_json
    from ingot.validate.report.text import lines

    output.lines(lines(evaluation, output.width))
    places = [f"{'Report':<11}{report}"] if report else []
    places += [f"{'Recorded':<11}{path}" for path in recorded]
    output.lines(["", *places] if places else [])
    output.essence("ok" if evaluation.ok else "failed")
    shown = {"report": str(report) if report else None, "recorded": recorded, **as_json(evaluation)}
    if evaluation.ok:
        output.result(verb="validate", **shown)
        return
    output.event("evaluation", **shown)
    failed = [(candidate, gate) for candidate in evaluation.candidates for gate in candidate.gates if not gate.ok]
    raise _failure(failed[0][0], failed[0][1].name, failed[0][1].said, len(failed) - 1)


def _failure(candidate: Candidate, gate: str, said: str, more: int) -> CheckFailed:
    others = f"; and {more} more" if more else ""
    return CheckFailed(
        f"a gate failed: {gate}: {said}{others}", where=candidate.subject.name,
        hint="Look at the table above, or write a page with --report FILE.html.",
    )  # fmt: skip
