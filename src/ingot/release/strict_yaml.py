"""A small YAML document of plain values, read strictly, with the line on which each value stands.

What people mean is what YAML 1.2 says: a mapping, a list, text, a number, true or false. What makes YAML surprising is
refused, not guessed at: tags, anchors and aliases, several documents, repeated keys, and words such as `yes` or `on`,
which are true for readers of YAML 1.1 and text for others. Source: https://yaml.org/spec/1.2.2/ (10.3, core schema).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from ingot.errors import UsageError

MAX_NBYTES = 1 << 20
#: Most mappings and lists inside one another, and most values altogether: a recipe has a few dozen.
MAX_DEPTH, MAX_NVALUES = 16, 10_000

Path = tuple[str | int, ...]
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE, _FALSE = re.compile("true|True|TRUE"), re.compile("false|False|FALSE")
_INT = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: Text or a value, as the reader's version of YAML will have it.
_EITHER = re.compile(r"yes|no|on|off|y|n|[+-]?0[\d_]+|0[xob][0-9a-fA-F_]+|[+-]?\d+(_\d+)+", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """A document's value, and where its parts stand.

    Attributes:
        name: of the file, for messages.
        value: mappings, lists, str, int, float, bool, None.
        lines: path of each value -> its line, counted from 1; of a mapping's value the line of its key.
        texts: path of each unquoted scalar -> its text.
    """

    name: str
    value: Any
    lines: dict[Path, int]
    texts: dict[Path, str]

    def where(self, path: Path) -> str:
        """File, line and path of a value, or of the nearest thing around it that there is: "a.yaml:7, $.base"."""
        known = path
        while known not in self.lines:
            known = known[:-1]
        return f"{self.name}:{self.lines[known]}, {spelled(path)}"


def spelled(path: Path) -> str:
    """Example: spelled(("formats", 1, "imatrix")) -> "$.formats[1].imatrix" """
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def loads(data: bytes, *, name: str) -> Document:
    """The document in `data`.

    Raises:
        UsageError: it is too long or too deep, no UTF-8, no YAML, or holds what is refused here; `where` has the line.
    """
    if len(data) > MAX_NBYTES:
        raise UsageError("the file is too large", where=name, expected=f"at most {MAX_NBYTES:,} bytes",
                         found=f"{len(data):,}", hint="Is it the right file?")  # fmt: skip
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as cause:
        line = data.count(b"\n", 0, cause.start) + 1
        raise UsageError("the file is not UTF-8", where=f"{name}:{line}", hint="Save it as UTF-8.") from cause
    reader = _Reader(name)
    try:
        for event in yaml.parse(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader):
            reader.take(event)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        hint = "Indent with spaces, and quote text that holds `: ` or begins with a sign."
        raise UsageError(f"not valid YAML: {cause.problem}", where=where, hint=hint) from cause
    except yaml.YAMLError as cause:
        what = "the file holds characters that YAML does not allow"
        raise UsageError(what, where=name, found=str(cause).splitlines()[0], hint="Is it the right file?") from cause
    return reader.document()


@dataclass
class _Open:
    """A mapping or list that is being read. `key`: of the value that comes next."""

    value: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


@dataclass
class _Reader:
    """Events in, one value out; nothing is built that was not checked."""

    name: str
    lines: dict[Path, int] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    open: list[_Open] = field(default_factory=list)
    value: Any = None
    documents: int = 0

    def document(self) -> Document:
        if not self.documents:
            self.lines[()] = 1
        return Document(self.name, self.value, self.lines, self.texts)

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse("a second document begins", line, "Write one file for each.")
            if event.version or event.tags:
                self._refuse("a directive (%YAML, %TAG) is not taken", line, "Leave it out.")
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse("anchors (&name) and aliases (*name) are not taken", line,
                         "Write the value out, or quote text that begins with & or *.")  # fmt: skip
        elif getattr(event, "tag", None) is not None:
            self._refuse("tags (!name) are not taken", line, "Leave it out, or quote text that begins with !.")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            self._push({}, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._push([], line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        above = self.open[-1] if self.open else None
        if above is not None and isinstance(above.value, dict) and above.key is None:
            if event.value in above.value:
                at = spelled((*above.path, event.value))
                raise UsageError("a key stands twice", where=f"{self.name}:{line}, {at}", hint="Keep one of them.")
            above.key, self.lines[(*above.path, event.value)] = event.value, line
            return
        plain = event.style is None
        path = self._place(self._plain(event.value, line) if plain else event.value, line)
        if plain:
            self.texts[path] = event.value

    def _plain(self, text: str, line: int) -> str | int | float | bool | None:
        if _EITHER.fullmatch(text):
            self._refuse(f"`{text}` means one thing in YAML 1.1 and another in YAML 1.2", line,
                         f'Write true, false or a decimal number; or quote it, if it is text: "{text}".')  # fmt: skip
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text.lower() == "true"
        if _INT.fullmatch(text):
            return int(text)
        number = float(text) if _FLOAT.fullmatch(text) else None
        return text if number is None or number in (float("inf"), float("-inf")) else number

    def _push(self, value: dict[str, Any] | list[Any], line: int) -> None:
        if self.open and isinstance(self.open[-1].value, dict) and self.open[-1].key is None:
            self._refuse("a key is a mapping or a list", line, "A key is a word; quote text that begins with [ or {.")
        if len(self.open) >= MAX_DEPTH:
            self._refuse("mappings and lists stand too deep inside one another", line, "Is it the right file?")
        path = self._place(value, line)
        self.open.append(_Open(value, path))

    def _place(self, value: Any, line: int) -> Path:
        """Put a value where it belongs; its path."""
        if len(self.lines) >= MAX_NVALUES:
            self._refuse("there are too many values", line, "Is it the right file?")
        path: Path = ()
        if not self.open:
            self.value = value
        else:
            above = self.open[-1]
            if isinstance(above.value, dict):
                key: str | int = str(above.key)
                above.value[str(key)], above.key = value, None
            else:
                key = len(above.value)
                above.value.append(value)
            path = (*above.path, key)
        self.lines.setdefault(path, line)
        return path

    def _refuse(self, what: str, line: int, hint: str) -> NoReturn:
        raise UsageError(what, where=f"{self.name}:{line}", hint=hint)
