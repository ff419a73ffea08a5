"""ingot.tensors.jsonl: one line for each tensor, in file order, and one for each shard's header.

    {"op": "header", "file", "begin": 0, "end", "sha256"}
    {"op", "name", "dtype", "shape", "file", "begin", "end", "sha256", ...}     op: copy, cast, decode, change, replace,
                                                                               new; quantize in a GGUF
    {"op": "dropped", "name", "reason"}

`[begin, end)` are file offsets. `sha256` is the digest of the *file* from its first byte to `end`, so that one pass
over a damaged file tells which tensor is the first that differs. Changed tensors also have `formulas`, `rounding`, and,
where they apply, `ranks`, `scalings`, and `sampled` and `changed`: elements compared with the base's, and those that
differ. Nothing in it depends on when or where a run took place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Struct

from ingot.errors import CheckFailed
from ingot.formats.strict_json import dumps_canonical, loads
from ingot.record.form import Natural, Sha256

if TYPE_CHECKING:
    from ingot.engine.outcome import Outcome, Stretch
    from ingot.plan.model import Op
    from ingot.storage.inputs import InputFile

TABLE_NAME = "ingot.tensors.jsonl"
#: Room for half a million tensors; some memory of a hostile one.
MAX_TABLE_NBYTES = 256 << 20
_MAX_LINE_NBYTES = 1 << 20
_READ_NBYTES = 1 << 20


class Row(Struct, frozen=True):
    """A stretch of a shard: a tensor, or the header, which has no name."""

    op: str
    file: str
    begin: Natural
    end: Natural
    sha256: Sha256
    name: str = ""
    dtype: str = ""
    shape: tuple[Natural, ...] = ()

    @property
    def title(self) -> str:
        return f"tensor {self.name}" if self.name else "the header"


class Dropped(Struct, frozen=True):
    """A base tensor that the artifact does not have."""

    op: Annotated[str, msgspec.Meta(pattern=r"\Adropped\Z")]
    name: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Rows of each shard by file name, in file order."""

    rows: Mapping[str, tuple[Row, ...]]
    dropped: tuple[Dropped, ...]


def build_table(outcome: Outcome) -> bytes:
    """The table of a run."""
    return b"".join(dumps_canonical(line) + b"\n" for line in _lines(outcome))


def read_table(file: InputFile) -> Table:
    """The table in an open file. Reads it in pieces; keeps its rows.

    Raises:
        CheckFailed: too large, or a line is not of its form.
    """
    rows: dict[str, list[Row]] = {}
    dropped: list[Dropped] = []
    for number, line in enumerate(_split(file), start=1):
        where = f"line {number} of {TABLE_NAME}"
        value = loads(line, where=where, error=CheckFailed)
        try:
            if isinstance(value, dict) and value.get("op") == "dropped":
                dropped.append(msgspec.convert(value, Dropped))
            else:
                row = msgspec.convert(value, Row)
                rows.setdefault(row.file, []).append(row)
        except msgspec.ValidationError as cause:
            raise CheckFailed("a line of the tensor table is not of its form", where=where, found=cause) from cause
    for name, of_file in rows.items():
        _check_tiling(name, of_file)
    return Table({name: tuple(of_file) for name, of_file in rows.items()}, tuple(dropped))


def _lines(outcome: Outcome) -> Iterator[dict[str, object]]:
    plan = outcome.plan
    for shard in plan.shards if not outcome.stretches else ():
        header = shard.header
        yield {"op": "header", "file": shard.file, "begin": 0, "end": header.nbytes, "sha256": header.sha256}
        for ref, op, running in zip(header.tensors, shard.ops, outcome.running[shard.file], strict=True):
            yield {
                "op": str(op.kind), "name": ref.name, "dtype": ref.dtype, "shape": list(ref.shape),
                "file": shard.file, "begin": ref.begin, "end": ref.end, "sha256": running,
                **_summary(op), **_sampled(outcome, op),
            }  # fmt: skip
    for file, stretches in outcome.stretches.items():
        yield from ({"file": file, **_stretch(stretch)} for stretch in stretches)
    for name, reason in sorted(plan.dropped.items()):
        yield {"op": "dropped", "name": name, "reason": reason}


def _stretch(stretch: Stretch) -> dict[str, object]:
    own = {} if not stretch.name else {"name": stretch.name, "dtype": stretch.dtype, "shape": list(stretch.shape)}
    return {"op": stretch.op, **own, "begin": stretch.begin, "end": stretch.end, "sha256": stretch.sha256}


def _summary(op: Op) -> dict[str, object]:
    """What the terms are, each value once: a stack of experts has as many terms as experts."""
    if not op.terms:
        return {}
    terms = [getattr(placed.term, "update", placed.term) for placed in op.terms]
    shown: dict[str, object] = {"formulas": list(dict.fromkeys(placed.term.formula for placed in op.terms))}
    shown["rounding"] = str(op.rounding)
    ranks = sorted({rank for term in terms if (rank := getattr(term, "rank", None)) is not None})
    scalings = sorted({float(term.scaling) for term in terms if hasattr(term, "scaling")})
    return {**shown, **({"ranks": ranks} if ranks else {}), **({"scalings": scalings} if scalings else {})}


def _sampled(outcome: Outcome, op: Op) -> dict[str, object]:
    seen = outcome.sampled.get(op.name)
    return {} if seen is None else {"sampled": seen.seen, "changed": seen.changed}


def _split(file: InputFile) -> Iterator[bytes]:
    if file.nbytes > MAX_TABLE_NBYTES:
        raise CheckFailed("the tensor table is too large", where=TABLE_NAME,
                          expected=f"at most {MAX_TABLE_NBYTES} bytes", found=file.nbytes)  # fmt: skip
    rest = b""
    for begin in range(0, file.nbytes, _READ_NBYTES):
        lines = (rest + file.read(begin, min(_READ_NBYTES, file.nbytes - begin))).split(b"\n")
        rest = lines.pop()
        yield from lines
        if len(rest) > _MAX_LINE_NBYTES:
            raise CheckFailed("a line of the tensor table is too long", where=TABLE_NAME)
    if rest:
        raise CheckFailed("the tensor table does not end with a line's end", where=TABLE_NAME)


def _check_tiling(file: str, rows: Sequence[Row]) -> None:
    """Raises CheckFailed unless the header comes first and the rows follow one another without a gap."""
    end = 0
    for row in rows:
        if row.begin != end or row.end < row.begin or (row.op == "header") != (row.begin == 0 and not row.name):
            raise CheckFailed("rows of the tensor table do not follow one another", where=f"{row.title} in {file}",
                              expected=f"byte {end}", found=f"[{row.begin}, {row.end})")  # fmt: skip
        end = row.end


def first_damaged(file: InputFile, rows: Sequence[Row], tick: Callable[[int], None]) -> Row | None:
    """The first row whose bytes are not as written; None when all of `file` up to the last row is.

    `tick` is told of every number of bytes before they are read, and may raise.
    """
    digest = hashlib.sha256()
    for row in rows:
        for begin in range(row.begin, min(row.end, file.nbytes), _READ_NBYTES):
            nbytes = min(row.end, file.nbytes, begin + _READ_NBYTES) - begin
            tick(nbytes)
            digest.update(file.read(begin, nbytes))
        if digest.hexdigest() != row.sha256:
            return row
    return None
