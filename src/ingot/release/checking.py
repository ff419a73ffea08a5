"""Plain values against the form: every fault at its line and path, all of them at once, with what was likely meant."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

import msgspec

from ingot.errors import UsageError
from ingot.release.strict_yaml import Document, Path

Form = TypeVar("Form", bound=msgspec.Struct)
#: How many faults one message lists.
_LISTED = 12
_VERSION = "The number is the recipe format's version, not ingot's; a newer one needs `pip install -U ingot-merge`."
#: msgspec's words, longest first, in ours.
_KINDS = {
    "`str` matching regex '^[A-Za-z0-9][A-Za-z0-9._+-]*$'": 'letters, digits and . _ + -, such as "1.2"',
    "`str` matching regex '^[A-Za-z0-9][A-Za-z0-9._-]*$'": "letters, digits and . _ -",
    "`str | object`": "text, or keys and values", "`int | str`": "text or a whole number",
    "`bool`": "true or false", "`int`": "a whole number", "`float`": "a number", "`str`": "text",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; fields as those of `IngotError`."""

    path: Path
    what: str
    expected: str | None = None
    found: str | None = None
    hint: str | None = None


def checked(document: Document, form: type[Form]) -> Form:
    """The document as `form`. Raises UsageError with every fault."""
    walk = _Walk(document)
    value = walk.value(document.value, form, ())
    if walk.faults:
        refuse(document, walk.faults)
    return cast(Form, value)


def refuse(document: Document, faults: Iterable[Fault]) -> NoReturn:
    """Raises UsageError that says all of the faults; there is at least one."""
    first, *more = faults
    if not more:
        raise UsageError(first.what, where=document.where(first.path), expected=first.expected, found=first.found,
                         hint=first.hint or _HINT)  # fmt: skip
    listed = [_sentence(document, fault) for fault in (first, *more)[:_LISTED]]
    if len(more) >= _LISTED:
        listed.append(f"and {len(more) + 1 - _LISTED} more")
    what = f"{len(more) + 1} faults: {'; '.join(listed)}"
    raise UsageError(what, where=document.name, hint=_HINT)


_HINT = "docs/release.md lists the keys; `ingot init --schema` prints them for editors."


def _sentence(document: Document, fault: Fault) -> str:
    at = document.where(fault.path).removeprefix(f"{document.name}:")
    text = f"line {at}: {fault.what}"
    text += f", expected {fault.expected}" if fault.expected else ""
    text += f", found {fault.found}" if fault.found else ""
    return text + (f" ({fault.hint.rstrip('.')})" if fault.hint else "")


@dataclass
class _Walk:
    """Down the form and the document at once; a value with a fault becomes None, which nobody sees."""

    document: Document
    faults: list[Fault] = field(default_factory=list)

    def value(self, value: Any, kind: Any, path: Path) -> Any:
        kinds = _alternatives(kind)
        if value is None and not path:
            self._fault(path, "the recipe is empty", hint="Write one with `ingot init BASE ADAPTER -o RECIPE.yaml`.")
            return None
        if value is None:
            self._fault(path, "there is no value", hint="Give one, or leave the key out.")
            return None
        struct = next((one for one in kinds if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
        texts = [one for one in kinds if one is not struct]
        if struct is not None and (isinstance(value, dict) or not texts):
            return self._mapping(value, struct, path)
        if len(kinds) == 1 and get_origin(kinds[0]) is tuple:
            return self._list(value, kind, get_args(kinds[0])[0], path)
        return self._leaf(value, kind, kinds, path)

    def _mapping(self, value: Any, struct: type[msgspec.Struct], path: Path) -> Any:
        if not isinstance(value, dict):
            self._fault(path, "this is no mapping", expected="keys and values", found=_shown(value))
            return None
        fields = {one.encode_name: one for one in msgspec.structs.fields(struct)}
        for key in value:
            if key not in fields:
                self._fault((*path, key), f"there is no key `{key}` here", hint=_near(key, fields))
        for name, one in fields.items():
            if one.required and name not in value:
                self._fault(path, f"the key `{name}` is missing", hint=f"Add `{name}:`.")
        given = {name: one for name, one in fields.items() if name in value}
        found = {one.name: self.value(value[name], one.type, (*path, name)) for name, one in given.items()}
        return None if self.faults else struct(**found)

    def _list(self, value: Any, kind: Any, item: Any, path: Path) -> Any:
        if not isinstance(value, list):
            name = path[-1] if path else "it"
            self._fault(path, "this is no list", found=_shown(value), hint=f"Write {name}: [{_shown(value)}].")
            return None
        if not value and _least(kind):
            self._fault(path, "the list is empty", expected="at least one")
        return tuple(self.value(one, item, (*path, number)) for number, one in enumerate(value))

    def _leaf(self, value: Any, kind: Any, kinds: list[Any], path: Path) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            allowed = [word for one in kinds for word in _words(one)]
            takes_text = any(_bare(one) is str for one in kinds)
            raw = self.document.texts.get(path)
            if allowed:
                hint = _VERSION if path == ("ingot",) else _near(str(value), allowed)
                self._fault(path, "there is no such value", ", ".join(allowed), _shown(value), hint)
            elif takes_text and raw is not None and not isinstance(value, str):
                hint = f'Quote it: "{raw}". Without quotes YAML reads another thing than text.'
                self._fault(path, "this is not text", found=raw, hint=hint)
            else:
                self._fault(path, "this is no such value", _wanted(str(error)), _shown(value))
            return None

    def _fault(
        self, path: Path, what: str, expected: str | None = None, found: str | None = None, hint: str | None = None
    ) -> None:
        self.faults.append(Fault(path, what, expected, found, hint))


def _alternatives(kind: Any) -> list[Any]:
    """The types that a field takes, None left out; each as it stands, with its limits."""
    bare = _bare(kind)
    if get_origin(bare) in (Union, types.UnionType):
        return [found for one in get_args(bare) if one is not type(None) for found in _alternatives(one)]
    return [bare if get_origin(bare) is tuple or isinstance(bare, type) else kind]


def _bare(kind: Any) -> Any:
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _least(kind: Any) -> bool:
    """Whether a list must hold something."""
    return any(getattr(one, "min_length", None) for one in getattr(kind, "__metadata__", ()))


def _words(kind: Any) -> list[str]:
    bare = _bare(kind)
    if get_origin(bare) is Literal:
        return [str(one) for one in get_args(bare)]
    return [str(one) for one in bare] if isinstance(bare, type) and issubclass(bare, StrEnum) else []


def _near(word: str, known: Iterable[str] | Mapping[str, object]) -> str | None:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(f'`{name}`' for name in near)}?"
    return f"There are: {', '.join(names)}."


def _wanted(message: str) -> str:
    """What msgspec's sentence says that it expected, in words: "a number >= 0"."""
    text = message.partition(" - at ")[0].partition(", got ")[0].removeprefix("Expected ")
    text = text.replace(" | null`", "`")
    for kind, words in _KINDS.items():
        text = text.replace(kind, words)
    return text


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
