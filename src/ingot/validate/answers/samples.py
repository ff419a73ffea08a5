"""JSON Lines of prompts and expected answers, read strictly: a sample that was misread would be a wrong verdict.

    {"prompt": "2 July 1994", "expected": "1994-07-02"}
    {"prompt": "The sky is", "choices": ["blue", "green"], "expected": "blue"}        or "expected": 0

`expected` may be any JSON value where the metric takes one. Other keys are kept for a user's own metric. What is
tolerated: a byte order mark, CRLF, empty lines at the end. Format: https://jsonlines.org.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingot.errors import UsageError
from ingot.formats import strict_json
from ingot.storage.inputs import InputFile
from ingot.validate.result import SampleSet

MAX_FILE_NBYTES = 256 << 20
MAX_LINE_NBYTES = 4 << 20

_BOM = b"\xef\xbb\xbf"
_KEYS = ("prompt", "expected", "choices")
_REQUIRED = ("prompt", "expected")
#: How alike a key must be to one of ours to be taken for its misspelling.
_MISSPELT = 0.85
_HINT = 'A line is an object: {"prompt": "...", "expected": "..."}.'


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        number: from 0 within its file.
        line: from 1 within its file.
        expected: any JSON value; the text of the right choice where there are choices.
        choices: of multiple choice, else empty.
        right: index of the right choice.
        fields: the whole line.
    """

    number: int
    line: int
    prompt: str
    expected: object
    choices: tuple[str, ...] = ()
    right: int | None = None
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def expected_text(self) -> str:
        """What was expected as text: a string as it is, another value as JSON."""
        return self.expected if isinstance(self.expected, str) else strict_json.dumps_canonical(self.expected).decode()


