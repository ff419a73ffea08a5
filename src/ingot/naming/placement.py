"""Where the parameters of a model stand in its checkpoint files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.adapters.module import Module


@dataclass(frozen=True, slots=True)
class Placement:
    """A block of a parameter in memory, and the block of a tensor on disk that holds it.

    The parameter is seen as `Module.view` shows it, a stack of matrices. The block is
    memory[index][rows[0]:rows[1], columns[0]:columns[1]]. On disk it stands in `tensor`, seen as `view` = (N, rows,
    columns), in matrix `disk_index`, its first element at (`disk_row`, `disk_column`), as its transpose where
    `transposed`.
    """

    tensor: str
    view: tuple[int, int, int]
    index: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    disk_index: int = 0
    disk_row: int = 0
    disk_column: int = 0
    transposed: bool = False

    @property
    def block(self) -> tuple[int, int, int, int]:
        """The block on disk in the tensor's linear rows: (row, column, rows, columns)."""
        height, width = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        if self.transposed:
            height, width = width, height
        return (self.disk_index * self.view[1] + self.disk_row, self.disk_column, height, width)


@dataclass(frozen=True)
class Site:
    """A module and where each of its parameters stands.

    Laws: the placements of a parameter cover it exactly once. A parameter without a tensor on disk has no key in
    `placements`; where it is a tied alias, `aliases` has the full name of the parameter that is stored in its stead,
    and where it has no key there either, it is new to the checkpoint (the head of another task).
    """

    module: Module
    placements: Mapping[str, tuple[Placement, ...]]
    aliases: Mapping[str, str]
