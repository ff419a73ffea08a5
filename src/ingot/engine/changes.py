"""The terms of a plan, made ready when a tile first needs them and let go when the run has passed them by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ingot.adapters.terms import Load, Needs, Tiles
from ingot.checkpoint.quantized.encoded import Source
from ingot.combine.combined import Combined
from ingot.combine.running import Found, Running
from ingot.engine.blocks import Block, blocks_of
from ingot.kernels.dtypes import as_tensor
from ingot.kernels.feedback import Preserve, Subspace
from ingot.kernels.grid import TileGrid
from ingot.kernels.rounding import Round, Stochastic, nearest
from ingot.kernels.tile import BlockChange, apply_changes
from ingot.naming.placement import Placement
from ingot.plan.model import Op, PlacedTerm, Rounding

#: Prepared factors that are kept; the ones in use by a worker live as long as it needs them.
KEPT_NBYTES = 16 << 20
#: Terms that took a look at a whole matrix are dear to make again: so many are kept, whatever their size.
KEPT_WHOLES = 2

#: Elements [first, last) of a base's tensor, in the dtype that it is shown in.
ReadSource = Callable[[Source, int, int], memoryview]
#: The op's name, what was made of it, and its number.
Key = tuple[str, str, int]


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None


@dataclass(frozen=True)
class _TermTiles:
    """See `Tiles`."""

    own: Callable[[int, int | None], Iterator[tuple[int, torch.Tensor]]]
    others: Callable[[str], Iterator[tuple[int, int, torch.Tensor]]]

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        return self.own(begin, end)

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        return self.others(parameter)


class Changes:
    """Gives the changes of an op that meet some rows, and how their sum is rounded.

    Each term is prepared once, by the first worker that asks; so is each subspace.
    """

    def __init__(
        self, load: Load, read_source: ReadSource, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype`: what tiles are computed in; `load` must give the same."""
        self._load = load
        self._dtype = dtype
        self._read_source = read_source
        self._device = device
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        self._nbytes: dict[Key, int] = {}
        self._finds: dict[tuple[str, int], _Slot] = {}
        self._blocks: dict[str, tuple[Block, ...]] = {}
        self._lock = threading.Lock()
        self._wholes: OrderedDict[Key, BlockChange] = OrderedDict()
        self._whole = threading.RLock()

    def of(self, op: Op, begin: int, end: int) -> list[BlockChange]:
        """The changes of rows [begin, end) of the op's matrix, in order."""
        return [
            self._change(op, number)
            for number, placed in enumerate(op.terms)
            if placed.rows[0] < end and begin < placed.rows[1]
        ]

    def rounding(self, op: Op, begin: int, end: int) -> Round:
        """How rows [begin, end) of the op's matrix are rounded."""
        if op.rounding is Rounding.STOCHASTIC:
            return Stochastic.of(op.seed, op.name)
        if op.rounding is Rounding.PRESERVE:
            blocks = self._blocks.setdefault(op.name, blocks_of(op))
            meeting = (n for n, block in enumerate(blocks) if block.rows[0] < end and begin < block.rows[1])
            return Preserve(tuple(self._subspace(op, blocks[n], n) for n in meeting))
        return nearest

    def _change(self, op: Op, number: int) -> BlockChange:
        placed = op.terms[number]

        def prepare() -> tuple[BlockChange, int]:
            tiles = self.tiles(op, number)
            if isinstance(placed.term, Combined):
                running = placed.term.running(self._load, tiles)
                apply = running.changing(self._found(op, number, running))
            else:
                apply = placed.term.prepare(self._load, tiles)
            elements = sum(torch.Size(f.shape).numel() for f in placed.term.factors())
            nbytes = self._dtype.itemsize * elements + getattr(placed.term, "kept_nbytes", 0)
            return BlockChange(placed.rows, placed.columns, apply), nbytes

        # subtle: who looks at tiles may need an earlier term of the op, and must then hold the lock of that one first
        wholes = any(earlier.term.needs is Needs.WHOLE for earlier in op.terms[: number + 1])
        if wholes and placed.term.needs is not Needs.TILE:
            return self._made_alone((op.name, "change", number), lambda: prepare()[0])
        change: BlockChange = self._made((op.name, "change", number), prepare)
        return change

    def _made_alone(self, key: Key, make: Callable[[], BlockChange]) -> BlockChange:
        """Made by one worker at a time: the plan's budget has room for one matrix and what its decomposition takes."""
        ready = self._wholes.get(key)
        if ready is None:
            with self._whole:
                ready = self._wholes.get(key)
                if ready is None:
                    ready = self._wholes[key] = make()
                    while len(self._wholes) > KEPT_WHOLES:
                        self._wholes.popitem(last=False)
        return ready

    def tiles(self, op: Op, number: int) -> Tiles:
        """What term `number` of an op may see of the base, all terms before it applied."""
        return _TermTiles(partial(self._tiles, op, number), partial(self._beside, op.terms[number]))

    def _found(self, op: Op, number: int, running: Running) -> Found:
        """What took passes over a whole tensor to find is kept for the whole run: it is some numbers."""
        with self._lock:
            slot = self._finds.setdefault((op.name, number), _Slot())
        with slot.lock:
            if slot.value is None:
                slot.value = running.find()
            found: Found = slot.value
            return found

    def _subspace(self, op: Op, block: Block, number: int) -> Subspace:
        def prepare() -> tuple[Subspace, int]:
            space = Subspace.of(block.rows, block.columns, block.factor(self._load))
            return space, space.basis.nbytes

        space: Subspace = self._made((op.name, "subspace", number), prepare)
        return space

    def _made(self, key: Key, make: Callable[[], tuple[Any, int]]) -> Any:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.value is None:
                slot.value, nbytes = make()
                self._keep(key, nbytes)
            return slot.value

    def _keep(self, key: Key, nbytes: int) -> None:
        with self._lock:
            self._nbytes[key] = nbytes
            for old in list(self._slots):
                if sum(self._nbytes.values()) <= KEPT_NBYTES or old == key:
                    break
                if old in self._nbytes:  # one that is still being prepared is not there yet
                    del self._slots[old], self._nbytes[old]

    def _tiles(self, op: Op, number: int, first: int, last: int | None) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows [first, last) of term `number`'s matrix as tiles, with all terms before it applied."""
        placed = op.terms[number]
        rows, columns = op.view
        grid = TileGrid(rows, columns)
        top = placed.rows[0] + first
        bottom = placed.rows[1] if last is None else placed.rows[0] + last
        for tile in grid.over(top * columns, bottom * columns):
            begin, end = grid.rows_of(tile)
            stored = self.source_rows(op, begin, end)
            if stored is None:
                weight = torch.zeros(end - begin, columns, dtype=self._dtype, device=self._device)
            else:
                weight = stored.to(self._device, self._dtype)
            earlier = [self._change(op, n) for n in range(number)]
            apply_changes(weight, begin, [change for change in earlier if change.meets(begin, end)])
            start, stop = max(begin, top), min(end, bottom)
            yield start - placed.rows[0], weight[start - begin : stop - begin, placed.columns[0] : placed.columns[1]]

    def _beside(self, placed: PlacedTerm, parameter: str) -> Iterator[tuple[int, int, torch.Tensor]]:
        """The blocks of another parameter of the term's module; see `Tiles.beside`."""
        for ref, place in next(near.blocks for near in placed.beside if near.parameter == parameter):
            yield from self._blocks_of(ref, place)

    def _blocks_of(self, ref: Source, place: Placement) -> Iterator[tuple[int, int, torch.Tensor]]:
        row, column, height, width = place.block
        stack, rows, columns = place.view
        grid = TileGrid(stack * rows, columns)
        for tile in grid.over(row * columns, (row + height) * columns):
            first, last = max(grid.rows_of(tile)[0], row), min(grid.rows_of(tile)[1], row + height)
            raw = self._read_source(ref, first * columns, last * columns)
            stored = as_tensor(raw, ref.dtype, (last - first, columns))[:, column : column + width]
            block = stored.to(self._device, self._dtype)
            if place.transposed:
                yield place.rows[0], place.columns[0] + first - row, block.T
            else:
                yield place.rows[0] + first - row, place.columns[0], block

    def source_rows(self, op: Op, begin: int, end: int) -> torch.Tensor | None:
        """Rows [begin, end) of the base's tensor as it is shown; None where the op's first term brings all of it."""
        if op.source is None or op.from_adapter:
            return None
        columns = op.view[1]
        raw = self._read_source(op.source, begin * columns, end * columns)
        return as_tensor(raw, op.source.dtype, (end - begin, columns))
