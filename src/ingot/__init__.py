"""ingot: a base model and its LoRA adapters in, the checkpoint that is served out.

    base ──► checkpoint ─┐
                         ├─► naming ─► plan ─► engine ─► shards ─► record (card, verify) ─► registry
    adapters ─► adapters ┘              (kernels: the formula)

Rooms, from left to right; each imports only what stands before it (tests/test_rooms.py):

    errors       every refusal, with its exit code
    formats      bytes <-> headers, strictly
    storage      the only code that creates, syncs, renames and locks files
    kernels      W + Σ s · B @ A on a tile; one rounding
    checkpoint   a base as named tensors
    adapters     an adapter directory as updates, edits and terms
    naming       module path -> where it stands on disk
    plan         what will be written, as data
    engine       the pump
    record       what was made, of what, how, and is it still so?
    merge        the main job
    registry     many artifacts: what there is, where it came from, what may go, and back again
    release      a recipe in, traceable artifacts out; inspect, doctor, demo, cli: what people type

A merge from Python:

    from ingot import Options, prepare
    with prepare("base/", [("adapter/", 1.0)], Options(dtype="BF16"), target=Path("out")) as job:
        print(job.plan.digest)
        outcome = job.run()

And a check of it:

    from ingot import verify
    assert verify(Path("out"), depth="read").ok

Everything that is named here is stable; everything else may move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ingot.errors import IngotError
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.merge import Job, prepare
    from ingot.plan.model import Options, Plan
    from ingot.record import read_record, verify

__all__ = ["IngotError", "Job", "Options", "Plan", "__version__", "prepare", "read_record", "verify"]

#: Imported when first asked for, so that `ingot --help` imports no torch.
_LAZY = {
    "Job": "ingot.merge",
    "prepare": "ingot.merge",
    "Options": "ingot.plan.model",
    "Plan": "ingot.plan.model",
    "read_record": "ingot.record",
    "verify": "ingot.record",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'ingot' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
