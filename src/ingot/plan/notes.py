"""What a person should know of a plan although it is allowed: notes, and warnings where the result may disappoint."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.adapters.experts import ParametersUpdate
from ingot.adapters.parsing import method_of
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.naming import Names
from ingot.plan.base_as import BaseAs
from ingot.plan.model import ShardPlan
from ingot.plan.resolve import ResolvedEdit, Weighted
from ingot.plan.ties import Ties

#: Names that say that the base in training was quantized, so that the adapter was fitted to other weights.
_QUANTIZED = ("bnb-4bit", "bnb-8bit", "-4bit", "-8bit", "-gptq", "-awq", "-int4", "-fp8")


def _claims_quantized(base: str | None) -> bool:
    """Whether the name of an adapter's base says that it was quantized."""
    return base is not None and any(mark in base.lower() for mark in _QUANTIZED)


def claims_4bit(base: str | None) -> bool:
    """Whether that name says that it was quantized to 4 bits, as bitsandbytes does."""
    return base is not None and "-4bit" in base.lower()


def notes_and_warnings(
    base: Checkpoint,
    adapters: Sequence[Weighted],
    edits: Sequence[ResolvedEdit],
    shards: Sequence[ShardPlan],
    ties: Ties,
    names: Names,
    base_as: str,
) -> tuple[list[str], list[str]]:
    """(notes, warnings), each a whole sentence."""
    notes, warnings = [], []
    for alias, source in ties.untied.items():
        notes.append(f"{alias} was tied to {source}; the adapter changes one of them, so the output stores both.")
    for alias in ties.parted:
        notes.append(
            f"{alias} is tied by the config and stored as well; it now differs, so the output says it is not tied."
        )
    if ties.absorbed:
        notes.append("Embedding and head stay tied: the adapter changes both in the same way, applied once.")
    rewritten = [shard.file for shard in shards if shard.source is None]
    if rewritten:
        notes.append(
            f"{len(rewritten)} of {len(shards)} shards get a new header: names, dtypes or shapes change in them."
        )
    if names.model_class is None:
        notes.append(f"No model class: {names.why}. Module paths were taken for tensor names.")
    doubled = [item for item in edits if item.update.__class__.__name__ == "MultiheadUpdate"]
    if doubled:
        notes.append("nn.MultiheadAttention: out_proj's update counts twice, as PEFT trains and merges it.")
    stacks = [item for item in edits if isinstance(item.update, ParametersUpdate) and item.edit.index]
    if stacks:
        blocks = isinstance(stacks[0].update, ParametersUpdate) and stacks[0].update.config.expert_blocks
        notes.append(
            "Expert stacks: lora_B is read as "
            + ("one block for each expert, as Unsloth trained it." if blocks else "PEFT saves it (--expert-layout).")
        )
    for weighted in adapters:
        method = method_of(weighted.adapter.config)
        if method is not None and method.caution:
            warnings.append(method.caution)
        claimed = weighted.adapter.base_model
        if _claims_quantized(claimed) and not base.view.formats and base_as == BaseAs.STORED:
            way = " Or merge onto what it was trained on: --base-as nf4." if claims_4bit(claimed) else ""
            warnings.append(
                f"{weighted.location.name} was trained on a quantized base ({claimed}); merged into 16-bit weights it "
                f"meets other values than in training. Check its scores before you ship it.{way}"
            )
        if claimed and claimed.rpartition("/")[2].lower() != base.location.name.rpartition("/")[2].lower():
            notes.append(f"{weighted.location.name} names {claimed} as its base; here it is {base.location.name}.")
    return notes, warnings
