"""A checkpoint in memory through transformers, with or without adapters that PEFT applies unmerged.

Weights come from safetensors files alone; no code that came with the model is run and nothing is fetched.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError
from ingot.validate.model import Progress, Unsupported
from ingot.validate.models import unmerged
from ingot.validate.models.libraries import loading, need
from ingot.validate.models.sources import Sources, model_class, model_config
from ingot.validate.models.stored import Stored
from ingot.validate.models.tokenizer import Tokenizer
from ingot.validate.predictions.rows import batches, padded
from ingot.validate.result import Subject
from ingot.validate.spec import Located

if TYPE_CHECKING:
    import torch


class Whole(Stored):
    """A `Model`. Answers and logits depend on the batches that rows stand in, and on nothing else."""

    def __init__(self, sources: Sources, tokenizer: Tokenizer, model: Any, device: str) -> None:
        """Use `open`."""
        self.tokenizer = tokenizer
        self._sources = sources
        self._model = model
        self._device = device

    @classmethod
    def open(cls, located: Located, *, dtype: str | None = None, device: str = "cpu") -> Whole:
        """Load a model.

        Args:
            dtype: "float32", "bfloat16" or "float16": what the weights become; None: as config.json says, or as stored.
            device: where it runs, as torch spells it.

        Raises:
            BaseError, AdapterError, MismatchError, UnsafeInputError: the files are not what they should be.
            MissingComponent: a library is not installed.
            Unsupported: no text can be generated with it here.
        """
        need("transformers", "accelerate")
        sources = Sources.open(located)
        try:
            tokenizer = Tokenizer.open(sources)
            model = unmerged.apply(_load(sources, dtype, device), sources.adapters).eval()
            if sources.quantized is None:
                model.to(device)
            model.generation_config = _greedy(model.generation_config, tokenizer.inner.eos_token_id)
            sources.check_unchanged()
        except BaseException:
            sources.close()
            raise
        return cls(sources, tokenizer, model, device)

    @property
    def inner(self) -> Any:
        """The model of transformers."""
        return self._model

    @cached_property
    def subject(self) -> Subject:
        """The files' digest is taken when it is first asked for."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        quantized = self._sources.quantized
        return Subject(self._sources.located.name, str(self._sources.kind), self._sources.digest(),
                       dtype if quantized is None else f"{quantized}, {dtype}")  # fmt: skip

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """See `Model.logits`. Neighbouring rows share a batch, padded on the right: sort them by length."""
        import torch

        if self._model.config.is_encoder_decoder:
            raise Unsupported("an encoder-decoder reads prompt and answer apart; only its answers are compared")
        for part in batches([len(row) for row in rows], self.columns):
            inputs = padded(rows[part], self._pad)
            with torch.inference_mode():
                found = self._model(**self._here(inputs), use_cache=False).logits.to("cpu", torch.float32)
            progress(len(found))
            for row, logits in zip(rows[part], found, strict=True):
                yield logits[: len(row)]

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        """See `Model.answers`. Plain greedy: the model's other generation settings are not used.

        Raises Unsupported: a prompt is longer than the model's context. Answers end where the context does.
        """
        import torch

        if not prompts:
            return []
        texts = [self.render(prompt, chat=chat) for prompt in prompts]
        rows = [self.encode(text, special=not chat) or [self._pad] for text in texts]
        new_tokens = self._room(max(map(len, rows)), new_tokens)
        inputs = self._here(padded(rows, self._pad, left=not self._model.config.is_encoder_decoder))
        with torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=new_tokens).cpu()
        begin = 0 if self._model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return [self.tokenizer.plain(tokens) for tokens in output[:, begin:]]

    def close(self) -> None:
        if self._model is None:
            return
        self._model = None
        self._sources.close()
        gc.collect()
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _room(self, longest: int, new_tokens: int) -> int:
        """How many new tokens the context has room for."""
        context = None if self._model.config.is_encoder_decoder else self.context
        if context is not None and longest >= context:
            raise Unsupported(f"a prompt has {longest} tokens, and the model reads {context}")
        return new_tokens if context is None else min(new_tokens, context - longest)

    @cached_property
    def _pad(self) -> int:
        """Any token will do: it is masked."""
        return int(self.tokenizer.inner.pad_token_id or 0)

    def _here(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}


def _load(sources: Sources, dtype: str | None, device: str) -> Any:
    """The base model with every parameter from its files."""
    cls, name = model_class(sources), sources.located.base.name
    config = model_config(sources, dtype)
    with loading(name):
        model, found = cls.from_pretrained(
            sources.located.base.path, config=config, dtype=config.dtype, use_safetensors=True, local_files_only=True,
            output_loading_info=True, device_map=device if sources.quantized else None,
        )  # fmt: skip
    missing = sorted(found["missing_keys"])
    if missing:
        raise BaseError(
            "parameters of the model are not in its files; they would be random",
            where=name,
            found=", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
        )
    return model


def _greedy(stored: Any, tokenizer_end: int | None) -> Any:
    """Generation settings that choose the likeliest token and end at the model's or the tokenizer's end token."""
    import transformers

    listed = stored.eos_token_id if isinstance(stored.eos_token_id, list) else [stored.eos_token_id]
    ends = sorted({int(token) for token in (*listed, tokenizer_end) if token is not None})
    config_class: Any = transformers.GenerationConfig
    return config_class(
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        bos_token_id=stored.bos_token_id,
        pad_token_id=stored.pad_token_id if stored.pad_token_id is not None else (ends or [0])[0],
        decoder_start_token_id=getattr(stored, "decoder_start_token_id", None),
    )
