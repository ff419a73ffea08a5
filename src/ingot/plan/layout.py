"""From ops to files: the same shards, the same order, and the same header wherever nothing in it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.formats.safetensors import Header, build_header
from ingot.formats.tensor_ref import TensorRef
from ingot.plan.model import Op, ShardPlan


def lay_out(base: Checkpoint, ops: Mapping[str, Sequence[Op]]) -> tuple[ShardPlan, ...]:
    """The output's shards. `ops` lists the ops of each shard, by the base's file name, in file order.

    Laws: a shard whose tensors keep name, dtype, shape and order keeps its header to the byte. A shard that loses all
    its tensors is left out.
    """
    return tuple(_shard(base, file, tuple(ops[file])) for file in base.shards if ops[file])


def _shard(base: Checkpoint, file: str, ops: tuple[Op, ...]) -> ShardPlan:
    header = base.shards[file]
    same = [(op.name, op.dtype, op.shape) for op in ops] == [(r.name, r.dtype, r.shape) for r in header.tensors]
    # subtle: a tensor may keep its place and still be made of another one (a repeated layer), so ask for that too
    if same and all(op.source is None or _in_its_place(op, file) for op in ops):
        raw = base.inputs[file].read(0, header.nbytes)
        return ShardPlan(file, header, raw, ops, source=file)
    raw, new = build_header([(op.name, op.dtype, op.shape) for op in ops], _metadata(header), file=file)
    return ShardPlan(file, new, raw, ops, source=None)


def _in_its_place(op: Op, file: str) -> bool:
    return isinstance(op.source, TensorRef) and (op.source.file, op.source.name) == (file, op.name)


def _metadata(header: Header) -> dict[str, str]:
    return {"format": "pt", **(header.metadata or {})}
