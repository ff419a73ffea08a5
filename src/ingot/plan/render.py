"""A plan as the bill that a person wants before a long job, and as JSON. Made from the plan alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from ingot.plan.configs import REMOVED
from ingot.plan.figures import (
    counted,
    labelled,
    listed,
    nbytes_text,
    scaled_text,
    seconds_text,
    shape_text,
    table,
)
from ingot.plan.groups import Group, groups, tally
from ingot.plan.interference import interference_lines
from ingot.plan.model import AdapterInfo, BaseInfo, OpKind, Options, Plan
from ingot.plan.public import claim_matches

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Version of `as_json`'s schema; fields may be added without a new one.
SCHEMA = 1
_MOST_DROPPED = 8


# -- for people -----------------------------------------------------------------------------------------------------


_TITLES = {OpKind.NEW: "New", OpKind.REPLACE: "Replaced", OpKind.CHANGE: "Changed", OpKind.COPY: "Copied"}


def as_lines(plan: Plan, width: int = 80) -> list[str]:
    """The whole bill. Every line is at most `width` wide (40 at least), except where one name is longer."""
    sections = [
        _base_lines(plan, width),
        *(_adapter_lines(plan, number, width) for number in range(len(plan.adapters))),
        labelled("Options", _option_texts(plan.options), width),
        _change_lines(plan, width),
        interference_lines(plan.interference, width) if plan.interference else [],
        _tensor_lines(plan, width),
        _file_lines(plan, width),
        _cost_lines(plan, width),
        labelled("Notes", plan.notes, width),
        labelled("Warnings", plan.warnings, width),
        ["Digest     " + plan.digest],
    ]
    return [line for section in sections if section for line in (*section, "")][:-1]


def summary_lines(plan: Plan, width: int = 80) -> list[str]:
    """The bill in a few lines, for the head of a merge."""
    counts = tally(plan)
    tensors = ", ".join(f"{number:,} {kind}" for kind, (number, _) in counts.items() if number)
    lines = labelled("Base", [_base_title(plan.base)], width)
    for number, adapter in enumerate(plan.adapters):
        lines += labelled(_adapter_label(plan, number), [_adapter_title(adapter)], width)
    lines += labelled("Tensors", [tensors], width)
    lines += [line for line in _cost_lines(plan, width) if line]
    return lines + labelled("Warnings", plan.warnings, width)


def _base_lines(plan: Plan, width: int) -> list[str]:
    base = plan.base
    dtypes = Counter[str]()
    for op in plan.ops:
        if op.source is not None:
            dtypes[op.source.dtype] += op.source.numel
    parts = [counted(len(base.files), "shard"), nbytes_text(sum(file.nbytes for file in base.files))]
    parts += [listed([dtype for dtype, _ in dtypes.most_common()])] if dtypes else []
    return labelled("Base", [_base_title(base), ", ".join(parts)], width)


def _base_title(base: BaseInfo) -> str:
    title = f"{base.name} ({base.model_class})" if base.model_class else base.name
    return title + _origin(base.revision, base.commit)


def _origin(revision: str | None, commit: str | None) -> str:
    asked = f", revision {revision}" if revision else ""
    return asked + (f", commit {commit[:12]}" if commit else "")


def _adapter_label(plan: Plan, number: int) -> str:
    return "Adapter" if len(plan.adapters) == 1 else f"Adapter {number + 1}"


def _adapter_title(adapter: AdapterInfo) -> str:
    parts = [adapter.method]
    parts += [f"rank {_values(adapter.ranks)}"] if adapter.ranks else []
    parts += [f"alpha {_values(adapter.alphas)}"] if adapter.alphas else []
    return f"{adapter.name}: {', '.join(parts)}, weight {adapter.weight:g}"


def _values(values: Iterable[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _adapter_lines(plan: Plan, number: int, width: int) -> list[str]:
    adapter = plan.adapters[number]
    size = [counted(adapter.tensors, "tensor"), nbytes_text(sum(file.nbytes for file in adapter.files))]
    trained = [f"PEFT {adapter.peft_version}"] if adapter.peft_version else []
    texts = [
        _adapter_title(adapter) + _origin(adapter.revision, adapter.commit),
        ", ".join(size + trained),
        _claim_text(plan.base, adapter),
    ]
    return labelled(_adapter_label(plan, number), texts, width)


def _claim_text(base: BaseInfo, adapter: AdapterInfo) -> str:
    if not adapter.claimed_base:
        return "names no base of its own; its names and shapes fit this one"
    claim = f"names {adapter.claimed_base}" + (f" at {adapter.claimed_revision}" if adapter.claimed_revision else "")
    verdict = {True: ": the same name", False: ": another one, though names and shapes fit", None: ""}
    return f"{claim} as its base{verdict[claim_matches(base, adapter)]}"


def _option_texts(options: Options) -> list[str]:
    """What was asked for beyond the defaults."""
    default = asdict(Options())
    asked = {key: value for key, value in asdict(options).items() if value != default[key]}
    return [f"{key.strip('_').replace('_', ' ')}: {_option_text(value)}" for key, value in asked.items()]


def _option_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def _change_lines(plan: Plan, width: int) -> list[str]:
    by_formula: dict[str, list[Group]] = {}
    for group in groups(plan):
        by_formula.setdefault(_formula_title(group), []).append(group)
    lines: list[str] = []
    for title, members in by_formula.items():
        rows = [("tensor", "", "shape", "rank", "scale", "bytes")] + [_group_row(group) for group in members]
        lines += [title, *table(rows, width, align="<>>>>>")]
    return lines


def _formula_title(group: Group) -> str:
    if group.kind is OpKind.CAST:
        return f"Cast to {group.dtype}"
    if group.kind is OpKind.DECODE:
        return f"Decoded to {group.dtype}: {group.decoded}"
    terms = [f"{number} × {formula}" if number > 1 else formula for formula, number in Counter(group.formulas).items()]
    decoded = f", W decoded from {group.decoded}" if group.decoded else ""
    return f"{_TITLES[group.kind]}: {', then '.join(terms) or 'as in the base'}{decoded}"


def _group_row(group: Group) -> tuple[str, ...]:
    ranks = [rank for rank in group.ranks if rank is not None]
    scalings = [scaling for scaling in group.scalings if scaling is not None]
    return (
        group.pattern,
        f"×{group.count}" if group.count > 1 else "",
        shape_text(group.shape),
        _values(dict.fromkeys(ranks)) or "-",
        "/".join(f"{scaling:.4g}" for scaling in dict.fromkeys(scalings)) or "-",
        nbytes_text(group.nbytes),
    )


def _tensor_lines(plan: Plan, width: int) -> list[str]:
    rows = [(f"{number:,} {kind}", nbytes_text(size)) for kind, (number, size) in tally(plan).items() if number]
    lines = labelled("Tensors", [f"{count}, {size}" for count, size in rows], width)
    lines += labelled("Dropped", _dropped_texts(plan), width)
    used = sum(1 for ops in plan.claims.values() if ops)
    total = sum(adapter.tensors for adapter in plan.adapters)
    text = f"{used:,} of {total:,} adapter tensors are merged"
    lines += labelled("Accounted", [text + (f", {len(plan.explained)} explained:" if plan.explained else "")], width)
    reasons = Counter(plan.explained.values())
    return lines + labelled("", [f"{number} × {reason}" for reason, number in reasons.items()], width)


def _dropped_texts(plan: Plan) -> list[str]:
    """Each with its reason; those of one reason that are too many together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in plan.dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        text
        for reason, names in by_reason.items()
        for text in (
            [f"{name}: {reason}" for name in names]
            if len(names) <= _MOST_DROPPED
            else [f"{len(names):,} tensors such as {names[0]}: {reason}"]
        )
    ]


