"""An adapter as a user names it: ADAPTER, or ADAPTER=WEIGHT."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from ingot.errors import UsageError

#: What can stand behind the `=`.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def parse_adapter(text: str) -> tuple[str, float]:
    """An adapter and its weight, 1 where none is given. A path that exists is never cut at its `=`.

    Raises:
        UsageError: the weight is zero, NaN or infinite, or stands behind an existing path and is no number.

    Examples: "out/lora=0.5" -> ("out/lora", 0.5); "runs/lr=1e-4/final" -> ("runs/lr=1e-4/final", 1.0)
    """
    name, equals, number = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return named(text, "ADAPTER"), 1.0
    if not NUMBER.fullmatch(number):
        if Path(name).expanduser().exists() and name:
            raise UsageError("the weight of an adapter is no number", where=text, found=repr(number))
        return text, 1.0
    weight = float(number)
    if weight == 0 or not math.isfinite(weight):
        what = "a weight of zero changes nothing" if weight == 0 else "the weight of an adapter is not finite"
        raise UsageError(what, where=text, hint="Give ADAPTER=0.5, for example, or leave the adapter out.")
    return named(name, "ADAPTER"), weight


def named(text: str, what: str) -> str:
    """`text` as it is. Raises UsageError when it is empty, which a path would take for the current directory."""
    if not text.strip() or "\0" in text:
        raise UsageError(f"{what} is empty", found=repr(text))
    return text


def number_of(name: str, adapters: Sequence[str]) -> int:
    """Which of the adapters is meant, counted from 1: by its place, as it was typed, or by the end of its path.

    Raises UsageError when none is, or several are.
    """
    if name.isdecimal() and 1 <= int(name) <= len(adapters):
        return int(name)
    for spell in (str, lambda spec: spec.rstrip("/").rpartition("/")[2]):
        meant = [number for number, spec in enumerate(adapters, 1) if spell(spec) == name]
        if len(meant) == 1:
            return meant[0]
    listed = ", ".join(f"{number} ({spec})" for number, spec in enumerate(adapters, 1))
    raise UsageError("--take names none of the adapters, or several", expected=listed, found=repr(name),
                     hint="Give its number.")  # fmt: skip
