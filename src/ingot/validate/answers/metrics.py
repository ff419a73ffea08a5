"""How an answer is scored: 0 or 1, or a fraction where the user's own function gives one.

contains    the expected text stands in the answer (the default)
exact       the answer is the expected text, spaces around both aside
regex       the expected pattern is found in the answer
numeric     the last number in the answer is the expected one
json        the first JSON value in the answer equals the expected one
choice      multiple choice: the right text has the largest log-likelihood of all choices
choice_norm the same, each log-likelihood divided by the number of the choice's characters (lm-eval's acc_norm)
FILE.py:FUNCTION, MODULE:FUNCTION       the user's own, see `user_metric`

Answers come stripped. Of an answer, regex and json see the first 20,000 characters, and a pattern has two seconds:
backtracking can take for ever on a short text, so that a bound on the length alone would not do.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ingot.errors import IngotError, UsageError
from ingot.formats import strict_json
from ingot.validate.answers.samples import Sample, SampleFile

DEFAULT = "contains"
SEEN_NCHARACTERS = 20_000
PATTERN_SECONDS = 2.0
#: Two numbers are one when they differ by at most this, relatively or absolutely.
RELATIVE, ABSOLUTE = 1e-6, 1e-9
#: From a score of this on, an answer counts as right.
RIGHT = 0.5

_JSON_ATTEMPTS = 1_000
_NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)"  # no word and no number goes on here
    r"(?P<sign>[-+−]?)"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\.)\.\d+)"
    r"(?P<exponent>[eE][-+]?\d+)?"
)
_JSON_BEGIN = re.compile(r'[\[{"]|(?<![\w.])(?:-?\d|true\b|false\b|null\b)')


@dataclass(frozen=True)
class Metric:
    """A way to score.

    Attributes:
        name: as the user wrote it.
        score: of an answer to a sample, in [0, 1]. Raises UsageError where the sample or the user's code is at fault.
        fault: why a sample cannot be scored by it, None where it can.
        by_likelihood: the model is asked for the likelihood of each choice and not for an answer.
    """

    name: str
    score: Callable[[str, Sample], float]
    fault: Callable[[Sample], str | None]
    by_likelihood: bool = False


def metric_for(file: SampleFile) -> Metric:
    """The metric of a task file, every sample of which it can score.

    Raises:
        UsageError: there is no such metric, or a line that it cannot score; the line is named.
    """
    metric = named(file.metric)
    for sample in file.samples:
        fault = metric.fault(sample)
        if fault is not None:
            raise UsageError(f"{metric.name}: {fault}", where=f"{file.path}:{sample.line}", hint=_METRICS_HINT)
    return metric


def named(name: str) -> Metric:
    """One of the metrics above, or the user's own. Raises UsageError with near matches."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" in name:
        from ingot.validate.answers import user_metric

        return Metric(name, user_metric.load(name), _expected_anything)
    near = difflib.get_close_matches(name.casefold(), _BUILT_IN, n=3)
    hint = f"Did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else _METRICS_HINT
    raise UsageError(f"no such metric: {name}", hint=hint)


def contains(answer: str, expected: str) -> bool:
    return expected in answer


def exact(answer: str, expected: str) -> bool:
    return answer.strip() == expected.strip()


def regex(answer: str, pattern: str) -> bool:
    """`pattern` as Python's re has it, searched anywhere. Raises TimeoutError after `PATTERN_SECONDS`."""
    import regex as engine  # it can be stopped, which re cannot; transformers needs it, so it is always there

    return engine.search(pattern, answer[:SEEN_NCHARACTERS], timeout=PATTERN_SECONDS) is not None


