"""What an inspection found, for programs and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ingot.formats.tensor_ref import TensorRef
from ingot.plan.figures import collapse, labelled, nbytes_text, shape_text, table


@dataclass(frozen=True)
class Report:
    """`facts` are JSON types; `pairs` are labels with texts, `tables` headings with rows (header row first)."""

    kind: str
    facts: dict[str, object]
    pairs: tuple[tuple[str, str | Sequence[str]], ...]
    tables: tuple[tuple[str, Sequence[tuple[str, ...]]], ...] = ()

    def as_lines(self, width: int) -> list[str]:
        """The report as text; the first column of a table is left-aligned, the others right."""
        lines: list[str] = []
        for label, texts in self.pairs:
            lines += labelled(label, [texts] if isinstance(texts, str) else texts, width)
        for heading, rows in self.tables:
            if len(rows) > 1:
                lines += ["", heading, *table(rows, width, align="<" + ">" * (len(rows[0]) - 1))]
        return lines


def by_pattern(
    tensors: Iterable[TensorRef], pattern_of: Callable[[str], str] = collapse
) -> tuple[list[dict[str, object]], list[tuple[str, ...]]]:
    """Tensors of one shape and dtype whose names differ in numbers only: as facts, and as rows under a header row."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[TensorRef]] = {}
    for ref in tensors:
        groups.setdefault((pattern_of(ref.name), ref.dtype, ref.shape), []).append(ref)
    facts: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = [("tensor", "", "shape", "dtype", "bytes")]
    for (pattern, dtype, shape), refs in groups.items():
        nbytes = sum(ref.nbytes for ref in refs)
        name = pattern if len(refs) > 1 else refs[0].name
        facts.append({"pattern": name, "count": len(refs), "dtype": dtype, "shape": list(shape), "nbytes": nbytes})
        rows.append((name, f"×{len(refs)}" if len(refs) > 1 else "", shape_text(shape), dtype, nbytes_text(nbytes)))
    return facts, rows


def dtypes(tensors: Iterable[TensorRef]) -> dict[str, int]:
    """Number of elements of each dtype, the most frequent first."""
    counts: Counter[str] = Counter()
    for ref in tensors:
        counts[ref.dtype] += ref.numel
    return dict(counts.most_common())


def dtypes_text(counts: dict[str, int]) -> str:
    """Example: {"BF16": 90, "F32": 10} -> "90% BF16, 10% F32" """
    total = sum(counts.values())
    if len(counts) < 2 or not total:
        return ", ".join(counts) or "none"
    return ", ".join(f"{100 * count / total:.3g}% {dtype}" for dtype, count in counts.items())