@dataclass(frozen=True)
class SampleFile:
    """One task file. `repeated` has (line, first line) of every question that stands there again."""

    name: str
    path: Path
    sha256: str
    metric: str
    samples: tuple[Sample, ...]
    repeated: tuple[tuple[int, int], ...] = ()

    @property
    def as_set(self) -> SampleSet:
        return SampleSet(self.name, self.sha256, len(self.samples), self.metric)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user."""
        if not self.repeated:
            return ()
        line, first = self.repeated[0]
        what = "question is" if len(self.repeated) == 1 else "questions are"
        return (
            f"{self.name}: {len(self.repeated)} {what} asked again (line {line} as line {first}); they count each "
            "time, and make the statistics look surer than they are.",
        )


def read_samples(specs: Sequence[str], metric: str | None = None) -> tuple[SampleFile, ...]:
    """The task files of `[NAME=]FILE.jsonl[:METRIC]`, in order; `metric` is that of files that name none.

    Without any, it is `choice` for a file of multiple choice and `contains` for another. A name is the file's stem
    unless it is given.

    Raises:
        UsageError: a file cannot be read, is empty or too long, or a line is at fault; two files have one name.
        UnsafeInputError: it is not a regular file.
    """
    files = [_read(*_parse(spec), metric) for spec in specs]
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("two sample files have one name", found=twice[0], hint="Name them: NAME=FILE.jsonl.")
    return tuple(files)


def _parse(spec: str) -> tuple[str | None, Path, str | None]:
    """Name, file, metric. A file that is called like the whole of it, or of the rest, is that file."""
    name: str | None = None
    rest = spec
    before, equals, after = spec.partition("=")
    if equals and "/" not in before and not Path(spec).exists():
        if not before or not after:
            raise UsageError("a name and a file belong around `=`", found=spec, hint="Write NAME=FILE.jsonl.")
        name, rest = before, after
    metric: str | None = None
    if not Path(rest).exists():
        stem, found, suffix = rest.partition(".jsonl:")
        rest, metric = (f"{stem}.jsonl", suffix or None) if found else (rest, None)
    return name, Path(rest), metric


def _read(name: str | None, path: Path, metric: str | None, default: str | None) -> SampleFile:
    data = _bytes(path)
    samples = tuple(_sample(number, line, fields, path) for number, line, fields in _objects(data, path))
    if not samples:
        raise UsageError("a sample file holds no sample", where=path, hint=_HINT)
    choices = sum(bool(sample.choices) for sample in samples)
    if metric is None and default is None and 0 < choices < len(samples):
        odd = next(sample for sample in samples if bool(sample.choices) != bool(samples[0].choices))
        raise UsageError(
            "some lines have choices and some have none", where=f"{path}:{odd.line}",
            hint="Put them into two files, or name a metric.",
        )  # fmt: skip
    usual = "choice" if choices else "contains"
    digest = hashlib.sha256(data).hexdigest()
    return SampleFile(name or path.stem, path, digest, metric or default or usual, samples, _repeated(samples))


def _bytes(path: Path) -> bytes:
    try:
        # A link that the user named may lead anywhere; what it leads to must be a regular file.
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise UsageError(f"cannot open a sample file ({reason.lower()})", where=path, hint=_HINT) from cause
    with InputFile.open(real.parent, real.name, error=UsageError) as file:
        if file.nbytes > MAX_FILE_NBYTES:
            raise UsageError(
                "a sample file is too long", where=path, expected=f"at most {MAX_FILE_NBYTES:,} bytes",
                found=f"{file.nbytes:,}", hint="Take a part of it: `head -n 1000 FILE.jsonl > part.jsonl`.",
            )  # fmt: skip
        data = file.read(0, file.nbytes)
        file.check_unchanged()
        return data


def _objects(data: bytes, path: Path) -> Iterable[tuple[int, int, dict[str, object]]]:
    """Number from 0, line from 1, and what stands on it."""
    lines = [line.removesuffix(b"\r") for line in data.removeprefix(_BOM).split(b"\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines):
        where = f"{path}:{number + 1}"
        if not line.strip():
            raise UsageError("a line is empty", where=where, hint="Remove it: only the end may have empty lines.")
        try:
            value = strict_json.loads(line, where=where, max_nbytes=MAX_LINE_NBYTES, error=UsageError)
        except UsageError as fault:
            raise UsageError(
                fault.what, where=fault.where, expected=fault.expected, found=fault.found, hint=_HINT
            ) from fault
        if not isinstance(value, dict):
            kind = _kind(value)
            raise UsageError("a line is not a JSON object", where=where, expected="an object", found=kind, hint=_HINT)
        yield number, number + 1, value


def _sample(number: int, line: int, fields: dict[str, object], path: Path) -> Sample:
    where = f"{path}:{line}"
    _check_keys(fields, where)
    prompt = fields["prompt"]
    if not isinstance(prompt, str):
        raise UsageError('"prompt" is not a string', where=where, found=_kind(prompt), hint=_HINT)
    if not prompt.strip():
        raise UsageError('"prompt" is empty', where=where, hint=_HINT)
    for key, value in fields.items():
        if _has_nul(value):
            raise UsageError(f'"{key}" holds a NUL character', where=where, hint="Remove the \\u0000.")
    if "choices" not in fields:
        return Sample(number, line, prompt, fields["expected"], fields=fields)
    choices = _choices(fields["choices"], where)
    right = _right(fields["expected"], choices, where)
    return Sample(number, line, prompt, choices[right], choices, right, fields)


def _check_keys(fields: Mapping[str, object], where: str) -> None:
    for key in fields:
        near = [] if key in _KEYS else difflib.get_close_matches(key.casefold(), _KEYS, n=1, cutoff=_MISSPELT)
        if near and near[0] not in fields:
            raise UsageError(f'no such key: "{key}"', where=where, hint=f'Did you mean "{near[0]}"?')
    for key in _REQUIRED:
        if key not in fields:
            near = difflib.get_close_matches(key, [name for name in fields if name not in _KEYS], n=1, cutoff=0.5)
            hint = f'Did you mean "{key}" by "{near[0]}"?' if near else _HINT
            found = ", ".join(f'"{name}"' for name in list(fields)[:8]) or "no key"
            raise UsageError(f'a sample has no "{key}"', where=where, found=found, hint=hint)


def _choices(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise UsageError('"choices" is not a list of strings', where=where, found=_kind(value))
    if len(value) < 2 or not all(choice.strip() for choice in value) or len(set(value)) < len(value):
        raise UsageError('"choices" must be two or more different texts', where=where, found=str(value)[:200])
    return tuple(value)


def _right(expected: object, choices: tuple[str, ...], where: str) -> int:
    if isinstance(expected, int) and not isinstance(expected, bool) and 0 <= expected < len(choices):
        return expected
    if isinstance(expected, str) and expected in choices:
        return choices.index(expected)
    near = difflib.get_close_matches(str(expected), choices, n=1)
    raise UsageError(
        '"expected" is none of the choices', where=where, found=str(expected)[:200],
        expected=f"a choice's text, or its index from 0 to {len(choices) - 1}",
        hint=f'Did you mean "{near[0]}"?' if near else _HINT,
    )  # fmt: skip


def _repeated(samples: tuple[Sample, ...]) -> tuple[tuple[int, int], ...]:
    first: dict[object, int] = {}
    lines = [(sample.line, first.setdefault((sample.prompt, sample.choices), sample.line)) for sample in samples]
    return tuple((line, earlier) for line, earlier in lines if line != earlier)


def _has_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_has_nul(item) for item in value)
    return isinstance(value, str) and "\0" in value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