def _file_lines(plan: Plan, width: int) -> list[str]:
    changes = [
        f"{key} is taken out" if value is REMOVED else f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in plan.config_changes.items()
    ]
    texts = []
    for origin in dict.fromkeys(file.origin for file in plan.side_files):
        names = [file.name for file in plan.side_files if file.origin == origin]
        owner = "the base" if origin == "base" else plan.adapters[int(origin)].name
        texts.append(f"{listed(names, 12)} from {owner}")
    return labelled("Config", changes, width) + labelled("Files", texts, width)


def _cost_lines(plan: Plan, width: int) -> list[str]:
    cost = plan.budget
    if cost is None:
        return []
    disk = f"reads {nbytes_text(cost.read_nbytes)}, writes {nbytes_text(cost.write_nbytes)}"
    if cost.free_nbytes is not None:
        enough = "" if cost.free_nbytes >= cost.write_nbytes else ", too little"
        disk += f" ({nbytes_text(cost.free_nbytes)} free{enough})"
    run = (
        f"at most {nbytes_text(cost.peak_memory_nbytes)} of memory, {scaled_text(cost.flops, 'FLOP')}, "
        f"about {seconds_text(cost.seconds)} at {nbytes_text(cost.nbytes_per_second)}/s"
    )
    return labelled("Cost", [disk, run], width)


