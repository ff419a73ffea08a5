"""The general keys of a GGUF: what it is, what it was made of, and by what.

Source: the GGUF specification of ggml-org/ggml, "General metadata". The record beside the file has its digest, so the
file cannot have the record's: it has the digest of the plan, which the record holds too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ingot.plan.model import AdapterInfo, BaseInfo, Plan
from ingot.plan.public import is_hub_id, public_name
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.version import __version__

if TYPE_CHECKING:
    from gguf import GGUFWriter

_HUB = "https://huggingface.co/"


def add_metadata(writer: GGUFWriter, plan: Plan, name: str, tensors: Sequence[GgufTensor]) -> None:
    """Add `general.*` and `ingot.*`. `name` is the model's, without format or extension."""
    from gguf import GGUFType

    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(_size_label(tensors))
    parents: list[BaseInfo | AdapterInfo] = [plan.base, *plan.adapters]
    writer.add_base_model_count(len(parents))
    for number, parent in enumerate(parents):
        _add_parent(writer, number, parent)
    writer.add_quantized_by(f"ingot {__version__}")
    writer.add_string("ingot.plan_digest", plan.digest)
    if plan.adapters:
        writer.add_array("ingot.adapter_weights", [float(info.weight) for info in plan.adapters])


def _add_parent(writer: GGUFWriter, number: int, parent: BaseInfo | AdapterInfo) -> None:
    public = public_name(parent.name)
    organization, _, short = public.rpartition("/")
    writer.add_base_model_name(number, short)
    if parent.commit or parent.revision:
        writer.add_base_model_version(number, str(parent.commit or parent.revision))
    if is_hub_id(public):
        writer.add_base_model_organization(number, organization)
        writer.add_base_model_repo_url(number, f"{_HUB}{public}")


def _size_label(tensors: Sequence[GgufTensor]) -> str:
    """Such as 8B or 8x7B, by the library's rule."""
    from gguf.utility import size_label

    experts = [tensor for tensor in tensors if "_exps." in tensor.name and len(tensor.shape) == 3]
    count = experts[0].shape[0] if experts else 0
    total = sum(math.prod(tensor.shape) for tensor in tensors)
    inside = sum(math.prod(tensor.shape) for tensor in experts)
    return str(size_label(total, total - inside, inside // count if count else 0, count))
