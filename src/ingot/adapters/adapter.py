"""An adapter directory as PEFT saves it, opened and understood: config, updates, and nothing unexplained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ingot.adapters.config import AdapterConfig
from ingot.adapters.edit import Update
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.parsing import group, implied, is_implicit, method_of, parse_config
from ingot.adapters.saved import SavedUpdate, is_embedding
from ingot.adapters.tokens import TokensUpdate
from ingot.adapters.versions import release_of
from ingot.errors import AdapterError, UsageError
from ingot.formats import TensorRef, read_header, read_torch_zip
from ingot.formats.strict_json import loads
from ingot.storage.inputs import InputFile

CONFIG_NAME = "adapter_config.json"
SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
#: Files beside an adapter that belong to the model it was trained as: a tokenizer with new tokens, a chat template.
SIDE_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "preprocessor_config.json",
    "processor_config.json", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
_FOREIGN = {
    "adapters.safetensors": "MLX",
    "pytorch_lora_weights.safetensors": "diffusers",
    "pytorch_adapter.bin": "AdapterHub",
}
_WRAPPED = (ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.EMBEDDING, ModuleKind.CONV, ModuleKind.MULTIHEAD)


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Laws: every tensor of the file is in `tensors` of exactly one update, or shared by the layers of a method, or a key
    of `explained` with the reason why a merge does not need it. Nothing but headers and the config has been read.

    Attributes:
        root: the directory.
        index: its number among the adapters of a plan; its factors carry it.
        weights: the open weights file, which factors are read from.
        side_files: names of the tokenizer and template files beside it.
    """

    root: Path
    index: int
    config: AdapterConfig
    tensors: Mapping[str, TensorRef]
    updates: tuple[Update, ...]
    explained: Mapping[str, str]
    config_file: InputFile
    weights: InputFile
    side_files: tuple[str, ...]

    @classmethod
    def open(
        cls, path: Path, *, adapter_index: int, subfolder: str | None = None, assume_peft_version: str | None = None
    ) -> Adapter:
        """Open and check an adapter directory.

        Args:
            subfolder: where the adapter lies inside `path`: PEFT saves every adapter but `default` under its name.
            assume_peft_version: the release that trained it, where the file says nothing or something wrong.

        Raises:
            AdapterError: no adapter, a broken one, or one of a kind that has no merged form.
            MismatchError: its tensors and its config disagree.
            UnsafeInputError: a file is not what an honest writer makes.
            UsageError: no such subfolder can exist, or no such release.
        """
        root = _root(Path(path), subfolder)
        if assume_peft_version is not None and release_of(assume_peft_version) is None:
            raise UsageError("not a release of PEFT", found=assume_peft_version, expected="a version such as 0.18.1")
        side_files = tuple(name for name in SIDE_FILES if os.path.lexists(root / name))
        with ExitStack() as opened:
            config_file = opened.enter_context(InputFile.open(root, CONFIG_NAME, error=AdapterError))
            config = _read_config(config_file)
            if assume_peft_version is not None:
                config = replace(config, peft_version=assume_peft_version)
            weights = opened.enter_context(InputFile.open(root, _weights_name(root), error=AdapterError))
            tensors = {ref.name: ref for ref in _read_tensors(weights)}
            updates, explained = group(config, tuple(tensors.values()), adapter_index)
            opened.pop_all()
        return cls(root, adapter_index, config, tensors, updates, explained, config_file, weights, side_files)

    @property
    def files(self) -> tuple[InputFile, ...]:
        return (self.config_file, self.weights)

    @property
    def base_model(self) -> str | None:
        """The base model that the adapter claims; PEFT does not check it, and users edit it."""
        return self.config.base_model_name_or_path or None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its low-rank updates, each once, in ascending order."""
        ranks = {getattr(update, "rank", None) for update in self.updates}
        return tuple(sorted(rank for rank in ranks if rank is not None))

    def expects(self, path: str, *, kind: ModuleKind = ModuleKind.UNKNOWN) -> bool:
        """Whether PEFT would have put a layer on the module of this path, spelled as the adapter spells it.

        `kind` is asked for `target_modules: all-linear` alone. Where the config does not say what it targets, it is
        what the file holds.
        """
        targets = self.config.targets(path)
        if targets is not None:
            return targets
        if self.config.target_modules is None:
            return path in self._layer_paths()
        return kind in (ModuleKind.LINEAR, ModuleKind.CONV1D) and not is_embedding(path)

    def wraps(self, module: Module, path: str) -> bool:
        """Whether PEFT would have put a layer on this module of the base, at the path as the adapter spells it."""
        method = method_of(self.config)
        kinds = _WRAPPED if method is None else method.kinds
        return module.kind in kinds and self.expects(path, kind=module.kind)

    def implied(self, paths: Iterable[str]) -> tuple[Update, ...]:
        """The updates that none of its tensors names, where it has one on each of these modules by its config alone."""
        return implied(self.config, tuple(self.tensors.values()), self.index, paths)

    def lacks(self, module: Module, *, path: str | None = None) -> tuple[str, ...]:
        """Names of tensors that PEFT would have saved for this module of the base and that are not in the file.

        Args:
            path: how the adapter spells the module's path, where that differs.
        """
        path = module.path if path is None else path
        missing = []
        method = method_of(self.config)
        if self.wraps(module, path) and path not in self._layer_paths() and not is_implicit(self.config):
            role = "lora_embedding_A" if module.kind is ModuleKind.EMBEDDING else "lora_A.weight"
            missing.append(f"{path}.{role if method is None else method.roles[0]}")
        parameter = any(self.config.targets_parameter(path, name) for name in module.parameters)
        if parameter and path not in self._layer_paths():
            missing.append(f"{path}.lora_A.weight")
        present = {name for update in self.updates if isinstance(update, SavedUpdate) and update.path == path
                   for name, _ in update.parameters}  # fmt: skip
        return (*missing, *(f"{path}.{name}" for name in self._replaced(module, path) if name not in present))

    def _replaced(self, module: Module, path: str) -> tuple[str, ...]:
        """The parameters of a module that the adapter must replace, whichever release saved it."""
        if self.config.saves(path):
            return tuple(module.parameters)
        wrapped = path in self._layer_paths() or (is_implicit(self.config) and self.wraps(module, path))
        biases = (name for name in module.parameters if f".{name}".endswith(".bias"))
        return tuple(name for name in biases if self.config.trains(f"{path}.{name}", wrapped=wrapped))

    def _layer_paths(self) -> frozenset[str]:
        """The modules that have a layer of the method."""
        whole = (SavedUpdate, TokensUpdate)
        return frozenset(update.path for update in self.updates if not isinstance(update, whole))

    def close(self) -> None:
        """Close its files."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _root(path: Path, subfolder: str | None) -> Path:
    """The directory that holds the config."""
    if subfolder is not None:
        if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts:
            raise UsageError("subfolder leaves the adapter's directory", found=subfolder)
        path = path / subfolder
    names = _listing(path)
    if CONFIG_NAME in names:
        return path
    inner = [name for name in names if (path / name / CONFIG_NAME).is_file()]
    if inner:
        shown = ", ".join(inner[:10]) + (", ..." if len(inner) > 10 else "")
        hint = f"Name one of them: `{path / inner[0]}`."
        raise AdapterError("the adapters lie in folders of this directory", where=path, found=shown, hint=hint)
    foreign = _foreign(names)
    tool = f"It holds {foreign}: convert it to PEFT's format with that tool." if foreign else None
    raise AdapterError(f"no {CONFIG_NAME}, so this is no PEFT adapter", where=path, hint=tool)


