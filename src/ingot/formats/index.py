"""`model.safetensors.index.json`: which shard holds which tensor, and which names may stand for a file.

Source: the layout that `huggingface_hub.split_state_dict_into_shards_factory` documents and transformers reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.errors import BaseError, IngotError, UnsafeInputError
from ingot.formats import strict_json
from ingot.formats.names import check_distinct, check_tensor_name, has_control
from ingot.formats.safetensors import Header

MAX_INDEX_NBYTES = 64 * 2**20
_MAX_FILE_NAME_NBYTES = 255


@dataclass(frozen=True)
class ShardIndex:
    """`weight_map`: tensor name -> shard file name, in file order. `metadata`: as written, `{}` where absent."""

    weight_map: dict[str, str]
    metadata: dict[str, object]

    @property
    def files(self) -> tuple[str, ...]:
        """The shard names, each once, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


def parse_index(
    data: bytes, *, where: str, suffix: str | None = ".safetensors", incomplete: type[IngotError] = BaseError
) -> ShardIndex:
    """The index of a sharded checkpoint. Keys beside `metadata` and `weight_map` are left alone, as every reader does.

    Args:
        where: the index file, for messages.
        suffix: what each shard name must end in; None for any.
        incomplete: raised where the file is no such JSON, as when its download was cut off.

    Raises:
        incomplete: no valid JSON, or not of an index's form.
        UnsafeInputError: a shard name that is no plain file name, or a tensor name that no honest writer gives.
    """
    value = strict_json.loads(data, where=where, max_nbytes=MAX_INDEX_NBYTES, error=incomplete)
    if not isinstance(value, dict) or not isinstance(value.get("weight_map"), dict):
        raise incomplete("shard index has no weight_map", where=where)
    metadata = value.get("metadata", {})
    if not isinstance(metadata, dict):
        raise incomplete("metadata of the shard index is no object", where=where, found=type(metadata).__name__)
    weight_map: dict[str, object] = value["weight_map"]
    for name in weight_map:
        check_tensor_name(name, file=where)
    check_distinct(weight_map, file=where)
    for file in dict.fromkeys(file for file in weight_map.values() if isinstance(file, str)):
        check_file_name(file, where=where, suffix=suffix)
    return ShardIndex({name: _shard_name(name, file, where) for name, file in weight_map.items()}, metadata)


def _shard_name(name: str, file: object, where: str) -> str:
    if not isinstance(file, str):
        raise UnsafeInputError("shard name is no string", where=f"`{name}` in {where}", found=type(file).__name__)
    return file


def check_file_name(name: str, *, where: str, suffix: str | None = None) -> None:
    """Refuse whatever is not a plain, visible name inside the directory, on Linux, macOS and Windows alike.

    Args:
        suffix: what the name must end in, `.safetensors` for a shard; None for any.

    Raises:
        UnsafeInputError: the name holds a separator, a drive or a control character, is hidden, empty, too long, ends
            in a dot or a space, or has another suffix.
    """
    reason = _why_unsafe(name, suffix)
    if reason is not None:
        raise UnsafeInputError(f"file name {reason}", where=where, found=ascii(name[:300]))


def _why_unsafe(name: str, suffix: str | None) -> str | None:
    if not name:
        return "is empty"
    if has_control(name):
        return "holds a control character"
    if any(c in name for c in "/\\:"):
        return "is a path, not a name within the directory"
    if name.startswith("."):
        return "begins with a dot"
    if name[-1] in ". ":
        return "ends in a dot or a space"
    if len(name.encode("utf-8")) > _MAX_FILE_NAME_NBYTES:
        return f"is longer than {_MAX_FILE_NAME_NBYTES} bytes"
    if suffix is not None and not name.endswith(suffix):
        return f"does not end in {suffix}"
    return None


def build_index(weight_map: Mapping[str, str], total_size: int, metadata: Mapping[str, object] | None = None) -> bytes:
    """The index file: `metadata` first, `total_size` leading it, then `weight_map` sorted by tensor name.

    Args:
        total_size: bytes of all tensors, without headers.
        metadata: further fields of `metadata`; a `total_size` among them is replaced.
    """
    rest = {key: item for key, item in (metadata or {}).items() if key != "total_size"}
    return strict_json.dumps_pretty(
        {"metadata": {"total_size": total_size, **rest}, "weight_map": dict(sorted(weight_map.items()))}
    )


def check_agreement(
    index: ShardIndex, headers: Mapping[str, Header], *, incomplete: type[IngotError] = BaseError
) -> None:
    """Prove that index and shards tell of the same tensors.

    Args:
        headers: shard file name -> its header.

    Raises:
        incomplete: a shard is absent, two shards hold one tensor, a shard lacks a tensor that the map places there, or
            holds one that the map does not know.
    """
    holder: dict[str, str] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            other = holder.setdefault(tensor.name, file)
            if other != file:
                raise incomplete("two shards hold one tensor", where=f"`{tensor.name}`", found=f"{other} and {file}")
    for name, file in index.weight_map.items():
        if file not in headers:
            raise incomplete("shard is missing", where=file, expected=f"the shard of `{name}`")
        if holder.get(name) != file:
            found = holder.get(name, "no shard")
            raise incomplete("tensor is not where the index says", where=f"`{name}`", expected=file, found=found)
    for name, file in holder.items():
        if name not in index.weight_map:
            raise incomplete("shard holds a tensor that the index does not know", where=f"`{name}` in {file}")
