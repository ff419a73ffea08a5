"""Each metric on answers as models write them, and on those that try it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.errors import UsageError
from ingot.validate.answers import metrics
from ingot.validate.answers.metrics import metric_for, named
from ingot.validate.answers.samples import Sample, SampleFile


def sample(expected: object, **fields: object) -> Sample:
    return Sample(3, 4, "p", expected, fields={"prompt": "p", "expected": expected, **fields})


def score(name: str, answer: str, expected: object) -> float:
    return named(name).score(answer, sample(expected))


def file_of(metric: str, *expected: object) -> SampleFile:
    rows = tuple(Sample(n, n + 1, "p", value) for n, value in enumerate(expected))
    return SampleFile("f", Path("f.jsonl"), "0", metric, rows)


@pytest.mark.parametrize(
    ("name", "answer", "expected", "right"),
    [
        ("contains", "It is 1994-07-02.", "1994-07-02", 1),
        ("contains", "It is 1994-07-03.", "1994-07-02", 0),
        ("contains", "PARIS", "Paris", 0),
        ("exact", " Paris\n", "Paris", 1),
        ("exact", "Paris.", "Paris", 0),
        ("exact", "", "", 1),
        ("regex", "on 1994-07-02", r"\b\d{4}-\d\d-\d\d$", 1),
        ("regex", "on 1994-07-2", r"\b\d{4}-\d\d-\d\d$", 0),
        ("regex", "YES", r"(?i)yes|no", 1),
    ],
)
def test_texts_and_patterns(name: str, answer: str, expected: str, right: float) -> None:
    assert score(name, answer, expected) == right


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("The answer is 42.", [42]),
        ("42", [42]),
        ("3 + 4 = 7", [3, 4, 7]),
        ("$1,234,567.50 in all", [1234567.5]),
        ("10-4", [10, 4]),
        ("1,2,3 and 12,34", [1, 2, 3, 12, 34]),
        ("version 1.2.3", [1.2]),
        ("10 - 4", [10, 4]),
        ("it fell to -4", [-4]),
        ("it fell to −4.5 °C", [-4.5]),
        ("x = +.5", [0.5]),
        ("6.02e23 and 1E-3, or 2e+4", [6.02e23, 1e-3, 2e4]),
        ("50%", [50]),
        ("so it is...5", [5]),
        ("**72**", [72]),
        (r"\boxed{12}", [12]),
        ("#### 1,000", [1000]),
        ("CO2 and H2O", []),
        ("item_3", []),
        ("none", []),
        ("1, 2, 3", [1, 2, 3]),
        ("5kg", [5]),
        ("1e99999", [float("inf")]),
    ],
)
def test_numbers_of_a_text(answer: str, found: list[float]) -> None:
    assert metrics.numbers(answer) == found


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_every_number_is_found_as_python_writes_it(number: float) -> None:
    for text in (f"{number!r}", f"= {number!r} .", f"is {number:.17g},", f"{number:,.12f}"):
        assert score("numeric", text, float(text.strip("=is ,.").replace(",", ""))) == 1, text


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("so 1,000", 1000, 1),
        ("so 1000.0", "1,000", 1),
        ("3.3333333", "3.33333331", 1),
        ("3.333", "3.3333333", 0),
        ("first 5, then 6", "5", 0),
        ("no number", 0, 0),
        ("1e400", 1, 0),
        ("-7", "7", 0),
    ],
)
def test_the_last_number_decides(answer: str, expected: object, right: float) -> None:
    assert score("numeric", answer, expected) == right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ('{"b": 2, "a": 1}', '{"a": 1, "b": 2}', 1),
        ('Sure!\n```json\n{"a": 1.0}\n```', {"a": 1}, 1),
        ('{"a": true}', {"a": 1}, 0),
        ('{"a": 1, "b": 2}', {"a": 1}, 0),
        ('{broken {"a": 1}', {"a": 1}, 1),
        ('{"a": 1} {"a": 2}', {"a": 2}, 0),
        ("[1, 2]", [2, 1], 0),
        ("it is 5 or 6", 5, 1),
        ("it is true", True, 1),
        ("it is null", None, 1),
        ('she said "x"', '"x"', 1),
        ("{'a': 1}", {"a": 1}, 0),
        ("[NaN]", [0], 0),
        ("1, then [2]", [2], 1),
        ("", {}, 0),
    ],
)
def test_the_first_json_value_decides(answer: str, expected: object, right: float) -> None:
    assert score("json", answer, expected) == right


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(_json_values, _json_values)
def test_json_equality_is_that_of_the_canonical_spelling(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert metrics.same_json(one, other) == same
    assert metrics.same_json(one, json.loads(json.dumps(one)))


def test_hostile_answers_take_no_time() -> None:
    began = time.monotonic()
    for answer in ("[" * 10**6, '{"a":' * 10**5, "[1," * 10**5, "1," * 10**6, "9" * 10**6, ".1" * 10**6, '"' * 10**6):
        assert score("json", answer, {"a": 1}) == 0
        assert score("numeric", answer, 7) == 0
    assert time.monotonic() - began < 10


def test_a_pattern_that_backtracks_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PATTERN_SECONDS", 0.2)
    with pytest.raises(UsageError, match=r"0\.2 seconds") as caught:
        score("regex", "a" * 60 + "!", r"(?:a|a)+(?:a|a)+(?:a|a)+$")
    assert caught.value.where == "line 4"


@pytest.mark.parametrize(
    ("metric", "expected", "words"),
    [
        ("regex", "(", "not a pattern"),
        ("regex", 1, "must be a pattern"),
        ("contains", "", "every answer"),
        ("contains", 5, "must be a string"),
        ("exact", None, "must be a string"),
        ("numeric", "about 5", "one finite number"),
        ("numeric", True, "one finite number"),
        ("numeric", 10**400, "one finite number"),
        ("json", "{", "must hold JSON"),
        ("choice", "a", "no \"choices\""),
    ],
)  # fmt: skip
def test_a_sample_that_a_metric_cannot_score_is_named(metric: str, expected: object, words: str) -> None:
    good: object = {"regex": "a", "numeric": 1, "json": "{}"}.get(metric, "a")
    rows = (expected,) if metric == "choice" else (good, expected)
    with pytest.raises(UsageError, match=words) as caught:
        metric_for(file_of(metric, *rows))
    assert str(caught.value.where) == f"f.jsonl:{len(rows)}"


def test_an_unknown_metric_names_its_neighbours() -> None:
    with pytest.raises(UsageError) as caught:
        named("contain")
    assert caught.value.hint == "Did you mean `contains`?"
    with pytest.raises(UsageError) as caught:
        named("bleu")
    assert "choice_norm" in str(caught.value.hint)


USER = """
import sys
def by_expected(answer, expected): return answer == expected
def by_sample(answer, sample): return sample["weight"] * (answer == sample["expected"])
def by_any(*parts): return len(parts) / 2
def array(answer, expected):
    import numpy
    return numpy.float32(0.5)
