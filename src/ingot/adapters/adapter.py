"""An adapter as PEFT or another tool saves it, opened and understood: config, updates, and nothing unexplained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ingot.adapters.config import AdapterConfig
from ingot.adapters.dialects import BaseFacts, Content, Reading, dialect_of, torchtune
from ingot.adapters.dialects.dialect import DialectConfig
from ingot.adapters.dialects.mlx import is_mlx_config
from ingot.adapters.edit import Update
from ingot.adapters.lora_config import LAYOUTS, LoraConfig
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.parsing import group, implied, is_implicit, method_of, parse_config
from ingot.adapters.saved import SavedUpdate, is_embedding
from ingot.adapters.source import CONFIG_NAME, find_root, weights_name
from ingot.adapters.tokens import TokensUpdate
from ingot.adapters.versions import release_of
from ingot.errors import AdapterError, UsageError
from ingot.formats import TensorRef, read_header, read_torch_zip
from ingot.formats.strict_json import loads
from ingot.storage.inputs import InputFile

#: Files beside an adapter that belong to the model it was trained as: a tokenizer with new tokens, a chat template.
SIDE_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt", "preprocessor_config.json",
    "processor_config.json", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
#: How `lora_B` of an expert stack is laid out: as PEFT saves it, or a block for each expert as Unsloth's training did.
EXPERT_LAYOUTS = {"peft": "rank_major", "unsloth": "grouped_by_expert"}
_WRAPPED = (ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.EMBEDDING, ModuleKind.CONV, ModuleKind.MULTIHEAD)


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Laws: every tensor of the file is in `tensors` of an update (of exactly one, except that a stack of experts is
    shared by theirs), or shared by the layers of a method, or a key of `explained` with the reason why a merge does not
    need it. Nothing but headers, the config, and tensors of one number has been read.

    Attributes:
        root: the directory.
        index: its number among the adapters of a plan; its factors carry it.
        config_file: adapter_config.json; None for a dialect that has none.
        weights: the open weights file, which factors are read from.
        side_files: names of the tokenizer and template files beside it.
        components: of a pipeline that it changes, with how many tensors each; empty where there are none.
        fit: see `dialects.Reading`; None where it reads the same for every base.
    """

    root: Path
    index: int
    config: AdapterConfig
    tensors: Mapping[str, TensorRef]
    updates: tuple[Update, ...]
    explained: Mapping[str, str]
    config_file: InputFile | None
    weights: InputFile
    side_files: tuple[str, ...]
    components: Mapping[str, int] = field(default_factory=dict)
    fit: Callable[[BaseFacts, str | None], Reading] | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        adapter_index: int,
        file: str | None = None,
        subfolder: str | None = None,
        assume_peft_version: str | None = None,
        expert_layout: str | None = None,
    ) -> Adapter:
        """Open and check an adapter.

        Args:
            path: the directory that holds it.
            file: the weights file in it, where the directory may hold others.
            subfolder: where the adapter lies inside `path`: PEFT saves every adapter but `default` under its name.
            assume_peft_version: the release that trained it, where the file says nothing or something wrong.
            expert_layout: one of EXPERT_LAYOUTS, where the config does not tell; PEFT's by default.

        Raises:
            AdapterError: no adapter, a broken one, or one of a kind that has no merged form.
            MismatchError: its tensors and its config disagree.
            UnsafeInputError: a file is not what an honest writer makes.
            UsageError: no such subfolder can exist, or no such release.
        """
        root, names = find_root(Path(path), file=file, subfolder=subfolder)
        if assume_peft_version is not None and release_of(assume_peft_version) is None:
            raise UsageError("not a release of PEFT", found=assume_peft_version, expected="a version such as 0.18.1")
        with ExitStack() as opened:
            config_file = raw = None
            if CONFIG_NAME in names:
                config_file = opened.enter_context(InputFile.open(root, CONFIG_NAME, error=AdapterError))
                raw = read_config(config_file)
            name = file or _weights_name(root, names, raw)
            weights = opened.enter_context(InputFile.open(root, name, error=AdapterError))
            tensors, metadata = read_tensors(weights)
            content = Content(weights, tensors, metadata, raw, adapter_index)
            dialect = dialect_of(content)
            if dialect is not None:
                reading = dialect.read(content)
            elif raw is not None:
                config = _as_asked(parse_config(raw, where=CONFIG_NAME), assume_peft_version, expert_layout)
                reading = _reading(config, content, names)
            else:
                raise _unknown(content)
            opened.pop_all()
        side_files = () if dialect is not None else tuple(n for n in SIDE_FILES if os.path.lexists(root / n))
        return cls(
            root, adapter_index, reading.config, {ref.name: ref for ref in tensors}, reading.updates,
            reading.explained, config_file, weights, side_files, reading.components, reading.fit,
        )  # fmt: skip

    def on(self, base: Callable[[], BaseFacts], component: str | None) -> Adapter:
        """The adapter as it reads for a base: its modules in the base's names, of one component alone.

        Raises:
            AdapterError, MismatchError: it is not for this base, or for several components and none is named.
            UsageError: it has nothing for this component.
        """
        if self.fit is None:
            return self
        reading = self.fit(base(), component)
        return replace(self, config=reading.config, updates=reading.updates, explained=reading.explained, fit=None)

    @property
    def files(self) -> tuple[InputFile, ...]:
        return (self.weights,) if self.config_file is None else (self.config_file, self.weights)

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
            missing.append(f"{path}.{method.roles[0] if method is not None else self._first_role(module)}")
        parameter = any(self.config.targets_parameter(path, name) for name in module.parameters)
        if parameter and path not in self._layer_paths():
            missing.append(f"{path}.lora_A.weight")
        present = {name for update in self.updates if isinstance(update, SavedUpdate) and update.path == path
                   for name, _ in update.parameters}  # fmt: skip
        return (*missing, *(f"{path}.{name}" for name in self._replaced(module, path) if name not in present))

    def _first_role(self, module: Module) -> str:
        if isinstance(self.config, DialectConfig):
            return self.config.pair
        return "lora_embedding_A" if module.kind is ModuleKind.EMBEDDING else "lora_A.weight"

    def _replaced(self, module: Module, path: str) -> tuple[str, ...]:
        """The parameters of a module that the adapter must replace, whichever release saved it."""
        if self.config.saves(path):  # an attention's output projection is a module of its own
            return tuple(name for name in module.parameters if "." not in name)
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


