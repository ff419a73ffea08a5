"""Tiny models and adapters on disk, with the demo's tokenizer beside them, for tests of what loads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import torch

from ingot.demo import assets
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.storage import DigestMemory
from ingot.validate.spec import Located, locate_spec, parse_spec
from tests import tiny_models

#: Rows of ids below 67, of unlike lengths, so that batches of them are padded.
ROWS = [[3, 4, 5], [6, 7, 8, 9, 10], [5] * 12, [8, 9] * 9, [1, 2, 3] * 7]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save_base(path: Path, model: str, dtype: torch.dtype = torch.float32) -> Path:
    tiny_models.MODELS[model]().to(dtype).save_pretrained(path)
    copy_tokenizer(path)
    return path


def copy_tokenizer(path: Path) -> None:
    for name in TOKENIZER:
        shutil.copy(assets.base() / name, path / name)


def save_adapter(path: Path, model: str, seed: int = 1, vocabulary: int | None = None, **options: Any) -> Any:
    """A random adapter with a large effect, on a float32 model; returns that model with it, as PEFT made it."""
    base = tiny_models.MODELS[model]()
    if vocabulary is not None:
        base.resize_token_embeddings(vocabulary, mean_resizing=False)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted.save_pretrained(path, save_embedding_layers=True if vocabulary else "auto")
    return adapted.eval()


def located(spec: object) -> Located:
    return locate_spec(parse_spec(str(spec)))


def save_ggufs(directory: Path, *file_types: str) -> Path:
    """The demo's base with its `dates` adapter, merged into GGUF files of these types: `gguf_of` names one."""
    task = assets.tasks()[1]
    options = Options(gguf=GgufOptions(file_types))
    with prepare(str(assets.base()), [(str(task.adapter), 1.0)], options, target=directory) as job:
        job.run(memory=DigestMemory(directory.parent / "cache"))
    return directory


def gguf_of(directory: Path, file_type: str) -> Path:
    return directory / f"ingot-demo-base-dates-{file_type}.gguf"


def ignore(_: int) -> None:
    """A progress that nobody looks at."""
