"""Numbers, names and tables as people read them in a terminal. Nothing here is coloured."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

#: Width of the column that holds the labels of a page.
LABEL_WIDTH = 11

_NUMBERS = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def nbytes_text(nbytes: float) -> str:
    """Decimal units, three digits or more. Example: nbytes_text(16_060_522_240) -> "16.1 GB" """
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{nbytes:.0f} {'byte' if nbytes == 1 else 'bytes'}"
    return f"{value:.{_decimals(value)}f} {_UNITS[unit]}"


def scaled_text(value: float, unit: str) -> str:
    """With an SI prefix. Example: scaled_text(3.2e12, "FLOP") -> "3.20 TFLOP" """
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5 or prefix == "P":
            break
        value /= 1000
    return f"{value:.{_decimals(value) if prefix else 0}f} {prefix}{unit}"


def parameters_text(number: int) -> str:
    """Example: parameters_text(8_030_261_248) -> "8.03B" """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.{_decimals(number / size)}f}{letter}"
    return f"{number:,}"


def _decimals(value: float) -> int:
    return 2 if value < 9.995 else 1 if value < 99.95 else 0


def seconds_text(seconds: float) -> str:
    """Example: seconds_text(4500) -> "1 h 15 min" """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, noun: str) -> str:
    """Example: counted(1, "tensor") -> "1 tensor", counted(1200, "tensor") -> "1,200 tensors" """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shape_text(shape: Sequence[int]) -> str:
    """Example: shape_text((4096, 11008)) -> "4096×11008" """
    return "×".join(map(str, shape)) or "scalar"


def collapse(name: str) -> str:
    """`name` with the numbers of layers and experts as stars. Example: "model.layers.3.mlp" -> "model.layers.*.mlp" """
    return _NUMBERS.sub("*", name)


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def labelled(label: str, texts: Sequence[str], width: int) -> list[str]:
    """A label and its texts beside it, each text wrapped at `width`. No texts, no lines."""
    lines: list[str] = []
    for text in texts:
        lead = f"{label:<{LABEL_WIDTH}}" if not lines else " " * LABEL_WIDTH
        lines += textwrap.wrap(
            text, max(width, 40), initial_indent=lead, subsequent_indent=" " * LABEL_WIDTH, break_on_hyphens=False
        ) or [lead.rstrip()]
    return lines


def table(rows: Sequence[Sequence[str]], width: int, *, align: str, indent: int = 2) -> list[str]:
    """Rows as aligned columns, at most `width` wide: the first column gives way, its texts cut in the middle.

    Args:
        align: "<" or ">" for each column.
    """
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(align))]
    others = sum(widths[1:]) + 2 * (len(widths) - 1) + indent
    widths[0] = min(widths[0], max(12, width - others))
    lines = []
    for row in rows:
        cells = [f"{elide(cell, size):{side}{size}}" for cell, side, size in zip(row, align, widths, strict=True)]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


def elide(text: str, size: int) -> str:
    """`text` cut in the middle to `size` characters: both ends of a tensor's name say something."""
    if len(text) <= size:
        return text
    tail = (size - 1) * 2 // 3
    return text[: size - 1 - tail] + "…" + text[len(text) - tail :]
