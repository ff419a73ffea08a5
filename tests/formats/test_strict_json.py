"""Strict JSON against the standard library: the same values, fewer documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import AdapterError, UnsafeInputError
from ingot.formats import strict_json

from .evil_case import Case
from .evil_texts import JSON

REAL_CONFIGS = sorted((Path(__file__).parents[3] / "shared/adapters/configs").glob("*.json"))

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def loads(data: bytes) -> object:
    return strict_json.loads(data, where="x.json")


@given(VALUES)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_what_the_standard_library_writes_is_read_as_it_reads_it(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ['{"r":8}\n', '{\r\n  "r": 8\r\n}\r\n', '\n\t {"r" : 8} \n\n'])
def test_line_ends_of_any_system_and_final_newlines_are_fine(text: str) -> None:
    assert loads(text.encode()) == {"r": 8}


@pytest.mark.skipif(not REAL_CONFIGS, reason="the collection of real adapter files is not here")
def test_every_real_adapter_config_parses_as_in_the_standard_library() -> None:
    for path in REAL_CONFIGS:
        assert loads(path.read_bytes()) == json.loads(path.read_bytes()), path.name


@pytest.mark.parametrize("case", JSON, ids=repr)
def test_an_evil_document_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        case.prepare(tmp_path)()


@pytest.mark.parametrize("found", [b'{"a":1,"a":1}', b"[NaN]", b"[1e999]", b'["\\ud83d"]', b"\xff\xfe[\0]\0"])
def test_the_standard_library_lets_in_what_is_refused_here(found: bytes) -> None:
    assert json.loads(found) is not None
    with pytest.raises(UnsafeInputError):
        loads(found)


def test_the_caller_chooses_the_error_and_reads_where() -> None:
    with pytest.raises(AdapterError, match=r"key stands twice.*found r.*adapter_config\.json"):
        strict_json.loads(b'{"r":8,"r":9}', where="adapter_config.json", error=AdapterError)


@pytest.mark.parametrize("depth", [1, 63, 64])
def test_nesting_up_to_the_limit_is_read(depth: int) -> None:
    value = loads(b"[" * depth + b"]" * depth)
    assert value == json.loads("[" * depth + "]" * depth)


def test_brackets_within_text_are_no_nesting() -> None:
    document = ["[{" * 500, '"[', "\\"] * 3
    assert loads(json.dumps(document).encode()) == document


def test_size_and_depth_limits_are_exact() -> None:
    assert strict_json.loads(b"[[1]]", where="x", max_nbytes=5, max_depth=2) == [[1]]
    with pytest.raises(UnsafeInputError, match="too large"):
        strict_json.loads(b"[[1]]", where="x", max_nbytes=4)
    with pytest.raises(UnsafeInputError, match="nested too deeply"):
        strict_json.loads(b"[[1]]", where="x", max_depth=1)


def test_a_whole_surrogate_pair_is_one_character() -> None:
    assert loads(b'["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_canonical_json_has_one_spelling() -> None:
    first, second = {"b": [1, 2.5], "a": {"\u00e9": None, "z": True}}, {"a": {"z": True, "\u00e9": None}, "b": (1, 2.5)}
    expected = '{"a":{"z":true,"\u00e9":null},"b":[1,2.5]}'.encode()
    assert strict_json.dumps_canonical(first) == strict_json.dumps_canonical(second) == expected


@given(VALUES)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_what_ingot_writes_the_standard_library_reads_back(value: object) -> None:
    assert json.loads(strict_json.dumps_canonical(value)) == value
    assert json.loads(strict_json.dumps_pretty(value)) == value


def test_pretty_json_keeps_the_order_of_keys_and_ends_in_a_newline() -> None:
    assert strict_json.dumps_pretty({"b": 1, "a": "\u00e9"}) == '{\n  "b": 1,\n  "a": "\u00e9"\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")], "\ud800"])
def test_what_has_no_json_form_is_not_written(value: object) -> None:
    for dumps in (strict_json.dumps_canonical, strict_json.dumps_pretty):
        with pytest.raises(ValueError, match=r"surrogates|JSON compliant"):
            dumps(value)


def test_two_keys_never_become_one() -> None:
    with pytest.raises(TypeError):
        strict_json.dumps_canonical({"x": [{1: "a", "1": "b"}]})
