"""The demo's recipes: what a user would write for each of its tasks; they lie in its directory, to be changed."""

from __future__ import annotations

import json
from pathlib import Path

from ingot.demo.assets import Task
from ingot.errors import MissingComponent
from ingot.quantize.gguf.types import library
from ingot.validate.models.llama_process import runtime

GGUF_TYPES = ("Q8_0", "Q4_K_M")
NEW_TOKENS = 48
#: Enough to see a broken model; llama.cpp tells logits one token at a time.
_LOGIT_TOKENS = 256

_RECIPE = """\
# A release of the demo. Again, by hand:  ingot release {file}
# What may stand here: docs/release.md, and `ingot init --schema` for editors.
ingot: 1
name: demo-{task}
version: "1.0"
base:
  model: {base}
  version: "1"
adapters:
  - adapter: {adapter}
    version: "1"
    training_run: training/train_demo.py {task}
formats:
  - safetensors
{gguf}validate:
  samples: [{samples}]
  chat: true
  new_tokens: {new_tokens}
  dtype: float32
  logit_tokens: {logit_tokens}
publish:
  registry: registry
  tags: ["{task}/{{format}}"]
"""
_GGUF = """\
  - gguf:Q8_0
  - format: gguf:Q4_K_M
    gates: {max_score_drop: 0.05, max_kl: 0.2, min_top1: 0.8}   # four bits cost something
"""


def no_gguf() -> str | None:
    """Why there is no GGUF here and what helps; None where there is one."""
    try:
        library()
        runtime()
    except MissingComponent as error:
        return f"{error.message}. {error.hint}"
    return None


def recipe_of(task: Task, base: Path, *, gguf: bool) -> bytes:
    """The recipe of a task, as it stands in the file."""
    # JSON's strings are YAML's, whatever a path holds
    paths = {name: json.dumps(str(path)) for name, path in
             (("base", base), ("adapter", task.adapter), ("samples", task.file))}  # fmt: skip
    return _RECIPE.format(
        file=f"{task.name}.yaml", task=task.name, gguf=_GGUF if gguf else "", new_tokens=NEW_TOKENS,
        logit_tokens=_LOGIT_TOKENS, **paths,
    ).encode()  # fmt: skip
