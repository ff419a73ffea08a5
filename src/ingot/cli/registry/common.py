"""What the verbs of `ingot registry` share: which registry, which artifact, and how one is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.framework import RUN, Option
from ingot.errors import UsageError
from ingot.plan.figures import LABEL_WIDTH, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.output import Output
    from ingot.registry.entry import Entry
    from ingot.registry.store import Registry

REF = ("REF", "A name, a tag, the beginning of an identity or of a file's sha256, or a path.")
#: Digits of a digest that people are shown: enough to name it with.
SHOWN = 12


def registry_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--registry"""
    return click.option(
        "--registry", "place", cls=Option, group=RUN, metavar="DIR", callback=_place,
        help="Where the registry is; default: $INGOT_REGISTRY, else ~/.local/share/ingot/registry.",
    )(function)  # fmt: skip


def _place(_context: click.Context, _option: click.Parameter, text: str | None) -> Path | None:
    if text is not None and (not text.strip() or "\0" in text):
        raise UsageError("--registry: DIR is empty", found=repr(text))
    return None if text is None else Path(text).expanduser()


def opened(place: Path | None, *, create: bool = False) -> Registry:
    """The registry; records in it that cannot be read are warned of by `warn_of_faults`."""
    from ingot.registry.store import Registry

    return Registry.open(place, create=create)


def warn_of_faults(output: Output, registry: Registry) -> None:
    """Of what was left out of the last look, so that nothing is missing without a word."""
    for path, why in sorted(registry.faults.items()):
        output.warn(f"{path}: left out: {why}")
    damaged = registry.tags().damaged
    if damaged:
        output.warn(f"{registry.layout.tags}: line {damaged[0]} is damaged, so a tag may be missing")


def found(output: Output, registry: Registry, ref: str) -> Entry:
    """The artifact that `ref` means. Raises UsageError."""
    from ingot.registry.resolve import find

    checked_ref(ref)
    try:
        return find(registry, ref)
    finally:  # also where it was not found: it may be what was left out
        warn_of_faults(output, registry)


def checked_ref(ref: str) -> None:
    """Raises UsageError for what can be no name."""
    if not ref.strip() or "\0" in ref:
        raise UsageError("REF is empty", found=repr(ref))


def entry_json(entry: Entry) -> dict[str, object]:
    """An artifact for scripts."""
    import msgspec

    facts = msgspec.to_builtins(entry.facts)
    files = facts.pop("files")
    return {
        "name": entry.name, "state": str(entry.state), "place": entry.place, "tags": list(entry.tags),
        "nbytes": entry.facts.nbytes, **facts,
        "files": [file for file in files if file["role"] == "output"],
        "inputs": [file for file in files if file["role"] != "output"],
    }  # fmt: skip


def line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def size(entry: Entry) -> str:
    return nbytes_text(entry.facts.nbytes)
