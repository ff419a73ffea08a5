"""Recipes' YAML: what PyYAML's safe loader reads, where it and YAML 1.2 agree; refused where they do not."""

from __future__ import annotations

import pytest
import yaml

from ingot.errors import UsageError
from ingot.release.strict_yaml import MAX_NBYTES, loads, spelled
from tests.release.recipes import SMALL, WHOLE

AGREED = ["", "# nothing\n", "a: 1\nb: [x, {c: -2.5}, true, null, ~]\nd:\n", "[]", "{}", "a: 'no'\nb: \"1.10\"\n",
          "- |\n  two\n  lines\n", "a: 1.10\n", "a: .5\n", "? a\n: 1\n", "---\na: >-\n  folded\n  text\n...\n",
          "a: é\n", SMALL, WHOLE]  # fmt: skip


@pytest.mark.parametrize("text", AGREED)
def test_what_both_versions_of_yaml_agree_on_is_what_pyyaml_reads(text: str) -> None:
    assert loads(text.encode(), name="r.yaml").value == yaml.safe_load(text)


def test_a_byte_order_mark_and_crlf_are_nothing() -> None:
    text = "a: 1\r\nb: [x]\r\n"
    assert loads(b"\xef\xbb\xbf" + text.encode(), name="r").value == {"a": 1, "b": ["x"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000.0), ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), (".nan", ".nan"), (".inf", ".inf"),
     ("v3", "v3"), ("1e999", "1e999"), ("9" * 30, float("9" * 30))],
)  # fmt: skip
def test_where_yaml_1_1_sees_dates_and_sexagesimals_text_stays_text(text: str, value: object) -> None:
    assert loads(f"a: {text}\n".encode(), name="r").value == {"a": value}


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "y", "N", "010", "0x1F", "0o17", "1_000", "0b1"])
def test_a_word_of_two_meanings_is_refused_unless_it_is_quoted(word: str) -> None:
    with pytest.raises(UsageError, match=r"r.yaml:2") as caught:
        loads(f"b: 1\na: {word}\n".encode(), name="r.yaml")
    assert f'"{word}"' in (caught.value.hint or "")
    assert loads(f'a: "{word}"\n'.encode(), name="r").value == {"a": word}


BAD = [
    ("a: 1\na: 2\n", "r.yaml:2, $.a", "twice"),
    ("b: {c: {d: 1, d: 2}}\n", "r.yaml:1, $.b.c.d", "twice"),
    ("a: &x 1\nb: *x\n", "r.yaml:1", "anchors"),
    ("a: 1\nb: *x\n", "r.yaml:2", "anchors"),
    ("a: !!python/object/apply:os.system [id]\n", "r.yaml:1", "tags"),
    ("a: !!str 1\n", "r.yaml:1", "tags"),
    ("a: 1\n---\nb: 2\n", "r.yaml:2", "second document"),
    ("%YAML 1.1\n---\na: 1\n", "r.yaml:", "directive"),
    ("a: 1\n  b: 2\n", "r.yaml:2", "not valid YAML"),
    ("a:\n\t- b\n", "r.yaml:2", "not valid YAML"),
    ("a: [1, 2\nb: 3\n", "r.yaml:", "not valid YAML"),
    ("a: 'open\n", "r.yaml:", "not valid YAML"),
    ("[a]: 1\n", "r.yaml:1", "a key is a mapping or a list"),
    ("? {a: 1}\n: 1\n", "r.yaml:1", "a key is a mapping or a list"),
    ("[" * 100_000, "r.yaml:1", "too deep"),
    ("{a: " * 1_000, "r.yaml:1", "too deep"),
    ("- 1\n" * 20_000, "r.yaml:", "too many values"),
    ("a: \x00\n", "r.yaml", "characters"),
    ("a: \x1b[31m\n", "r.yaml", "characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "word"), BAD, ids=[f"{word} {n}" for n, (_, _, word) in enumerate(BAD)])
def test_what_makes_yaml_surprising_is_refused_with_its_line(text: str, where: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        loads(text.encode(), name="r.yaml")
    assert (caught.value.where or "").startswith(where)
    assert caught.value.hint or caught.value.found


def test_anchors_that_multiply_are_refused_before_anything_is_built() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(UsageError, match="anchors"):
        loads("\n".join(lines).encode(), name="r.yaml")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        loads(b"a: 1\nb: \xff\n", name="r.yaml")
    assert caught.value.where == "r.yaml:2"
    with pytest.raises(UsageError, match="not UTF-8"):
        loads("a: 1".encode("utf-16"), name="r.yaml")
    with pytest.raises(UsageError, match="too large"):
        loads(b"#" * (MAX_NBYTES + 1), name="r.yaml")


def test_every_value_has_the_line_that_it_stands_on() -> None:
    document = loads(b"a: 1\nb:\n  - c: x\n    d:\n      [1,\n       2]\n", name="r.yaml")
    assert document.lines == {
        (): 1, ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 0, "c"): 3, ("b", 0, "d"): 4, ("b", 0, "d", 0): 5,
        ("b", 0, "d", 1): 6,
    }  # fmt: skip
    assert document.where(("b", 0, "d", 1)) == "r.yaml:6, $.b[0].d[1]"
    assert document.where(("b", 0, "nowhere")) == "r.yaml:3, $.b[0].nowhere"
    assert spelled(()) == "$"