def numeric(answer: str, expected: float) -> bool:
    """The last number: sign, thousands by comma, decimals by point, exponent. Within 1e-6 of it, or 1e-9."""
    found = numbers(answer)
    return bool(found) and math.isclose(found[-1], expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def numbers(text: str) -> list[float]:
    """All numbers of a text in order. Example: numbers("from 1,200.5 to -3e2") -> [1200.5, -300.0]"""
    parts = (match.group("sign", "digits", "exponent") for match in _NUMBER.finditer(text))
    return [
        float(f"{sign.replace('−', '-')}{digits.replace(',', '')}{exponent or ''}") for sign, digits, exponent in parts
    ]


def json_equal(answer: str, expected: object) -> bool:
    """The first object or array in the answer where one is expected, else the first JSON value of any kind."""
    text = answer[:SEEN_NCHARACTERS]
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for attempt, match in enumerate(_JSON_BEGIN.finditer(text)):
        if attempt == _JSON_ATTEMPTS:
            break
        if isinstance(expected, dict | list) and match.group() not in ("{", "["):
            continue
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        return same_json(value, expected)
    return False


def same_json(one: object, other: object) -> bool:
    """Equal as JSON: the order of keys is none, 1 is 1.0, true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _refuse(name: str) -> object:
    raise ValueError(name)


def _expected_anything(_: Sample) -> None:
    return None


def _expected_string(sample: Sample) -> str | None:
    return None if isinstance(sample.expected, str) else '"expected" must be a string'


def _expected_text(sample: Sample) -> str | None:
    empty = sample.expected == "" and '"expected" is empty, and every answer contains that'
    return _expected_string(sample) or empty or None


def _expected_pattern(sample: Sample) -> str | None:
    import regex as engine

    if not isinstance(sample.expected, str):
        return '"expected" must be a pattern'
    try:
        engine.compile(sample.expected)
    except (engine.error, RecursionError, OverflowError) as fault:
        return f'"expected" is not a pattern ({fault})'
    return None


def _expected_number(sample: Sample) -> str | None:
    return None if _number(sample) is not None else '"expected" must be one finite number'


def _expected_json(sample: Sample) -> str | None:
    try:
        _json(sample)
    except IngotError as fault:
        return f'"expected" is a string, so it must hold JSON ({fault.message})'
    return None


def _expected_choice(sample: Sample) -> str | None:
    return None if sample.choices else 'the line has no "choices"'


def _number(sample: Sample) -> float | None:
    value = sample.expected
    if isinstance(value, str):
        whole = _NUMBER.fullmatch(value.strip())
        value = numbers(value)[0] if whole else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    return float(value)


def _json(sample: Sample) -> object:
    """A string holds JSON; any other value is meant as it is."""
    if not isinstance(sample.expected, str):
        return sample.expected
    return strict_json.loads(sample.expected.encode("utf-8"), where='"expected"', error=UsageError)


def _score_regex(answer: str, sample: Sample) -> float:
    try:
        return float(regex(answer, sample.expected_text))
    except TimeoutError:
        raise UsageError(
            f"a pattern was not done with an answer within {PATTERN_SECONDS:g} seconds", where=f"line {sample.line}",
            found=sample.expected_text[:200], hint="Write it without a repetition inside a repetition.",
        ) from None  # fmt: skip


def _score_numeric(answer: str, sample: Sample) -> float:
    number = _number(sample)
    return float(number is not None and numeric(answer, number))


_BUILT_IN = {
    metric.name: metric
    for metric in (
        Metric("contains", lambda answer, sample: float(contains(answer, sample.expected_text)), _expected_text),
        Metric("exact", lambda answer, sample: float(exact(answer, sample.expected_text)), _expected_string),
        Metric("regex", _score_regex, _expected_pattern),
        Metric("numeric", _score_numeric, _expected_number),
        Metric("json", lambda answer, sample: float(json_equal(answer, _json(sample))), _expected_json),
        Metric("choice", lambda answer, sample: float(answer == sample.expected), _expected_choice, True),
        Metric("choice_norm", lambda answer, sample: float(answer == sample.expected), _expected_choice, True),
    )
}
_METRICS_HINT = f"Metrics: {', '.join(_BUILT_IN)}, or your own as FILE.py:FUNCTION."