def _foreign(names: list[str]) -> str | None:
    """The file of another tool among `names`."""
    return next((f"`{name}` of {tool}" for name, tool in _FOREIGN.items() if name in names), None)


def _listing(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError as cause:
        what = f"cannot open the adapter ({(cause.strerror or str(cause)).lower()})"
        raise AdapterError(what, where=path, hint="Give the directory that holds adapter_config.json.") from cause


def _read_config(file: InputFile) -> AdapterConfig:
    raw = loads(file.read(0, file.nbytes), where=CONFIG_NAME, error=AdapterError)
    if not isinstance(raw, dict):
        raise AdapterError("config is no JSON object", where=CONFIG_NAME, found=type(raw).__name__)
    return parse_config(raw, where=CONFIG_NAME)


def _weights_name(root: Path) -> str:
    names = _listing(root)
    for name in (SAFETENSORS_NAME, PICKLE_NAME):
        if name in names:
            return name
        if f"{name}.index.json" in names:
            hint = f"Load it once with PEFT and save it as one {SAFETENSORS_NAME}."
            raise AdapterError("adapter is cut into shards, which is not supported", where=root, hint=hint)
    found = _foreign(names) or "a config alone"
    expected = f"{SAFETENSORS_NAME} or {PICKLE_NAME}"
    raise AdapterError("adapter has no weights", where=root, expected=expected, found=found)


def _read_tensors(file: InputFile) -> tuple[TensorRef, ...]:
    if file.path.name == PICKLE_NAME:
        return read_torch_zip(file.fd, file=PICKLE_NAME, incomplete=AdapterError)
    return read_header(file.fd, file=SAFETENSORS_NAME, incomplete=AdapterError).tensors