# -- for programs ---------------------------------------------------------------------------------------------------


def as_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON types.

    schema: 1                              more fields may come without a new number
    digest: hex sha256
    base: {name, revision, commit, model_class, config_sha256, files: [{name, nbytes, header_sha256}]}
    adapters: [{name, revision, commit, weight, method, ranks, alphas, peft_version, claimed_base,
                claimed_revision, claim_matches: bool | null, config_sha256, files, tensors}]
    options: {dtype, rounding, assume_peft_version, accept_nonfinite_base, accept_missing, seed, method, density,
              lambda_, majority_sign, gamma, epsilon, take: [adapter numbers, counted from 1], component, expert_layout,
              base_as}
    tensors: {changed | cast | decoded | new | copied: {count, nbytes}}
    groups: [{pattern, count, kind, dtype, shape, nbytes, formulas, adapters, ranks, scalings, decoded: format | null}]
    shards: [{file, nbytes, tensors, untouched}]
    dropped, explained: {name: reason}
    claims: {"adapter number:tensor": [output tensors]}
    config_changes: {dotted key: value, null where the key is taken out}
    side_files: [{name, origin: "base" | adapter number as text, changed: bool}]
    budget: {read_nbytes, write_nbytes, free_nbytes, peak_memory_nbytes, flops, nbytes_per_second, seconds} | null
    interference: {groups: [{pattern, count, looked, exact, sizes: {adapter number: ‖w·Δ‖/‖W‖},
                   pairs: [{adapters, cosine, conflicts, shared, by_chance}]}], alone, advice: [sentence]} | null
    notes, warnings: [sentence]
    """
    return {
        "schema": SCHEMA,
        "digest": plan.digest,
        "base": _fields(plan.base),
        "adapters": [{**_fields(a), "claim_matches": claim_matches(plan.base, a)} for a in plan.adapters],
        "options": _fields(plan.options),
        "tensors": {kind: {"count": number, "nbytes": size} for kind, (number, size) in tally(plan).items()},
        "groups": [_fields(group) for group in groups(plan)],
        "shards": [
            {"file": s.file, "nbytes": s.nbytes, "tensors": len(s.ops), "untouched": s.untouched} for s in plan.shards
        ],
        "dropped": dict(plan.dropped),
        "explained": dict(plan.explained),
        "claims": {key: list(ops) for key, ops in plan.claims.items()},
        "config_changes": dict(plan.config_changes),
        "side_files": [
            {"name": file.name, "origin": file.origin, "changed": file.content is not None} for file in plan.side_files
        ],
        "budget": None if plan.budget is None else _fields(plan.budget),
        "interference": None if plan.interference is None else _fields(plan.interference),
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def _fields(value: DataclassInstance) -> dict[str, object]:
    """A flat dataclass as JSON types, without the type's name that `plan.model.plain` adds for the digest."""
    shown: dict[str, object] = json.loads(json.dumps(asdict(value)))
    return shown