def wrong(answer, expected): return {}["key"]
def leaves(answer, expected): sys.exit(0)
def two(answer, expected): return 2
def nan(answer, expected): return float("nan")
def text(answer, expected): return "0.5"
def none(answer, expected): pass
def one(answer): return 1
"""


def test_a_users_function_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine_of_ingot_tests.py"
    path.write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    for place in (str(path), path.stem):
        assert named(f"{place}:by_expected").score("a", sample("a")) == 1
        assert named(f"{place}:by_sample").score("a", sample("a", weight=0.25)) == 0.25
        assert named(f"{place}:by_any").score("a", sample("a")) == 1
        assert named(f"{place}:array").score("a", sample("a")) == 0.5


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong", "KeyError: 'key'"),
        ("leaves", "SystemExit"),
        ("two", "found 2"),
        ("nan", "found nan"),
        ("text", "found '0.5'"),
        ("none", "found None"),
    ],
)
def test_a_users_function_that_fails_is_told_with_the_sample(tmp_path: Path, function: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER)
    metric = named(f"{path}:{function}")
    with pytest.raises(UsageError) as caught:
        metric.score("a", sample("a"))
    assert words in caught.value.message
    assert caught.value.where == "sample 3, line 4"


def test_a_users_function_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "leaving.py").write_text("import sys; sys.exit(3)")
    for spec, words in {
        f"{path}:by_expect": "no such function",
        f"{path}:one": "two arguments",
        f"{tmp_path}/none.py:f": "no such file",
        f"{tmp_path}/broken.py:f": "SyntaxError",
        f"{tmp_path}/leaving.py:f": "SystemExit",
        "no_such_module_at_all:f": "ModuleNotFoundError",
        "mine.py:": "is written",
        ":f": "is written",
    }.items():
        with pytest.raises(UsageError, match=words):
            named(spec)
    with pytest.raises(UsageError) as caught:
        named(f"{path}:by_expect")
    assert caught.value.hint == f"Did you mean `{path}:by_expected`?"
