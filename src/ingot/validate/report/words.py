"""The verdict in a sentence, and figures as text: what the terminal and the page say alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.plan.figures import counted, elide, listed
from ingot.plan.public import public_name
from ingot.validate.result import Candidate, Evaluation

_GATES = {
    "tokens": "same tokens",
    "--max-score-drop": "score",
    "--max-kl": "KL divergence",
    "--min-top1": "top-1 agreement",
    "--min-survival": "survival of the adapter",
}
_LABEL_WIDTH = 32
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: A number with its unit; the last one of a limit is the limit, a task's name may hold another.
_NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(%|points?)?")


@dataclass(frozen=True)
class Verdict:
    """`word` is "passed", "failed" or "not judged"; `sentence` says why."""

    word: str
    sentence: str


def verdict(evaluation: Evaluation) -> Verdict:
    """The evaluation in one sentence. Without a gate nothing is judged."""
    names = labels(evaluation.candidates)
    limits = sum(len(candidate.gates) for candidate in evaluation.candidates)
    if not limits:
        return Verdict("not judged", "No limit was set, so nothing is judged: the figures are below.")
    held = "held against the reference" + _on_samples(evaluation)
    failed = [
        f"{name} ({listed(failed_checks(candidate))})"
        for name, candidate in zip(names, evaluation.candidates, strict=True)
        if not candidate.ok
    ]
    if failed:
        if len(names) == 1:
            outside = _sentence_list(failed_checks(evaluation.candidates[0]))
            return Verdict("failed", f"{names[0]} is outside its limits when {held}: {outside}.")
        outside = "is outside its limits" if len(failed) == 1 else "are outside their limits"
        return Verdict("failed", f"{len(failed)} of {len(names)} candidates {outside}: {_sentence_list(failed)}.")
    if len(names) == 1:
        return Verdict("passed", f"{names[0]} is within {_all_limits(limits)} when {held}.")
    return Verdict("passed", f"All {len(names)} candidates are within their limits when {held}.")


def _on_samples(evaluation: Evaluation) -> str:
    count = sum(samples.count for samples in evaluation.samples)
    return f" on {counted(count, 'sample')}" if count else ""


def _all_limits(limits: int) -> str:
    return "its one limit" if limits == 1 else f"all {limits} limits"


def _sentence_list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def failed_checks(candidate: Candidate) -> list[str]:
    """What failed, in words, each once."""
    return list(dict.fromkeys(gate_words(gate.name) for gate in candidate.gates if not gate.ok))


def gate_words(name: str) -> str:
    """Example: gate_words("--max-kl") -> "KL divergence" """
    return _GATES.get(name, name)


def limit_of(candidate: Candidate, name: str) -> float | None:
    """The number in a gate's limit as a fraction of 1, None where there is no such gate."""
    for gate in candidate.gates:
        numbers = _NUMBER.findall(gate.limit) if gate.name == name else []
        if numbers:
            number, unit = numbers[-1]
            return float(number) / (100 if unit else 1)
    return None


def labels(candidates: Sequence[Candidate]) -> list[str]:
    """Short names for tables: the last part of a path; the whole name where two would be the same."""
    names = [candidate.subject.name for candidate in candidates]
    short = [name if "+" in name or " " in name else public_name(name) for name in names]
    return [
        elide(name if short.count(last) > 1 else last, _LABEL_WIDTH) for name, last in zip(names, short, strict=True)
    ]


def share_text(share: float | None) -> str:
    """A percentage that reads 100 % only where it is. Example: share_text(0.99997) -> "99.997 %" """
    if share is None or not math.isfinite(share):
        return "" if share is None else "not finite"
    if share == 1:
        return "100 %"
    near = abs(1 - share) < 0.005
    decimals = min(4, -math.floor(math.log10(abs(1 - share) * 100))) if near else 1
    text = f"{100 * share:.{decimals}f}"
    if float(text) != 100:
        return f"{text} %"
    return "> 99.9999 %" if share < 1 else "≈ 100 %"


def percent_text(share: float) -> str:
    """A limit as it was set. Example: percent_text(0.95) -> "95 %" """
    return f"{100 * share:.6g} %"


def number_text(value: float | None) -> str:
    """Three digits, powers of ten where they are shorter. Example: number_text(3.14e-6) -> "3.14×10⁻⁶" """
    if value is None or not math.isfinite(value):
        return "" if value is None else "not finite"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -3 <= exponent < 6:
        return f"{value:,.{max(0, 2 - exponent)}f}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa}×10{_raised(int(power))}"


def power_text(value: float) -> str:
    """A power of ten. Example: power_text(0.1) -> "0.1", power_text(0.0001) -> "10⁻⁴" """
    return f"{value:g}" if 0.01 <= value < 1000 else f"10{_raised(round(math.log10(value)))}"


def _raised(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPTS)


def points_text(difference: float) -> str:
    """A difference of scores in points (hundredths). Example: points_text(-0.0125) -> "−1.2" """
    if not math.isfinite(difference):
        return "not finite"
    return f"{100 * difference:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0").replace("-", "−")


def interval_text(interval: tuple[float, float]) -> str:
    """Example: interval_text((-0.03, 0.01)) -> "−3.0 to +1.0" """
    return " to ".join(points_text(end) for end in interval)


def p_text(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def sample_text(evaluation: Evaluation, number: int) -> str:
    """A sample counted over all files, by its file. Example: "sample 4 of dates" """
    for samples in evaluation.samples:
        if number < samples.count:
            return f"sample {number} of {samples.name}"
        number -= samples.count
    return f"sample {number}"
