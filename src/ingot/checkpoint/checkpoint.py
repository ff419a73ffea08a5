"""A base checkpoint on disk: headers, index and config, read strictly; not one weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from ingot.checkpoint.locate import Location
from ingot.checkpoint.quantized.detect import DenseView, dense_view
from ingot.checkpoint.quantized.encoded import Source
from ingot.checkpoint.side_files import group_of
from ingot.errors import BaseError, UnsafeInputError
from ingot.formats.index import ShardIndex, check_agreement, check_file_name, parse_index
from ingot.formats.safetensors import Header, read_header
from ingot.formats.strict_json import loads
from ingot.formats.tensor_ref import TensorRef
from ingot.storage.inputs import InputFile

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
#: Diffusers' names for the same two, as its components (transformer, unet) are stored.
_ALTERNATIVES = (
    (SINGLE_FILE, INDEX_FILE),
    ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
)


@dataclass(frozen=True)
class Checkpoint:
    """Shards in index order, their tensors in file order, and the parsed config.

    `stored` is what lies on disk; `view` and `tensors` show the weights of a quantized one as dense tensors.

    Attributes:
        location: where it came from.
        shards: header of each shard by file name, sorted by name.
        index_name: file name of the index, None where there is a single file.
        index: the parsed index.
        config: config.json, parsed.
        config_sha256: digest of config.json's bytes.
        inputs: the open files, by name: shards, config.json, the index, and the side files.
        side_files: names of the other files that travel with the model.
    """

    location: Location
    shards: Mapping[str, Header]
    index_name: str | None
    index: ShardIndex | None
    config: Mapping[str, object]
    config_sha256: str
    inputs: Mapping[str, InputFile]
    side_files: tuple[str, ...]

    @cached_property
    def stored(self) -> Mapping[str, TensorRef]:
        """Every tensor on disk by name, in the order of shards and offsets."""
        return MappingProxyType({ref.name: ref for header in self.shards.values() for ref in header.tensors})

    @cached_property
    def view(self) -> DenseView:
        """What the checkpoint shows: a quantized one, its weights decoded.

        Raises:
            BaseError: it is quantized in a way that is not understood.
        """
        refs = {file: header.tensors for file, header in self.shards.items()}
        return dense_view(refs, self.config, lambda ref: self.inputs[ref.file].read(ref.begin, ref.nbytes))

    @cached_property
    def tensors(self) -> Mapping[str, Source]:
        """Every tensor of the view by name, in the order of shards and offsets. Raises as `view`."""
        return MappingProxyType({one.name: one for sources in self.view.shards.values() for one in sources})

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(header.file_nbytes for header in self.shards.values())

    def close(self) -> None:
        for file in self.inputs.values():
            file.close()

    @classmethod
    def open(cls, location: Location) -> Checkpoint:
        """Read the headers of a checkpoint directory.

        Raises:
            BaseError: a file is missing or incomplete, or index and shards disagree.
            UnsafeInputError: a name, link or header that no honest writer makes.
        """
        names, index_name, index_file, index = _shard_names(location)
        config_file = _open(location, "config.json", "a model directory has a config.json")
        config_bytes = config_file.read(0, config_file.nbytes)
        config = loads(config_bytes, where="config.json", error=BaseError)
        if not isinstance(config, dict):
            raise BaseError("config.json is not an object", where="config.json", found=type(config).__name__)
        files = {name: _open(location, name, "the index names it") for name in names}
        shards = {name: read_header(file.fd, file=name, incomplete=BaseError) for name, file in files.items()}
        if index is not None:
            check_agreement(index, shards)
        inputs = {**files, "config.json": config_file}
        if index_name is not None and index_file is not None:
            inputs[index_name] = index_file
        side_files = tuple(sorted(path.name for path in location.path.iterdir() if _travels(path)))
        inputs |= {name: InputFile.open(location.path, name, error=BaseError) for name in side_files}
        digest = hashlib.sha256(config_bytes).hexdigest()
        return cls(location, shards, index_name, index, config, digest, inputs, side_files)


def _travels(path: Path) -> bool:
    """Whether this is a side file. What only looks like one, such as a link to nothing, is one that will be refused.

    Folders like LICENSES/ are left; one that is called tokenizer.json is not passed over in silence.
    """
    return group_of(path.name) is not None and (bool(path.suffix) or not path.is_dir())


def _open(location: Location, name: str, why: str) -> InputFile:
    check_file_name(name, where=name)
    if not (location.path / name).exists():
        raise BaseError(
            f"a file is missing: {why}", where=location.path / name, hint="Download the checkpoint again, completely."
        )
    return InputFile.open(location.path, name, error=BaseError)


def _shard_names(location: Location) -> tuple[list[str], str | None, InputFile | None, ShardIndex | None]:
    for single, index_name in _ALTERNATIVES:
        if (location.path / index_name).exists():
            file = InputFile.open(location.path, index_name, error=BaseError)
            index = parse_index(file.read(0, file.nbytes), where=index_name)
            return sorted(set(index.weight_map.values())), index_name, file, index
        if (location.path / single).exists():
            return [single], None, None, None
    raise _no_weights(location)


def _no_weights(location: Location) -> BaseError | UnsafeInputError:
    present = {path.name for path in location.path.iterdir()}
    if present & {"adapter_config.json", "adapter_model.safetensors"}:
        return BaseError("this is an adapter, not a base", where=location.name, hint="Give BASE first, then ADAPTER.")
    if any(name.startswith("pytorch_model") for name in present):
        return BaseError(
            "the checkpoint has its weights as pickles only",
            where=location.name,
            expected=SINGLE_FILE,
            found="pytorch_model*.bin",
            hint="Load it with transformers where you trust it, and save it again: save_pretrained writes safetensors.",
        )
    return BaseError("no weights are here", where=location.name, expected=f"{SINGLE_FILE} or {INDEX_FILE}")
