"""Which tensor of a candidate stands for which output tensor of the plan.

Other tools write other files of the same model: a tied head once, twice or not at all, names of another style (GPT-2
with and without `transformer.`), other shards. What a loader would make of them is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingot.errors import IngotError
from ingot.formats.strict_json import loads
from ingot.formats.tensor_ref import TensorRef
from ingot.naming import Names
from ingot.plan import configs
from ingot.plan.model import Op

if TYPE_CHECKING:
    from ingot.checkpoint.checkpoint import Checkpoint
    from ingot.merge import Job


@dataclass(frozen=True)
class Pair:
    """`name` of the candidate must hold what `op` makes. Where `name` is tied, `ref` is the tensor it is tied to."""

    name: str
    op: Op
    ref: TensorRef


@dataclass
class Pairing:
    """Every output tensor is in `pairs` or `missing`; `extra` are the candidate's tensors that nothing asks for."""

    pairs: list[Pair] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)


def pair(job: Job, candidate: Checkpoint) -> Pairing:
    """Find every output tensor of the plan in the candidate.

    A tensor of the base that its model class does not use (a buffer of an older release) may be absent: whoever loads
    the model and saves it loses it. One of another shape counts as missing, and its entry says so.
    """
    ops = {op.name: op for op in job.plan.ops}
    config = loads(configs.changed(job.base.config, job.plan.config_changes), where="config.json")
    expected = Names.of(ops, config if isinstance(config, dict) else {})
    found = Names.of(candidate.stored, candidate.config)
    result = Pairing()
    refs = _by_expected_name(ops, expected, candidate, found)
    stands_for = _tied(found)
    for name, op in ops.items():
        ref = refs.get(name) or candidate.stored.get(stands_for.get(name, ""))
        if ref is not None:
            _add(result, name, op, ref)
        elif op.terms or name not in expected.unused:
            result.missing.append(name)
    tied = _tied(expected)
    for name, ref in refs.items():
        if name not in ops:
            if tied.get(name) in ops:
                _add(result, name, ops[tied[name]], ref)
            else:
                result.extra.append(name)
    # a head that is tied in the reference, and in the candidate neither tied nor there: a loader fills it with chance
    result.missing.extend(name for name in tied if name not in refs and name not in stands_for)
    return result


def _add(result: Pairing, name: str, op: Op, ref: TensorRef) -> None:
    if ref.shape == op.shape:
        result.pairs.append(Pair(name, op, ref))
    else:
        result.missing.append(f"{name} (its shape is {list(ref.shape)}, not {list(op.shape)})")


def _tied(names: Names) -> dict[str, str]:
    """Tensor name of each parameter that is not on disk: name of the tensor that stands for it."""
    found = {}
    for alias, source in names.tied.items():
        site, own = names.parameter(source)
        tensors = {placement.tensor for placement in site.placements.get(own, ())}
        if len(tensors) == 1:
            found[names.new_on_disk_name(alias)] = tensors.pop()
    return found


def _by_expected_name(
    ops: Mapping[str, Op], expected: Names, candidate: Checkpoint, found: Names
) -> dict[str, TensorRef]:
    """The candidate's tensors under the plan's names; those that no parameter connects keep their own."""
    refs = dict(candidate.stored)
    if ops.keys() <= refs.keys() or refs.keys() <= ops.keys():
        return refs
    ours, theirs = dict(_whole_parameters(expected)), dict(_whole_parameters(found))
    renamed = {theirs[parameter]: ours[parameter] for parameter in ours.keys() & theirs.keys()}
    return {renamed.get(name, name): ref for name, ref in refs.items()}


def _whole_parameters(names: Names) -> Iterator[tuple[str, str]]:
    """(parameter, tensor) of every parameter that is one tensor on disk, and that one alone."""
    for path in names.modules:
        try:
            site = names.site(path)
        except IngotError:  # this module has no blocks on disk; its tensors keep the names that they have
            continue
        for own, placements in site.placements.items():
            tensors = {placement.tensor for placement in placements}
            if len(tensors) == 1 and all(placement.view[0] == 1 for placement in placements):
                yield f"{path}.{own}", tensors.pop()
