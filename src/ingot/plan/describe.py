"""Base and adapters as the plan names them: identity, no paths."""

from __future__ import annotations

import hashlib

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.plan.model import AdapterInfo, BaseInfo, InputFileInfo
from ingot.plan.resolve import Weighted

#: What identifies a weights file before its bytes are read: enough to hold every name, dtype and shape.
_HEAD_NBYTES = 1 << 20


def base_info(base: Checkpoint, model_class: str | None) -> BaseInfo:
    """What identifies the base: name, commit, and the digest of every header."""
    files = tuple(InputFileInfo(name, h.file_nbytes, h.sha256) for name, h in base.shards.items())
    where = base.location
    return BaseInfo(where.name, where.revision, where.commit, model_class, base.config_sha256, files)


def adapter_info(weighted: Weighted) -> AdapterInfo:
    """What identifies an adapter, and the figures that the plan's table shows of it."""
    adapter, config = weighted.adapter, weighted.adapter.config
    weights, config_file = adapter.weights, adapter.config_file
    head = weights.read(0, min(weights.nbytes, _HEAD_NBYTES))
    return AdapterInfo(
        name=weighted.location.name,
        revision=weighted.location.revision,
        commit=weighted.location.commit,
        weight=weighted.weight,
        method=config.title,
        ranks=adapter.ranks,
        alphas=config.alphas,
        peft_version=config.peft_version,
        claimed_base=config.base_model_name_or_path,
        claimed_revision=config.revision,
        config_sha256=hashlib.sha256(config_file.read(0, config_file.nbytes)).hexdigest() if config_file else None,
        files=(InputFileInfo(weights.path.name, weights.nbytes, hashlib.sha256(head).hexdigest()),),
        tensors=len(adapter.tensors),
    )
