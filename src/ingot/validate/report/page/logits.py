"""How far the predictions are apart: KL divergence sample by sample, and where along the depth the two part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ingot.plan.figures import counted
from ingot.validate.report.page.axes import Axis, decades, legend, levels, line, mark, percent, plot, scale, text
from ingot.validate.report.page.markup import Html, join, prose, tag
from ingot.validate.report.words import number_text, power_text, sample_text, share_text
from ingot.validate.result import Candidate, Evaluation, LayerDistance, Logits

#: Bars of a histogram within a factor of ten.
_BINS = 4


def logits(evaluation: Evaluation, names: list[str]) -> Html | None:
    """A histogram for each candidate, all on one axis."""
    found = [
        (name, one.logits) for name, one in zip(names, evaluation.candidates, strict=True) if one.logits is not None
    ]
    if not found:
        return None
    axis = decades([kl for _, one in found for kl in one.sample_kl])
    lead = (
        "KL divergence, in nats, says how much the candidate's next-token distribution differs from the reference's; "
        "0 is the same distribution. The axis is logarithmic and the same for all candidates."
    )
    figures = [_histogram(evaluation, name, one, axis) for name, one in found]
    return join((
        tag("h2", "Predictions", id="logits"), tag("p", lead, class_="lead"), tag("div", *figures, class_="multiples")
    ))  # fmt: skip


def _histogram(evaluation: Evaluation, name: str, found: Logits, axis: Axis) -> Html:
    below, counts = bins(found.sample_kl, axis)
    most = Axis(0, max(1, below, *counts) * 1.08)
    pieces = levels(most, ((value, f"{value:,.0f}") for value in most.ticks(4) if value == round(value)))
    pieces += [*_bars(counts, axis, most), *scale(axis)]
    if below:
        pieces.append(_bar(0, 1 / len(counts), below, most, f"{counted(below, 'sample')} below the axis", "below"))
    mean = axis.across(found.mean_kl)
    pieces.append(line(mean, "0", mean, "100%", "mean"))
    side = "end" if axis.share(found.mean_kl) > 0.5 else ""
    pieces.append(text(mean, "0", "mean", dx=-6 if side else 6, dy=12, classes=f"{side} mean-text".strip()))
    worst = max(range(len(found.sample_kl)), key=lambda place: _ranked(found.sample_kl[place]), default=None)
    told = [f"Mean {number_text(found.mean_kl)} over {found.tokens:,} tokens, top‑1 {share_text(found.top1)}."]
    if worst is not None:
        _, bars = bins(found.sample_kl[worst : worst + 1], axis)
        top = most.up(sum(count for count, here in zip(counts, bars, strict=True) if here))
        name_of_worst = sample_text(evaluation, found.samples[worst] if found.samples else worst)
        pieces.append(mark(4, axis.across(found.sample_kl[worst]), top, name_of_worst, "worst"))
        told.append(f"Worst sample ▼: {name_of_worst}, {number_text(found.sample_kl[worst])}.")
    told.append(
        f"Worst position: {number_text(found.worst_kl)}, in {sample_text(evaluation, found.worst_kl_sample)}. "
        f"Largest |Δlogit|: {number_text(found.largest_difference)}, in "
        f"{sample_text(evaluation, found.largest_difference_sample)}."
    )
    lost = sum(not math.isfinite(kl) for kl in found.sample_kl)
    if lost:
        told.append(f"{counted(lost, 'sample')} without a finite KL divergence.")
    spoken = f"{name}: samples by their mean KL divergence. {' '.join(told)}"
    return tag(
        "figure",
        tag("figcaption", name, tag("small", "samples by mean KL divergence")),
        plot(spoken, *pieces, classes="histogram"),
        tag("p", "nats", class_="axis"),
        tag("p", prose(" ".join(told)), class_="told"),
    )


def _ranked(value: float) -> float:
    return math.inf if math.isnan(value) else value


def bins(values: Sequence[float], axis: Axis) -> tuple[int, list[int]]:
    """How many lie below the axis (0 among them), and how many in each bar; what is not finite is in none."""
    counts = [0] * (_BINS * round(math.log10(axis.high / axis.low)))
    below = 0
    for value in values:
        if not math.isfinite(value):
            continue
        if value < axis.low:
            below += 1
        else:
            counts[min(len(counts) - 1, int(axis.share(value) * len(counts) + 1e-9))] += 1
    return below, counts


def _bars(counts: Sequence[int], axis: Axis, most: Axis) -> Iterator[Html]:
    for number, count in enumerate(counts):
        if count:
            low, high = (axis.low * 10 ** ((number + end) / _BINS) for end in (0, 1))
            told = f"{counted(count, 'sample')} from {number_text(low)} to {number_text(high)}"
            yield _bar(number / len(counts), 1 / len(counts), count, most, told, "bar")


def _bar(left: float, width: float, count: int, most: Axis, told: str, classes: str) -> Html:
    height = most.share(count)
    return tag(
        "rect", tag("title", told), x=percent(left), y=percent(1 - height), width=percent(width),
        height=percent(height), class_=classes,
    )  # fmt: skip


def depth(evaluation: Evaluation, names: list[str]) -> Html | None:
    """Distance of the hidden states after each layer, all candidates in one plot."""
    found = [(name, one) for name, one in zip(names, evaluation.candidates, strict=True) if one.depth]
    if not found:
        return None
    layers = sorted({step.layer for _, one in found for step in one.depth})
    across = Axis(layers[0], max(layers[-1], layers[0] + 1))
    axis = decades([step.distance for _, one in found for step in one.depth])
    pieces = levels(axis, ((value, power_text(value)) for value in axis.ticks(5)))
    ticks = [value for value in across.ticks(8) if value >= max(0, 2 * (layers[0] < 0)) and value == round(value)]
    pieces += scale(across, [(value, f"{value:.0f}") for value in ticks])
    if layers[0] < 0:
        pieces += scale(across, [(layers[0], "emb")])
    for number, (name, one) in enumerate(found):
        pieces += _path(number, name, one.depth, across, axis)
    lead = (
        "Distance |h′ − h| / |h| of the hidden states after each decoder layer, on the same tokens. "
        "A distance of zero is not drawn."
    )
    told = tag("ul", *(tag("li", tag("b", name), " ", _parting(one)) for name, one in found), class_="told")
    figure = tag(
        "figure",
        tag("figcaption", "Distance of the hidden states along the depth"),
        legend([name for name, _ in found]),
        plot("Distance of the hidden states by layer: " + names_of(found), *pieces, classes="depth"),
        tag("p", "layer", class_="axis"),
    )
    return join((tag("h2", "Along the depth", id="depth"), tag("p", lead, class_="lead"), figure, told))


def names_of(found: Sequence[tuple[str, Candidate]]) -> str:
    return "; ".join(f"{name}: {_parting(one)}" for name, one in found)


def _path(number: int, name: str, steps: Sequence[LayerDistance], across: Axis, axis: Axis) -> Iterator[Html]:
    known = [step for step in steps if step.distance > 0 and math.isfinite(step.distance)]  # a zero has no logarithm
    points = " ".join(f"{100 * across.share(s.layer):.2f},{100 * (1 - axis.share(s.distance)):.2f}" for s in known)
    # Stretched to the plot; page.css keeps the stroke as it is.
    yield tag(
        "svg", tag("polyline", points=points, class_=f"path series-{number % 8}"),
        viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%",
    )  # fmt: skip
    for step in known:
        where = "the embedding" if step.layer < 0 else f"layer {step.layer}"
        told = f"{name}, after {where}: {number_text(step.distance)}"
        yield mark(number, across.across(step.layer), axis.up(step.distance), told)


def _parting(one: Candidate) -> str:
    """Where the distance grows most, from one layer to the next."""
    steps = one.depth
    last = f"{number_text(steps[-1].distance)} after the last layer"
    if all(step.distance == 0 for step in steps):
        return "the same hidden states after every layer."
    start = next(number for number, step in enumerate(steps) if step.distance != 0)
    first = "the embedding" if steps[start].layer < 0 else f"layer {steps[start].layer}"
    growth = [
        (after.distance / before.distance, after.layer)
        for before, after in zip(steps[start:], steps[start + 1 :], strict=False)
        if before.distance > 0 and math.isfinite(after.distance / before.distance)
    ]
    said = f"differs from {first} on, {last}"
    if not growth or max(growth)[0] < 2:
        return f"{said}; it grows evenly."
    factor, layer = max(growth)
    return f"{said}; the largest step is layer {layer}, by a factor of {number_text(factor)}."
