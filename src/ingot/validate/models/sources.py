"""The files of a checkpoint and its adapters, opened and read strictly: model class, digest, tokenizer files.

A model that is evaluated goes through the same doors as one that is merged: links, headers, indices and adapter configs
are checked before transformers or PEFT sees them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.side_files import Group, choose, group_of
from ingot.errors import BaseError
from ingot.formats.strict_json import dumps_canonical
from ingot.naming import Names
from ingot.plan.resolve import Weighted
from ingot.storage import RECORD_NAME, DigestMemory, InputFile
from ingot.validate.model import Unsupported
from ingot.validate.models.libraries import loading
from ingot.validate.spec import Kind, Located

#: What a tokenizer is made of; config.json helps transformers to find its class.
_READS_TEXT = (Group.TOKENIZER, Group.CHAT_TEMPLATE)


@dataclass(frozen=True)
class Sources:
    """Open files of one model. `close` them."""

    located: Located
    base: Checkpoint
    adapters: tuple[Weighted, ...]

    @classmethod
    def open(cls, located: Located) -> Sources:
        """Raises BaseError, AdapterError, MismatchError, UnsafeInputError: what `ingot plan` would say of them."""
        base = Checkpoint.open(located.base)
        adapters: list[Weighted] = []
        try:
            for number, (where, weight) in enumerate(located.adapters):
                adapters.append(Weighted.open(where, number, weight, None))
        except BaseException:
            base.close()
            for weighted in adapters:
                weighted.close()
            raise
        return cls(located, base, tuple(adapters))

    @property
    def kind(self) -> Kind:
        return Kind.ADAPTED if self.adapters else Kind.CHECKPOINT

    @property
    def quantized(self) -> str | None:
        """The quantization that config.json names."""
        found = self.base.config.get("quantization_config")
        if not found:
            return None
        return str(found.get("quant_method", "unknown")) if isinstance(found, Mapping) else "unknown"

    @cached_property
    def names(self) -> Names:
        """Where the parameters of the model class stand in the files."""
        task = self.adapters[0].adapter.config.task_type if self.adapters else None
        return Names.of(self.base.stored if self.quantized else self.base.tensors, self.base.config, task=task)

    @property
    def side_files(self) -> dict[str, InputFile]:
        """The tokenizer's files and the chat template, of the base or of the adapter, as `ingot merge` chooses."""
        brought = {name: w for w in self.adapters for name in w.adapter.side_files}
        if len({id(w) for w in brought.values()}) > 1:  # several tokenizers: none is more right than another
            brought = {}
        chosen = choose(self.base.side_files, brought)
        files = {n: self.base.inputs[n] if of == "base" else brought[n].inputs[n] for n, of in chosen.items()}
        return {name: file for name, file in files.items() if group_of(name) in _READS_TEXT}

    def digest(self, memory: DigestMemory | None = None) -> str:
        """sha256 over the sorted names and digests of the base's files, then of each adapter's with its weight.

        Without records: they change when an evaluation is added, the model does not. Raises InputChangedError.
        """
        memory = memory or DigestMemory()

        def of(files: Mapping[str, InputFile]) -> list[list[str]]:
            return [[name, memory.sha256(files[name])] for name in sorted(files) if name != RECORD_NAME]

        parts: list[Any] = [of(self.base.inputs), *([w.weight, of(w.inputs)] for w in self.adapters)]
        return hashlib.sha256(dumps_canonical(parts)).hexdigest()

    def check_unchanged(self) -> None:
        """Raises InputChangedError: a file is not what was opened, so what was loaded by its name is not either."""
        for file in (*self.base.inputs.values(), *(file for w in self.adapters for file in w.inputs.values())):
            file.check_unchanged()

    def close(self) -> None:
        """Idempotent."""
        self.base.close()
        for weighted in self.adapters:
            weighted.close()


def model_class(sources: Sources) -> Any:
    """The transformers class that the checkpoint names.

    Raises:
        Unsupported: transformers has no such class, or it makes no text from text.
    """
    import transformers

    name = sources.names.model_class
    if name is None:
        raise Unsupported(f"{sources.located.name} is of no model class of transformers: {sources.names.why}")
    found: Any = getattr(transformers, name)
    if not found.can_generate() or found.main_input_name != "input_ids":
        raise Unsupported(f"{sources.located.name} is a {name}, which does not generate text from text")
    return found


def model_config(sources: Sources, dtype: str | None) -> Any:
    """The configuration object for `model_class`, its dtype as asked or as stored.

    Raises:
        BaseError: there are no weights in a floating dtype to take it from.
        Unsupported: transformers cannot read it.
    """
    from transformers import AutoConfig

    cls = model_class(sources)
    with loading(f"config.json of {sources.located.name}"):
        config: Any = AutoConfig.from_pretrained(
            sources.located.base.path, local_files_only=True, trust_remote_code=False
        )
    if not isinstance(config, cls.config_class) and isinstance(config.get_text_config(), cls.config_class):
        config = config.get_text_config()
    _refuse_foreign_kernels(config, sources.located.name)
    config.dtype = dtype or config.dtype or stored_dtype(sources.base)
    return config


def context_of(config: Any) -> int | None:
    """Most tokens that the model reads at once."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def _refuse_foreign_kernels(config: Any, name: str) -> None:
    """transformers fetches and runs an attention kernel whose name is a repository's."""
    wanted = getattr(config, "_attn_implementation", None)
    if wanted is not None and "/" in str(wanted):
        raise Unsupported(f"config.json of {name} asks for the attention kernel {str(wanted)!r} of another repository")


def stored_dtype(base: Checkpoint) -> str:
    """The dtype of the first floating tensor, as transformers spells it."""
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    found = next((names[ref.dtype] for ref in base.stored.values() if ref.dtype in names), None)
    if found is None:
        raise BaseError("no tensor has a floating dtype", where=base.location.name, expected=", ".join(names))
    return found
