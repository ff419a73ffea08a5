"""What MLflow's model registry is told of an artifact: tags, all of whose names begin with `ingot.`.

A tag's name may hold ASCII letters, digits and `_-./: `; a value is at most 100,000 characters. Source: mlflow 3.17,
`utils/validation.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from ingot.registry.entry import Adapter, Facts, Score

IDENTITY = "ingot.identity"
PLACE = "ingot.place"
SCORES = "ingot.score."
_MAX_NAME, _MAX_VALUE = 250, 100_000
_RUN = re.compile(r"mlflow:(?://)?([0-9A-Za-z_-]+)")


def tags_of(facts: Facts, place: str) -> dict[str, str]:
    """Every tag of the artifact; `place` is where its files are."""
    told = {**dict(_artifact(facts)), **dict(_origin(facts)), **dict(_scores(facts)), PLACE: place}
    return {name[:_MAX_NAME]: value[:_MAX_VALUE] for name, value in told.items() if value}


def description_of(facts: Facts) -> str:
    adapters = " + ".join(f"{one.name}{f' ({one.version})' if one.version else ''}" for one in facts.adapters)
    return f"{facts.base} + {adapters}, {facts.format}. Made by ingot {facts.ingot}; identity {facts.identity}."


def runs_of(facts: Facts) -> tuple[str, ...]:
    """MLflow's ids of the adapters' training runs, in order: `mlflow:RUN_ID`, as a release calls them."""
    matches = (_RUN.fullmatch(one.training_run or "") for one in facts.adapters)
    return tuple(dict.fromkeys(match[1] for match in matches if match))


def files_digest(files: Mapping[str, str]) -> str:
    """sha256 over "sha256  name" lines in order of names: what `sha256sum` prints of them, digested."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _artifact(facts: Facts) -> Iterator[tuple[str, str]]:
    yield IDENTITY, facts.identity
    yield "ingot.version", facts.ingot
    yield "ingot.plan_digest", facts.plan_digest
    yield "ingot.format", facts.format
    yield "ingot.dtypes", ", ".join(facts.dtypes)
    yield "ingot.method", facts.method
    yield "ingot.release", facts.title
    yield "ingot.release_version", facts.version or ""
    yield "ingot.recipe_sha256", facts.recipe_sha256 or ""
    yield "ingot.made_on", facts.made_on
    yield "ingot.nbytes", str(facts.nbytes)
    yield "ingot.files_sha256", files_digest({file.name: file.sha256 for file in facts.outputs})


def _origin(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "ingot.base", facts.base
    yield "ingot.base_version", facts.base_version or ""
    yield "ingot.base_revision", facts.base_revision or ""
    yield "ingot.base_commit", facts.base_commit or ""
    yield "ingot.base_sha256", files_digest({file.name: file.sha256 for file in facts.inputs("base")})
    for number, adapter in enumerate(facts.adapters):
        files = {file.name: file.sha256 for file in facts.inputs(str(number))}
        for name, value in _adapter(adapter, files):
            yield f"ingot.adapter.{number}{name}", value
    yield "ingot.training_runs", ", ".join(one.training_run for one in facts.adapters if one.training_run)


def _adapter(adapter: Adapter, files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "", adapter.name
    yield ".version", adapter.version or ""
    yield ".commit", adapter.commit or ""
    yield ".weight", f"{adapter.weight:g}"
    yield ".sha256", files_digest(files)
    yield ".training_run", adapter.training_run or ""


def _scores(facts: Facts) -> Iterator[tuple[str, str]]:
    scores = facts.scores
    if scores is None:
        return
    yield "ingot.gates", "passed" if scores.ok else "failed"
    yield "ingot.evaluated_on", scores.evaluated_on
    for score in scores.tasks:
        name = SCORES + _spelled(score)
        yield name, f"{score.candidate:.6g}"
        yield f"{name}.reference", f"{score.reference:.6g}"
        yield f"{name}.samples", str(score.samples)
    if scores.mean_kl is not None:
        yield "ingot.mean_kl", f"{scores.mean_kl:.6g}"
    if scores.top1 is not None:
        yield "ingot.top1", f"{scores.top1:.6g}"


def _spelled(score: Score) -> str:
    return re.sub(r"[^0-9A-Za-z_-]+", "_", score.task)[: _MAX_NAME - 40]
