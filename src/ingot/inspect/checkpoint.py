"""A model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef
from ingot.inspect.report import Report, by_pattern, dtypes, dtypes_text
from ingot.plan.figures import counted, listed, nbytes_text, parameters_text, shape_text

_MOST_BIGGEST = 5
_HEADS = ("lm_head.weight", "output.weight", "embed_out.weight")


def inspect_checkpoint(path: Path) -> Report:
    """The report of a model directory. Raises as `Checkpoint.open`."""
    checkpoint = Checkpoint.open(locate(str(path), what="model", error=BaseError))
    try:
        return _report(checkpoint)
    finally:
        checkpoint.close()


def _report(checkpoint: Checkpoint) -> Report:
    tensors = list(checkpoint.stored.values())
    counts = dtypes(tensors)
    decoded, not_decoded = _decoded(checkpoint)
    patterns, rows = by_pattern(tensors)
    config, where = checkpoint.config, checkpoint.location
    biggest = sorted(tensors, key=lambda ref: -ref.nbytes)[:_MOST_BIGGEST]
    facts: dict[str, object] = {
        "name": where.name,
        "commit": where.commit,
        "architectures": config.get("architectures"),
        "model_type": config.get("model_type"),
        "parameters": sum(one.numel for one in (tensors if decoded is None else checkpoint.tensors.values())),
        "tensors": len(tensors),
        "nbytes": checkpoint.nbytes,
        "dtypes": counts,
        "shards": [
            {"file": name, "nbytes": header.file_nbytes, "tensors": len(header.tensors)}
            for name, header in checkpoint.shards.items()
        ],
        "tied": _tied(config, checkpoint.stored),
        "quantization": _quantization(config),
        "decoded": decoded,
        "not_decoded": not_decoded,
        "side_files": list(checkpoint.side_files),
        "biggest": [
            {"name": ref.name, "dtype": ref.dtype, "shape": list(ref.shape), "nbytes": ref.nbytes} for ref in biggest
        ],
        "groups": patterns,
    }
    return Report("checkpoint", facts, _pairs(checkpoint, facts, counts, biggest), (("Groups", rows),))


def _pairs(
    checkpoint: Checkpoint, facts: Mapping[str, object], counts: dict[str, int], biggest: list[TensorRef]
) -> tuple[tuple[str, str | list[str]], ...]:
    where = checkpoint.location
    architectures = facts["architectures"]
    kind = ", ".join(map(str, architectures)) if isinstance(architectures, list) else str(facts["model_type"])
    parameters = facts["parameters"] if isinstance(facts["parameters"], int) else 0
    size = f"{counted(len(checkpoint.shards), 'shard')}, {counted(len(checkpoint.stored), 'tensor')}"
    return (
        ("Model", f"{where.name} ({kind})" + (f", commit {where.commit[:12]}" if where.commit else "")),
        ("Size", f"{parameters_text(parameters)} parameters in {size}, {nbytes_text(checkpoint.nbytes)}"),
        ("Dtypes", dtypes_text(counts)),
        ("Quantized", _quantized_text(facts)),
        ("Head", _HEAD_TEXT[facts["tied"] if isinstance(facts["tied"], bool) else None]),
        ("Files", listed(checkpoint.side_files, 12) or "none beside config.json"),
        ("Biggest", [f"{ref.name} {shape_text(ref.shape)} {ref.dtype}, {nbytes_text(ref.nbytes)}" for ref in biggest]),
    )


def _quantized_text(facts: Mapping[str, object]) -> str:
    decoded, method = facts["decoded"], facts["quantization"]
    if isinstance(decoded, Mapping):
        formats = ", ".join(f"{title} ({number})" for title, number in decoded.items())
        return f"by {method}: {formats}; a merge decodes them"
    return f"by {method}, and not decoded: {facts['not_decoded']}" if method else "no"


_HEAD_TEXT = {
    True: "tied to the input embedding: one tensor on disk",
    False: "a tensor of its own",
    None: "none of a known name",
}


def _tied(config: Mapping[str, object], tensors: Mapping[str, TensorRef]) -> bool | None:
    """Whether the output head is the input embedding; None where neither the config nor the names say."""
    if any(name == head or name.endswith(f".{head}") for name in tensors for head in _HEADS):
        return False
    texts = (config, *(inner for inner in (config.get("text_config"),) if isinstance(inner, Mapping)))
    return True if any(text.get("tie_word_embeddings") is True for text in texts) else None


def _decoded(checkpoint: Checkpoint) -> tuple[dict[str, int] | None, str | None]:
    """Weights by the format that a merge decodes them from, or why it does not; neither where nothing is quantized."""
    try:
        return dict(checkpoint.view.formats) or None, None
    except BaseError as error:
        return None, error.message


def _quantization(config: Mapping[str, object]) -> str | None:
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    return str(found.get("quant_method", "a method that it does not name"))
