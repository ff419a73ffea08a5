"""An artifact as the registry knows it: what its record says, in brief, and what this registry adds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

from ingot.plan.public import public_name
from ingot.record.statement import Record


class State(StrEnum):
    HERE = "here"  # whole, in the registry
    ELSEWHERE = "elsewhere"  # whole, where it was made
    FREED = "freed"  # its record is left, from which it can be made again


class File(Struct, frozen=True):
    """`role` is "output", "base", or an adapter's number counted from 0."""

    role: str
    name: str
    nbytes: int
    sha256: str


class Adapter(Struct, frozen=True):
    """One of the adapters an artifact was made of. `matches`: whether it was trained on that base; None: unknown."""

    name: str
    revision: str | None
    commit: str | None
    weight: float
    method: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    version: str | None
    training_run: str | None
    claimed_base: str | None
    matches: bool | None


class Score(Struct, frozen=True):
    """Of one task: the artifact's, and that of base + adapter; `same_answers` as it gives, to the letter."""

    task: str
    candidate: float
    reference: float
    samples: int
    same_answers: int | None = None


class Scores(Struct, frozen=True):
    """The latest evaluation. `ok`: every gate was passed."""

    ok: bool
    evaluated_on: str
    tasks: tuple[Score, ...]
    mean_kl: float | None
    top1: float | None

    @property
    def mean(self) -> float | None:
        """Of the artifact's scores over the tasks; None where there is none."""
        return sum(score.candidate for score in self.tasks) / len(self.tasks) if self.tasks else None


class Facts(Struct, frozen=True):
    """What a record says, in brief. `format` is "safetensors" or "gguf:TYPE,..."; times are RFC 3339 in UTC."""

    identity: str
    title: str
    version: str | None
    format: str
    dtypes: tuple[str, ...]
    method: str
    made_on: str
    ingot: str
    plan_digest: str
    recipe_sha256: str | None
    base: str
    base_revision: str | None
    base_commit: str | None
    base_version: str | None
    adapters: tuple[Adapter, ...]
    files: tuple[File, ...]
    parents: tuple[str, ...]
    scores: Scores | None

    @property
    def outputs(self) -> tuple[File, ...]:
        return tuple(file for file in self.files if file.role == "output")

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.outputs)

    def inputs(self, role: str) -> tuple[File, ...]:
        """The files of "base", or of an adapter."""
        return tuple(file for file in self.files if file.role == role)

    def weights(self, role: str) -> File | None:
        """The largest file of an input: what people know it by."""
        files = self.inputs(role)
        return max(files, key=lambda file: (file.name.startswith("adapter_model"), file.nbytes), default=None)


class Entry(Struct, frozen=True):
    """`name` is the directory's in the registry; `place` where the files are, None when they were freed."""

    facts: Facts
    name: str
    state: State
    place: str | None
    tags: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return self.facts.identity


def facts_of(record: Record) -> Facts:
    """The record in brief."""
    recipe, internals, run = record.recipe, record.internals, record.statement.predicate.run
    release = recipe.release
    labels = dict(enumerate(release.adapters if release else ()))
    claims = {claim.adapter: claim for claim in run.base_claims}
    adapters = []
    for number, (spec, facts) in enumerate(zip(recipe.adapters, internals.adapters, strict=True)):
        label, claim = labels.get(number), claims.get(number)
        adapters.append(
            Adapter(
                spec.name, spec.revision, record.commit(str(number)), spec.weight, facts.method, facts.ranks,
                facts.alphas,
                label.version if label else None, label.training_run if label else None,
                claim.base if claim else None, claim.matches if claim else None,
            )
        )  # fmt: skip
    outputs = [File("output", subject.name, subject.nbytes, subject.sha256) for subject in record.subjects.values()]
    inputs = [
        File(entry.annotations.of, entry.name, entry.annotations.size, entry.digest.sha256)
        for entry in record.statement.predicate.build.dependencies
    ]
    gguf = recipe.options.gguf
    return Facts(
        record.identity, release.name if release else _title(record), release.version if release else None,
        "gguf:" + ",".join(gguf.file_types) if gguf else "safetensors", internals.dtypes.output, recipe.options.method,
        run.metadata.finished_on, internals.ingot, internals.plan_digest, release.recipe_sha256 if release else None,
        recipe.base.name, recipe.base.revision, record.commit("base"), release.base_version if release else None,
        tuple(adapters), (*outputs, *inputs), run.parents, _scores(run.evaluations),
    )  # fmt: skip


def _title(record: Record) -> str:
    names = [record.recipe.base.name, *(spec.name for spec in record.recipe.adapters)]
    return "-".join(public_name(name).rpartition("/")[2] for name in names)


def _scores(evaluations: tuple[Any, ...]) -> Scores | None:
    """Of the latest evaluation. They are free in form: one that is not as `validate` writes it tells no scores."""
    try:
        return _latest_scores(evaluations)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _latest_scores(evaluations: tuple[Any, ...]) -> Scores | None:
    latest = next((one for one in reversed(evaluations) if isinstance(one, Mapping)), None)
    if latest is None:
        return None
    tasks = [
        Score(
            str(task["name"]),
            float(task["candidate"]),
            float(task["reference"]),
            int(task["samples"]),
            task.get("same_answers"),
        )
        for task in latest.get("tasks") or ()
        if isinstance(task, Mapping) and {"name", "candidate", "reference", "samples"} <= task.keys()
    ]
    tasks += [
        Score(
            f"{task['task']}:{task['metric']}", float(task["candidate"]), float(task["reference"]), int(task["samples"])
        )
        for task in latest.get("harness") or ()
    ]
    mean_kl, top1 = (
        None if value is None else float(value) for value in map((latest.get("logits") or {}).get, ("mean_kl", "top1"))
    )
    return Scores(latest.get("ok") is True, str(latest.get("evaluated_on", "")), tuple(tasks), mean_kl, top1)
