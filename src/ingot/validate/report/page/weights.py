"""How much of the adapter is in the weights: survival by layer, and every module that was named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingot.plan.figures import counted, listed
from ingot.validate.report.page.axes import SHAPES, Axis, legend, levels, line, mark, percent, plot, text
from ingot.validate.report.page.markup import Child, Html, join, module_of, prose, table, tag
from ingot.validate.report.words import limit_of, number_text, percent_text, share_text
from ingot.validate.result import Candidate, Evaluation, ModuleFidelity, Weights

_MOST_LABELLED = 6
_MOST_NAMED = 20
_MOST_TENSORS = 20
#: Survival beyond these is drawn at the edge; the table has the number.
_LOWEST, _HIGHEST = -0.5, 2.5
#: Between a mark and the edge.
_ROOM = 0.1


def weights(evaluation: Evaluation, names: list[str]) -> Html | None:
    """A plot for each candidate whose weights were read, then the tables of what was named."""
    found = [
        (name, candidate, candidate.weights)
        for name, candidate in zip(names, evaluation.candidates, strict=True)
        if candidate.weights is not None
    ]
    if not found:
        return None
    lead = (
        "Survival is the share of the adapter's update that the rounded or quantized weights still hold: 100 % is all "
        "of it, 0 % is the base alone, 200 % is a double merge."
    )
    parts = [_candidate(name, candidate, fidelity) for name, candidate, fidelity in found]
    return join((tag("h2", "Weights", id="weights"), tag("p", lead, class_="lead"), *parts))


def _candidate(name: str, candidate: Candidate, fidelity: Weights) -> Html:
    summary = (
        f"{counted(len(fidelity.modules), 'tensor')} changed, stored as {fidelity.dtype}; "
        f"{share_text(fidelity.equal)} of their elements equal float64 rounded once, the farthest is "
        f"{fidelity.worst_ulp:,} ulp away"
        + (f"; {share_text(fidelity.survival)} of the update survived." if fidelity.survival is not None else ".")
    )
    return tag(
        "article",
        tag("h3", name),
        tag("p", prose(summary)),
        survival_plot(name, fidelity, limit_of(candidate, "--min-survival")),
        _named(name, fidelity),
        *_others(fidelity),
    )


@dataclass(frozen=True)
class _Mark:
    """A module on the plot: `slot` of a layer, `kind` of its name."""

    module: ModuleFidelity
    survival: float
    slot: int
    kind: int


def survival_plot(name: str, fidelity: Weights, limit: float | None) -> Html | None:
    """x: layer, y: survival; a mark for each kind of module, the worst where a layer has many of a kind (experts)."""
    marks, kinds, slots = _marks(fidelity)
    if not marks:
        return None
    survivals = [one.survival for one in marks]
    low, high = max(_LOWEST, min(survivals)), min(_HIGHEST, max(survivals))
    axis = Axis(min(0.0, low - _ROOM), max(1.1, high + _ROOM))
    pieces = [*levels(axis, ((value, f"{100 * value:.0f} %") for value in axis.ticks(5)))]
    pieces += _slot_labels(slots)
    pieces.append(line("0", axis.up(1), "100%", axis.up(1), "whole"))
    if limit is not None:
        pieces.append(line("0", axis.up(limit), "100%", axis.up(limit), "limit"))
    places = {id(one): _place(one, len(kinds), len(slots)) for one in marks}
    for one in marks:
        told = f"{one.module.module}: {share_text(one.survival)}"
        pieces.append(mark(one.kind, percent(places[id(one)]), axis.up(one.survival), told))
    worst = sorted((one for one in marks if one.module.said), key=lambda one: -abs(one.survival - 1))[:_MOST_LABELLED]
    pieces += _labels([(places[id(one)], one) for one in worst], axis)
    spoken = (
        f"{name}: survival of the adapter in {counted(len(marks), 'module')} by layer, "
        f"from {share_text(min(survivals))} to {share_text(max(survivals))}"
    )
    caption = tag("figcaption", "Survival of the adapter by layer")
    size = "survival" if max(abs(survival - 1) for survival in survivals) > _ROOM else "survival quiet"
    keys = legend(kinds, limit=f"limit {percent_text(limit)}" if limit is not None else None)
    return tag("figure", caption, keys, plot(spoken, *pieces, classes=size), tag("p", "layer", class_="axis"))


def _marks(fidelity: Weights) -> tuple[list[_Mark], list[str], list[str]]:
    """The marks, the kinds of modules in the order of the model, and the slots along x."""
    known = [one for one in fidelity.modules if one.survival is not None and math.isfinite(one.survival)]
    kinds = list(dict.fromkeys(_kind(one) for one in known))
    if len(kinds) > len(SHAPES):
        kinds = [*kinds[: len(SHAPES) - 1], "others"]
    layers = [one.layer for one in known if one.layer is not None]
    first, last = min(layers, default=0), max(layers, default=-1)
    slots = [str(layer) for layer in range(first, last + 1)]
    if len(layers) < len(known):
        slots.append("no layer")
    worst: dict[tuple[int, int], _Mark] = {}
    for one in known:
        survival = one.survival if one.survival is not None else 1.0
        slot = one.layer - first if one.layer is not None else len(slots) - 1
        kind = kinds.index(_kind(one)) if _kind(one) in kinds else len(kinds) - 1
        before = worst.get((slot, kind))
        if before is None or abs(survival - 1) > abs(before.survival - 1):
            worst[slot, kind] = _Mark(one, survival, slot, kind)
    return list(worst.values()), kinds, slots


def _kind(module: ModuleFidelity) -> str:
    return module.module.rpartition(".")[2]


def _place(one: _Mark, kinds: int, slots: int) -> float:
    """Within its slot every kind has its own place, so that marks of one layer stand side by side."""
    return (one.slot + 0.14 + 0.72 * (one.kind + 0.5) / kinds) / slots


def _slot_labels(slots: Sequence[str]) -> Iterator[Html]:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 10**6) if len(slots) <= 14 * step)
    for number, label in enumerate(slots):
        if label.isdecimal() and int(label) % step == 0:
            classes = "middle" if int(label) % (2 * step) == 0 else "middle roomy"
            yield text(percent((number + 0.5) / len(slots)), "100%", label, dy=18, classes=classes)
        elif not label.isdecimal():
            yield text("100%", "100%", label, dy=34, classes="end")


def _labels(worst: Sequence[tuple[float, _Mark]], axis: Axis) -> Iterator[Html]:
    """Names beside the marks, each at the side where there is room, and not two at one height."""
    taken: list[float] = []
    for place, one in worst:
        left, height = place > 0.5, axis.share(one.survival)
        if any(abs(height - other) < 0.09 for other in taken):
            continue
        taken.append(height)
        name = f"{one.module.layer} {_kind(one.module)}" if one.module.layer is not None else _kind(one.module)
        at = axis.up(one.survival)
        side = ("end named" if left else "named") + (" roomy" if len(taken) > 2 else "")
        yield text(percent(place), at, f"{name} {share_text(one.survival)}", dx=-8 if left else 8, dy=4, classes=side)


_HEAD = ("Module", "Survival", "Equal", "Worst ulp", "Update / half ulp", "Error in its subspace", "What is wrong")


def _named(name: str, fidelity: Weights) -> Html | None:
    named = [one for one in fidelity.modules if one.said]
    if not named:
        return None
    named.sort(key=lambda one: -abs((one.survival if one.survival is not None else 1.0) - 1))
    caption = f"{counted(len(named), 'module')} of {name} named, the farthest from 100 % first"
    if len(named) > _MOST_NAMED:
        caption += f"; {_MOST_NAMED} are shown"
    rows = [_named_row(one) for one in named[:_MOST_NAMED]]
    return table(caption, _HEAD, rows, classes="named-modules", numbers=frozenset({1, 2, 3, 4, 5}))


def _named_row(one: ModuleFidelity) -> tuple[Child, ...]:
    return (
        module_of(one.module),
        share_text(one.survival) or "–",
        share_text(one.equal),
        f"{one.worst_ulp:,}",
        number_text(one.delta_ulps),
        share_text(one.subspace_error) or "–",
        tag("span", prose(one.said), class_="sentence"),
    )


def _others(fidelity: Weights) -> Iterator[Html]:
    """Tensors that no adapter changes: those that differ, lack, or are too many."""
    for what, tensors in (
        ("Changed though no adapter changes them", fidelity.untouched_differ),
        ("Missing", fidelity.missing),
        ("In the candidate and not in the base", fidelity.extra),
    ):
        if tensors:
            head = tag("strong", f"{what}, {counted(len(tensors), 'tensor')}: ")
            yield tag("p", head, module_of(listed(tensors, _MOST_TENSORS)), class_="wrong")
