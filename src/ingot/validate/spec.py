"""What a user names as reference or candidate: BASE, BASE+ADAPTER, BASE+ADAPTER=0.7+OTHER=0.3, a URL, a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from ingot.checkpoint.locate import Location, locate
from ingot.checkpoint.named import NUMBER, named, parse_adapter
from ingot.errors import AdapterError, BaseError, UsageError
from ingot.validate.gguf_files import means_gguf

Part = TypeVar("Part")
_URL = ("http://", "https://")


class Kind(StrEnum):
    """What stands behind a spec; spelled as `Subject.kind`."""

    CHECKPOINT = "checkpoint"
    ADAPTED = "adapter on base"
    ENDPOINT = "endpoint"
    GGUF = "GGUF"


@dataclass(frozen=True)
class Spec:
    """A model as it was named.

    Attributes:
        text: as it was typed.
        base: a directory, a .gguf file or a Hub id; of an endpoint, the URL.
        adapters: directories or Hub ids with their weights, in the order in which they were named.
    """

    text: str
    kind: Kind
    base: str
    adapters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Located:
    """The directories of a checkpoint and its adapters."""

    base: Location
    adapters: tuple[tuple[Location, float], ...] = ()

    @property
    def name(self) -> str:
        """Hub ids and directories' own names, never a path: "base+lora=0.5"."""
        return "+".join([self.base.name, *(_weighted(where.name, weight) for where, weight in self.adapters)])


def parse_spec(text: str) -> Spec:
    """Take a spec apart. A directory or GGUF that exists and holds `+` or `=` in its path is never cut there.

    Raises:
        UsageError: a part is empty, or a weight is none; an adapter on a GGUF.

    Example: parse_spec("org/base+out/lora=0.5") -> base "org/base", adapters (("out/lora", 0.5),)
    """
    named(text, "the name of a model")
    if text.lower().startswith(_URL):
        return Spec(text, Kind.ENDPOINT, text)
    fields = text.split("+")
    base, rest = _leading(fields, _existing_base, lambda field: field)
    adapters = []
    while rest:
        adapter, rest = _leading(rest, _existing_adapter, parse_adapter)
        if not adapter[0].strip():
            raise UsageError("an adapter is empty", where=text, expected="BASE+ADAPTER or BASE+ADAPTER=0.5")
        adapters.append(adapter)
    if not base.strip():
        raise UsageError("the base is empty", where=text, expected="BASE+ADAPTER")
    if means_gguf(Path(base).expanduser()):
        if adapters:
            hint = "Name the checkpoint that it was trained on, or the GGUF that `ingot merge --to gguf:TYPE` made."
            raise UsageError("an adapter is not put on a GGUF here", where=text, hint=hint)
        return Spec(text, Kind.GGUF, base)
    return Spec(text, Kind.ADAPTED if adapters else Kind.CHECKPOINT, base, tuple(adapters))


def locate_spec(spec: Spec) -> Located:
    """The directories that a spec of a checkpoint means.

    Raises:
        BaseError, AdapterError: there is none, or the Hub does not give it.
    """
    base = locate(spec.base, what="model", error=BaseError)
    adapters = ((locate(name, what="adapter", error=AdapterError), weight) for name, weight in spec.adapters)
    return Located(base, tuple(adapters))


def _leading(
    fields: Sequence[str], existing: Callable[[str], Part | None], otherwise: Callable[[str], Part]
) -> tuple[Part, Sequence[str]]:
    """The first part, and the fields after it: as many fields as name an existing directory, else one field."""
    for count in range(len(fields), 0, -1):
        found = existing("+".join(fields[:count]))
        if found is not None:
            return found, fields[count:]
    return otherwise(fields[0]), fields[1:]


def _existing_base(text: str) -> str | None:
    path = Path(text).expanduser()
    return text if _is_directory(text) or (means_gguf(path) and path.is_file()) else None


def _existing_adapter(text: str) -> tuple[str, float] | None:
    name, _, number = text.rpartition("=")
    cut = NUMBER.fullmatch(number) and _is_directory(name)
    return parse_adapter(text) if cut or _is_directory(text) else None


def _is_directory(text: str) -> bool:
    return bool(text.strip()) and Path(text).expanduser().is_dir()


def _weighted(name: str, weight: float) -> str:
    return name if weight == 1.0 else f"{name}={weight:g}"