def read_config(file: InputFile) -> Mapping[str, Any]:
    """adapter_config.json, parsed. Raises AdapterError where it is no JSON object."""
    raw = loads(file.read(0, file.nbytes), where=CONFIG_NAME, error=AdapterError)
    if not isinstance(raw, dict):
        raise AdapterError("config is no JSON object", where=CONFIG_NAME, found=type(raw).__name__)
    return raw


def _weights_name(root: Path, names: list[str], raw: Mapping[str, Any] | None) -> str:
    try:
        return weights_name(root, names, raw)
    except AdapterError:
        if raw is not None and not is_mlx_config(raw):
            parse_config(raw, where=CONFIG_NAME)  # a config that is not PEFT's is the better reason
        raise


def read_tensors(file: InputFile) -> tuple[tuple[TensorRef, ...], Mapping[str, str]]:
    """The tensors of a weights file, and its metadata where the format has any."""
    name = file.path.name
    if not name.endswith(".safetensors"):
        return read_torch_zip(file.fd, file=name, incomplete=AdapterError), {}
    header = read_header(file.fd, file=name, incomplete=AdapterError)
    return header.tensors, header.metadata or {}


def _as_asked(config: AdapterConfig, version: str | None, expert_layout: str | None) -> AdapterConfig:
    """PEFT's config with what the user knows better."""
    if version is not None:
        config = replace(config, peft_version=version)
    if expert_layout is not None and isinstance(config, LoraConfig):
        told, asked = config.raw.get("lora_B_layout"), EXPERT_LAYOUTS[expert_layout]
        if told not in (None, asked):
            raise UsageError(
                "the adapter's config says another layout of expert stacks",
                where=f"`lora_B_layout` in {CONFIG_NAME}",
                expected=f"{told}, by the config",
                found=f"--expert-layout {expert_layout}",
                hint="Leave --expert-layout out.",
            )
        config = replace(config, expert_blocks=LAYOUTS[asked])
    return config


def _reading(config: AdapterConfig, content: Content, names: list[str]) -> Reading:
    """An adapter in PEFT's format."""
    updates, explained = group(config, content.tensors, content.adapter)
    if not torchtune.is_copy(content.file, names):
        return Reading(config, updates, explained)

    def fit(base: BaseFacts, _component: str | None) -> Reading:
        torchtune.check_copy(updates, base)
        return Reading(config, updates, explained)

    return Reading(config, updates, explained, fit=fit)


def _unknown(content: Content) -> AdapterError:
    names = [ref.name for ref in content.tensors]
    hint = None
    if any(name.startswith("base_model.") for name in names):
        hint = f"It is a PEFT adapter without its {CONFIG_NAME}, which says how it is scaled: give both in one folder."
    return AdapterError(
        "these tensors are no adapter of a format that ingot reads",
        where=content.file,
        expected="PEFT, MLX, torchtune, kohya, LyCORIS or diffusers",
        found=", ".join(f"`{name}`" for name in names[:3]) or "no tensors",
        hint=hint,
    )
