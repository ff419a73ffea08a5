"""A sample file is read as it was meant, or refused with the line that is at fault."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ingot.demo import assets
from ingot.errors import UnsafeInputError, UsageError
from ingot.validate.answers import samples
from ingot.validate.answers.samples import read_samples

GOOD = '{"prompt": "a", "expected": "b"}\n'


def written(folder: Path, text: str | bytes, name: str = "task.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_demos_files_are_read_as_json_reads_them() -> None:
    for task in assets.tasks():
        path = assets.DATA / "samples" / f"{task.name}.jsonl"
        (file,) = read_samples([str(path)])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(sample.prompt, sample.expected) for sample in file.samples] == [
            (row["prompt"], row["expected"]) for row in rows
        ]
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (file.name, file.metric, file.as_set.count) == (task.name, "contains", len(rows))


@pytest.mark.parametrize(
    "text",
    [GOOD * 2, "\ufeff" + GOOD * 2, GOOD.replace("\n", "\r\n") * 2, GOOD * 2 + "\n\r\n  \n", (GOOD * 2).rstrip("\n")],
    ids=["plain", "byte order mark", "CRLF", "blank lines at the end", "no newline at the end"],
)
def test_what_editors_do_to_a_file_changes_nothing(tmp_path: Path, text: str) -> None:
    (file,) = read_samples([str(written(tmp_path, text))])
    assert [(sample.number, sample.line, sample.prompt) for sample in file.samples] == [(0, 1, "a"), (1, 2, "a")]
    assert file.repeated == ((2, 1),)
    assert "line 2 as line 1" in file.warnings[0]


def test_a_line_separator_within_a_string_ends_no_line(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a\u2028b\u0085c", "expected": "d"}\n')
    assert read_samples([str(path)])[0].samples[0].prompt == "a\u2028b\u0085c"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"promt": "a", "expected": "b"}', ['"promt"', 'Did you mean "prompt"?']),
        (b'{"prompt": "a", "Expected": "b"}', ['"Expected"', 'Did you mean "expected"?']),
        (b'{"prompt": "a", "expected": 0, "choises": ["b", "c"]}', ['Did you mean "choices"?']),
        (b'{"prompt": "a", "expected_output": "b"}', ['no "expected"', 'by "expected_output"']),
        (b'{"question": "a", "expected": "b"}', ['no "prompt"', '"question"']),
        (b'{"prompt": 1, "expected": "b"}', ['"prompt" is not a string', "a number"]),
        (b'{"prompt": " ", "expected": "b"}', ['"prompt" is empty']),
        (b'{"prompt": "a\\u0000", "expected": "b"}', ["NUL"]),
        (b'{"prompt": "a", "expected": {"k": ["\\u0000"]}}', ['"expected" holds a NUL']),
        (b'{"prompt": "a\x00", "expected": "b"}', ["not valid JSON"]),
        (b'{"prompt": "\xff", "expected": "b"}', ["not UTF-8"]),
        (b'{"prompt": "\\ud800", "expected": "b"}', ["surrogate"]),
        (b'{"prompt": "a", "prompt": "b", "expected": "c"}', ["twice"]),
        (b'{"prompt": "a", "expected": NaN}', ["no such number"]),
        (b'["a", "b"]', ["not a JSON object", "a list"]),
        (b'"a"', ["a string"]),
        (b"null", ["null"]),
        (b"", ["empty"]),
        (b"prompt,expected", ["not valid JSON"]),
        (b'{"prompt": "a", "expected": "b"', ["not valid JSON"]),
        (b"[" * 5000, ["nested too deeply"]),
        (b'{"prompt": "a", "choices": ["b"], "expected": 0}', ["two or more"]),
        (b'{"prompt": "a", "choices": ["b", "b"], "expected": 0}', ["different"]),
        (b'{"prompt": "a", "choices": "bc", "expected": 0}', ["list of strings"]),
        (b'{"prompt": "a", "choices": ["b", "c"], "expected": 2}', ["0 to 1"]),
        (b'{"prompt": "a", "choices": ["b", "c"], "expected": true}', ["none of the choices"]),
        (b'{"prompt": "a", "choices": ["blue", "red"], "expected": "bleu"}', ['Did you mean "blue"?']),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, line: bytes, words: list[str]) -> None:
    path = written(tmp_path, GOOD.encode() + line + b"\n" + GOOD.encode())
    with pytest.raises(UsageError) as caught:
        read_samples([str(path)])
    assert f"{path}:2" in str(caught.value.where)
    assert caught.value.hint
    for word in words:
        assert word in f"{caught.value.message} {caught.value.hint}"


def test_other_keys_are_kept_for_a_users_metric(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a", "expected": {"n": 1}, "id": 7, "expected_id": 8}\n')
    (sample,) = read_samples([str(path)])[0].samples
    assert sample.fields["id"] == 7
    assert sample.expected_text == '{"n":1}'


def test_multiple_choice_by_text_or_index(tmp_path: Path) -> None:
    text = "".join(f'{{"prompt": "p{n}", "choices": ["1", "0"], "expected": {n}}}\n' for n in ("1", '"1"'))
    (file,) = read_samples([str(written(tmp_path, text.replace('p"1"', "q")))])
    assert [(sample.right, sample.expected) for sample in file.samples] == [(1, "0"), (0, "1")]
    assert file.metric == "choice"


def test_lines_with_and_without_choices_need_a_metric(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + '{"prompt": "a", "choices": ["b", "c"], "expected": 1}\n')
    with pytest.raises(UsageError, match="some have none") as caught:
        read_samples([str(path)])
    assert str(caught.value.where).endswith(":2")
    (file,) = read_samples([str(path)], "contains")
    assert file.samples[1].expected == "c"


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "\r\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="no sample"):
        read_samples([str(written(tmp_path, text))])


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GOOD)
    monkeypatch.setattr(samples, "MAX_LINE_NBYTES", len(GOOD) - 2)
    with pytest.raises(UsageError, match="too large"):
        read_samples([str(path)])
    monkeypatch.setattr(samples, "MAX_FILE_NBYTES", len(GOOD) - 1)
    with pytest.raises(UsageError, match="too long"):
        read_samples([str(path)])


def test_names_and_metrics_of_specs(tmp_path: Path) -> None:
    one = written(tmp_path, GOOD)
    odd = written(tmp_path, GOOD, "a=b.jsonl")
    files = read_samples([str(one), f"x={one}", f"y={one}:exact", f"z={one}:my/metric.py:score", str(odd)], "regex")
    assert [(file.name, file.metric) for file in files] == [
        ("task", "regex"), ("x", "regex"), ("y", "exact"), ("z", "my/metric.py:score"), ("a=b", "regex"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="one name"):
        read_samples([str(one), str(one)])
    for spec in (f"={one}", "x="):
        with pytest.raises(UsageError, match="belong around"):
            read_samples([spec])


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_samples([str(tmp_path / "none.jsonl")])
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UnsafeInputError):
            read_samples([str(path)])
    with pytest.raises(UsageError):
        read_samples(["a\0b"])


def test_a_link_that_the_user_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = written(tmp_path / "elsewhere", GOOD)
    (tmp_path / "link.jsonl").symlink_to(target)
    assert read_samples([str(tmp_path / "link.jsonl")])[0].name == "link"
