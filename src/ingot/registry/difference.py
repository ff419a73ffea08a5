"""`diff`: what changed between two artifacts: inputs, recipe, tools, tensors, scores.

Tensors are compared by the running digests of the two tensor tables as far as those tell (they agree up to the first
tensor that differs), and from there by their bytes, where both artifacts are at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from ingot.errors import CheckFailed
from ingot.record.statement import Record
from ingot.record.tensor_table import TABLE_NAME, Row, read_table
from ingot.registry.entry import Entry, Facts, State
from ingot.registry.store import Registry
from ingot.storage.inputs import InputFile

_CHUNK_NBYTES = 4 << 20


@dataclass(frozen=True)
class Change:
    """One thing that is not the same; None where one side does not have it."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class TensorChange:
    """A tensor that is not the same. `before` and `after`: the sha256 of its bytes; empty where they are not known."""

    name: str
    how: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Difference:
    """What changed from one artifact to another.

    Attributes:
        tensors: those that differ, in file order.
        same: tensors that are the same.
        unknown: tensors of which it cannot be told, because the files of an artifact are gone.
    """

    inputs: tuple[Change, ...]
    recipe: tuple[Change, ...]
    tools: tuple[Change, ...]
    scores: tuple[Change, ...]
    tensors: tuple[TensorChange, ...]
    same: int
    unknown: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        return not (self.inputs or self.recipe or self.tools or self.scores or self.tensors or self.unknown)


def diff(
    registry: Registry, before: Entry, after: Entry, *, progress: Callable[[int], None] = lambda _: None
) -> Difference:
    """Everything that is not the same. `progress` is told of bytes read.

    Raises:
        CheckFailed: a record or a tensor table cannot be believed.
        InputChangedError.
    """
    one, other = registry.record(before), registry.record(after)
    changed, same, unknown = _tensors(registry, before, after, progress)
    return Difference(
        tuple(_inputs(before.facts, after.facts)), tuple(_options(one, other)), tuple(_tools(one, other)),
        tuple(_scores(before.facts, after.facts)), tuple(changed), same, tuple(unknown),
    )  # fmt: skip


def _inputs(before: Facts, after: Facts) -> Iterator[Change]:
    """Base and adapters by name, then each of their files by digest."""
    roles = ["base", *(str(n) for n in range(max(len(before.adapters), len(after.adapters))))]
    for role in roles:
        title = "base" if role == "base" else f"adapter {int(role) + 1}"
        yield from _changed(title, _input_title(before, role), _input_title(after, role))
        old = {file.name: file.sha256 for file in before.inputs(role)}
        new = {file.name: file.sha256 for file in after.inputs(role)}
        for name in sorted(old.keys() | new.keys()):
            yield from _changed(f"{title}: {name}", old.get(name), new.get(name))


def _input_title(facts: Facts, role: str) -> str | None:
    if role == "base":
        return _at(facts.base, facts.base_commit or facts.base_revision)
    if int(role) >= len(facts.adapters):
        return None
    adapter = facts.adapters[int(role)]
    known = [_at(adapter.name, adapter.commit or adapter.revision), adapter.version, f"weight {adapter.weight:g}"]
    return ", ".join([part for part in known if part] + ([adapter.training_run] if adapter.training_run else []))


def _at(name: str, commit: str | None) -> str:
    return f"{name}@{commit}" if commit else name


def _options(before: Record, after: Record) -> Iterator[Change]:
    yield from _changed_values(msgspec.to_builtins(before.recipe.options), msgspec.to_builtins(after.recipe.options))
    for name in ("name", "version", "format"):
        yield from _changed(
            f"release {name}", getattr(before.recipe.release, name, None), getattr(after.recipe.release, name, None)
        )


def _tools(before: Record, after: Record) -> Iterator[Change]:
    one, other = before.internals, after.internals
    yield from _changed("ingot", one.ingot, other.ingot)
    yield from _changed("device", one.device, other.device)
    yield from _changed_values(dict(one.libraries), dict(other.libraries))
    yield from _changed_values(dict(one.backends), dict(other.backends))


def _scores(before: Facts, after: Facts) -> Iterator[Change]:
    old = {score.task: f"{score.candidate:.4g}" for score in (before.scores.tasks if before.scores else ())}
    new = {score.task: f"{score.candidate:.4g}" for score in (after.scores.tasks if after.scores else ())}
    yield from _changed_values(old, new)
    for name in ("mean_kl", "top1"):
        one, other = (getattr(facts.scores, name, None) for facts in (before, after))
        yield from _changed(name, *(None if value is None else f"{value:.3g}" for value in (one, other)))


def _changed_values(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        yield from _changed(name, *(None if value is None else str(value) for value in (one, other)))


def _changed(what: str, before: str | None, after: str | None) -> Iterator[Change]:
    if before != after:
        yield Change(what, before, after)


# -- tensors


@dataclass(frozen=True)
class _Tensor:
    """A row of a table, the digest of its file up to it, and of its file before it."""

    row: Row
    file: Path | None
    until: str
    before: str


def _tensors(
    registry: Registry, before: Entry, after: Entry, progress: Callable[[int], None]
) -> tuple[list[TensorChange], int, list[str]]:
    old, new = _table(registry, before), _table(registry, after)
    changed, unknown, same = [], [], 0
    for name in dict.fromkeys([*old, *new]):
        one, other = old.get(name), new.get(name)
        if one is None or other is None:
            changed.append(TensorChange(name, "gone" if other is None else "new"))
        elif (one.row.dtype, one.row.shape) != (other.row.dtype, other.row.shape):
            shapes = (f"{row.dtype}{list(row.shape)}" for row in (one.row, other.row))
            changed.append(TensorChange(name, " -> ".join(shapes)))
        elif one.until == other.until:
            same += 1
        elif one.before == other.before:  # the same file up to here, and not with it
            changed.append(_differing(name, one, other, progress))
        elif one.file is None or other.file is None:
            unknown.append(name)
        else:
            found = _differing(name, one, other, progress)
            same += found.before == found.after
            changed += [found] if found.before != found.after else []
    return changed, same, unknown


def _differing(name: str, one: _Tensor, other: _Tensor, progress: Callable[[int], None]) -> TensorChange:
    known = one.file is not None and other.file is not None
    digests = (_digest(one, progress), _digest(other, progress)) if known else ("", "")
    return TensorChange(name, "values", *digests)


def _digest(tensor: _Tensor, progress: Callable[[int], None]) -> str:
    assert tensor.file is not None
    digest = hashlib.sha256()
    with InputFile.open(tensor.file.parent, tensor.file.name, error=CheckFailed) as file:
        for begin in range(tensor.row.begin, tensor.row.end, _CHUNK_NBYTES):
            nbytes = min(_CHUNK_NBYTES, tensor.row.end - begin)
            digest.update(file.read(begin, nbytes))
            progress(nbytes)
    return digest.hexdigest()


def _table(registry: Registry, entry: Entry) -> dict[str, _Tensor]:
    """Tensors by name, in file order. Raises CheckFailed."""
    folder = registry.folder(entry)
    with ExitStack() as stack:
        table = read_table(stack.enter_context(InputFile.open(folder, TABLE_NAME, error=CheckFailed)))
    found = {}
    for name, rows in table.rows.items():
        file = None if entry.state is State.FREED else folder / name
        for previous, row in pairwise(rows):
            found[row.name] = _Tensor(row, file, row.sha256, previous.sha256)
    return found
