"""A model directory that ingot made: what its record says."""

from __future__ import annotations

from pathlib import Path

from ingot.errors import CheckFailed
from ingot.inspect.report import Report
from ingot.plan.figures import counted, nbytes_text
from ingot.record import Record, read_record
from ingot.storage import RECORD_NAME, InputFile


def inspect_artifact(path: Path) -> Report:
    """The report of an artifact. Raises CheckFailed where its record cannot be believed."""
    with InputFile.open(path, RECORD_NAME, error=CheckFailed) as file:
        record = read_record(file.read(0, file.nbytes))
    recipe, internals = record.recipe, record.internals
    run = record.statement.predicate.run
    files = [{"name": s.name, "nbytes": s.nbytes, "sha256": s.sha256} for s in record.subjects.values()]
    facts: dict[str, object] = {
        "name": path.resolve().name,
        "identity": record.identity,
        "plan_digest": internals.plan_digest,
        "base": {"name": recipe.base.name, "revision": recipe.base.revision},
        "adapters": [{"name": a.name, "revision": a.revision, "weight": a.weight} for a in recipe.adapters],
        "options": {
            "dtype": recipe.options.dtype,
            "rounding": recipe.options.rounding,
            "method": recipe.options.method,
        },
        "dtypes": list(internals.dtypes.output),
        "device": internals.device,
        "ingot": internals.ingot,
        "libraries": dict(internals.libraries),
        "finished_on": run.metadata.finished_on,
        "checks": run.checks,
        "files": files,
        "nbytes": sum(subject.nbytes for subject in record.subjects.values()),
    }
    return Report("artifact", facts, _pairs(path, record))


def _pairs(path: Path, record: Record) -> tuple[tuple[str, str | list[str]], ...]:
    recipe, internals = record.recipe, record.internals
    run, gguf = record.statement.predicate.run, record.recipe.options.gguf
    adapters = [
        f"{spec.name}" + (f"@{spec.revision}" if spec.revision else "") + f": {facts.method}, weight {spec.weight:g}"
        for spec, facts in zip(recipe.adapters, internals.adapters, strict=False)
    ]
    nbytes = sum(subject.nbytes for subject in record.subjects.values())
    size = f"{counted(len(record.subjects) + 1, 'file')}, {nbytes_text(nbytes)}"
    consumed = run.checks.get("adapter_tensors", {})
    what = "merge" if recipe.adapters else "quantization"
    return (
        ("Artifact", f"{path.resolve().name}: a {what} by ingot {internals.ingot}, {run.metadata.finished_on}"),
        ("Base", recipe.base.name + (f"@{recipe.base.revision}" if recipe.base.revision else "")),
        ("Adapters", adapters),
        *((("Method", recipe.options.method),) if recipe.options.method != "linear" else ()),
        ("Size", f"{size}, {'/'.join(gguf.file_types if gguf else internals.dtypes.output)}"),
        ("Accounted", f"{consumed.get('consumed', '?')} of {consumed.get('total', '?')} adapter tensors merged"),
        ("Identity", record.identity),
        ("Plan", internals.plan_digest),
        ("Verify", f"ingot verify {path} --read"),
    )
