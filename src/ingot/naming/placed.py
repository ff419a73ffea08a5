"""A term at its place in a tensor on disk, and what of its module stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.adapters.terms import Term
from ingot.checkpoint.quantized.encoded import Source
from ingot.naming.placement import Placement


@dataclass(frozen=True)
class Beside:
    """A parameter of a term's module that the term must see: the base's tensors that hold it, block by block."""

    parameter: str
    blocks: tuple[tuple[Source, Placement], ...]


@dataclass(frozen=True)
class PlacedTerm:
    """`term` changes rows [rows[0], rows[1]) and columns [columns[0], columns[1]) of a tensor's matrix."""

    term: Term
    rows: tuple[int, int]
    columns: tuple[int, int]
    beside: tuple[Beside, ...] = ()
