"""`ingot release`: one recipe in, traceable artifacts out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import device_name, jobs_option, output_flags
from ingot.cli.framework import OUTPUT, RUN, Option, Verb
from ingot.cli.registry.common import entry_json, line, registry_option
from ingot.errors import IngotError, UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.record import Record
    from ingot.registry.entry import Entry
    from ingot.registry.keeping import Kept
    from ingot.release.planning import Artifact, ReleasePlan
    from ingot.release.run import Result
    from ingot.validate.result import Evaluation

_EXAMPLES = (
    ("ingot init ./llama-3.1-8b ./support-lora -o release.yaml", "Write a recipe to begin with."),
    ("ingot release release.yaml --dry-run", "What it would make, of what size, and where; writes nothing."),
    ("ingot release release.yaml", "Make, validate, gate and publish; the same command goes on after a crash."),
)


@click.command(
    cls=Verb, short_help="One recipe in, traceable artifacts out: made, validated, gated, published.",
    examples=_EXAMPLES, arguments_help=[("RECIPE.yaml", "What to make; `ingot init` writes one.")],
)  # fmt: skip
@click.argument("recipe", metavar="RECIPE.yaml")
@click.option("-n", "--dry-run", cls=Option, group=RUN, is_flag=True, help="Show the plan; write nothing.")
@click.option("--device", cls=Option, group=RUN, metavar="DEVICE", default="cpu", show_default=True,
              callback=device_name, help="Where the arithmetic is done, and the models run.")  # fmt: skip
@jobs_option
@click.option("--restart", cls=Option, group=RUN, is_flag=True, help="Drop what an interrupted run has finished.")
@registry_option
@click.option("-v", "--verbose", cls=Option, group=OUTPUT, is_flag=True, help="Show the whole plan of the merge.")
@output_flags
@click.pass_obj
def release(
    session: Session,
    /,
    recipe: str,
    dry_run: bool,
    device: str,
    jobs: int | None,
    restart: bool,
    place: Path | None,
    verbose: bool,
) -> None:
    """Make every artifact of a recipe, hold each against base + adapter, and publish those that pass their gates."""
    from ingot.cli.progress import bars
    from ingot.registry.store import Registry
    from ingot.release.planning import planned
    from ingot.release.recipe import read_recipe
    from ingot.release.run import run

    output = session.output
    if not recipe.strip() or "\0" in recipe:
        raise UsageError("RECIPE.yaml is empty", found=repr(recipe))
    asked = read_recipe(Path(recipe))
    where = place or (Path(asked.publish.registry) if asked.publish.registry else None)
    with planned(asked, Registry.to_be(where), device=device, jobs=jobs) as plan:
        _show_plan(output, plan, verbose)
        if dry_run:
            output.result(verb="release", dry_run=True, **_plan_json(plan))
            return
        talk = _Talk(output)
        with session.stopper.watched() as stop:
            result = run(plan, talk, bars(output), device=device, restart=restart, stop=stop)
        _show_verdict(output, plan, result)


def _show_plan(output: Output, plan: ReleasePlan, verbose: bool) -> None:
    from ingot.plan.render import as_lines, summary_lines

    first = plan.artifacts[0].job.plan
    width = output.width
    for text in as_lines(first, width) if verbose else summary_lines(first, width):
        if not text.startswith(("Cost", "Memory", "Writes", "Warnings")) or verbose:
            output.say(text)
    output.say()
    for text in plan_lines(plan):
        output.say(text)
    output.say()
    for warning in plan.warnings:
        output.warn(warning)
    output.event("plan", **_plan_json(plan))


def plan_lines(plan: ReleasePlan) -> list[str]:
    """What will be made, as a bill."""
    width = max(len(one.name) for one in plan.artifacts)
    lines = []
    for number, one in enumerate(plan.artifacts):
        state = "published" if one.published else "made, to be validated" if one.made else nbytes_text(one.job.nbytes)
        lines.append(line("Artifacts" if number == 0 else "", f"{one.name:<{width}}  {one.form.format:<14}  {state}"))
    cost = next((one.job.plan.budget for one in plan.to_make if one.job.plan.budget), None)
    free = f" of {nbytes_text(cost.free_nbytes)} free" if cost and cost.free_nbytes is not None else ""
    lines.append(line("Writes", f"{nbytes_text(plan.nbytes)}{free} in {plan.registry.layout.root}"))
    lines.append(line("Validates", _validation(plan)))
    publish = plan.recipe.publish
    if publish.tags:
        lines.append(line("Tags", ", ".join(publish.tags)))
    if publish.push:
        lines.append(line("Pushes", ", ".join(publish.push)))
    return lines


def _validation(plan: ReleasePlan) -> str:
    waiting = [one for one in plan.artifacts if one.published is None]
    checked = [one for one in waiting if plan.is_checked(one)]
    if not waiting:
        return "nothing: everything is published"
    if plan.request is None or not checked:
        return f"nothing: {plan.why_unchecked}"
    what = [counted(len(plan.request.samples), "sample file")] if plan.request.samples else []
    what += [f"tasks {', '.join(plan.request.harness)}"] if plan.request.harness else []
    by = ", ".join(what) or "their weights"
    return f"{len(checked)} of {counted(len(waiting), 'artifact')} by {by}, before anything is published"


def _plan_json(plan: ReleasePlan) -> dict[str, object]:
    artifacts = [
        {
            "name": one.name, "format": one.form.format, "nbytes": one.job.nbytes, "plan_digest": one.job.plan.digest,
            "state": "published" if one.published else "made" if one.made else "new",
            "validated": plan.is_checked(one), "limits": vars(one.limits),
        }
        for one in plan.artifacts
    ]  # fmt: skip
    return {
        "recipe": plan.recipe.path.name, "recipe_sha256": plan.recipe.sha256, "artifacts": artifacts,
        "write_nbytes": plan.nbytes, "registry": str(plan.registry.layout.root), "warnings": list(plan.warnings),
    }  # fmt: skip


@dataclass(frozen=True)
class _Talk:
    """See `release.run.Talk`."""

    output: Output

    def made(self, artifact: Artifact, record: Record, *, before: bool) -> None:
        how = ", by a former run" if before else ""
        self.output.say(line("Made", f"{artifact.name}  {record.identity[:12]}{how}"))
        self.output.event("made", name=artifact.name, identity=record.identity, before=before)

    def evaluated(self, evaluation: Evaluation) -> None:
        from ingot.validate.report.brief import as_json
        from ingot.validate.report.text import lines

        self.output.lines([*lines(evaluation, self.output.width), ""])
        self.output.event("evaluation", **as_json(evaluation))

    def published(self, entry: Entry, *, before: bool) -> None:
        self.output.event("published", before=before, **entry_json(entry))

    def kept_out(self, artifact: Artifact, error: IngotError) -> None:
        self.output.event("kept_out", name=artifact.name, **error.as_json(), message=error.message)

    def kept(self, adapter: Kept, name: str) -> None:
        self.output.event("adapter_kept", name=name, digest=adapter.digest, path=str(adapter.path))

    def say(self, text: str) -> None:
        self.output.say(text)

    def pushed(self, entry: Entry, target: str, done: dict[str, object]) -> None:
        self.output.say(line("Pushed", f"{entry.name} to {target}"))
        self.output.event("pushed", name=entry.name, push=done)


def _show_verdict(output: Output, plan: ReleasePlan, result: Result) -> None:
    """What is published, what is not, and the next commands. Raises the first error of what was kept out."""
    own = {entry.name for entry in result.published}
    before = {one.name for one in plan.artifacts if one.published}
    for entry in result.published:
        tags = f"  [{', '.join(entry.tags)}]" if entry.tags else ""
        how = "Unchanged" if entry.name in before else "Published"
        output.lines([line(how, f"{entry.name}  {nbytes_text(entry.facts.nbytes)}  {entry.identity[:12]}{tags}")])
        output.essence(f"{entry.name} {entry.identity}")
    for name, error in result.kept_out.items():
        output.lines([line("Kept out", f"{name}: {error.message}")])
    output.lines([line("Registry", str(plan.registry.layout.root))])
    first = next((one for one in plan.artifacts if one.name in own), None)
    if first is not None and output.mode == "human":
        output.say()
        output.say(line("Trace", f"ingot registry trace {shlex.quote(first.name)}"))
    if result.kept_out:
        output.event("release", **_result_json(plan, result))
        raise _kept_out(result)
    output.result(verb="release", **_result_json(plan, result))


def _result_json(plan: ReleasePlan, result: Result) -> dict[str, object]:
    return {
        "recipe_sha256": plan.recipe.sha256, "registry": str(plan.registry.layout.root),
        "published": [entry_json(entry) for entry in result.published],
        "kept_out": {name: error.message for name, error in result.kept_out.items()},
    }  # fmt: skip


def _kept_out(result: Result) -> IngotError:
    """The first reason, with its own exit code; the others are in the lines above."""
    name, error = next(iter(result.kept_out.items()))
    total = len(result.kept_out) + len(result.published)
    what = f"{len(result.kept_out)} of {counted(total, 'artifact')} kept out of the registry; {error.what}"
    return type(error)(what, where=error.where or name, expected=error.expected, found=error.found, hint=error.hint)
