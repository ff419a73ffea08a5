"""Adapter directories, understood: which tensor of the file changes which parameter of the base model, and how.

adapter      Adapter.open: a directory or a file -> config, updates, files; nothing unexplained
  source     which files of a directory are the adapter
  dialects   other formats than PEFT's, one file each: MLX, torchtune, kohya and LyCORIS, diffusers
  config     what all adapter_config.json share, lora_config: LoRA's; fields: typed reading, patterns: PEFT's matching,
             refusals: no merged form; parsing: which method's
  keys       the grammar of tensor names
  grouping   tensors of a LoRA -> updates, one for each module; leftovers and gaps are errors
methods      PEFT's other methods, one file each, and the same for their tensors
lora, experts, multihead, saved, tokens
             one file for each kind of update: an Update turns a Module of the base into Edits
edit, terms, dora, principal, forms
             Edit = a parameter's matrix and a Term; Term = what happens to it, tile by tile
factor       a matrix inside an adapter file, not yet read; loading reads it as float32
versions     what changed between PEFT releases in the meaning of the same tensors
module       what must be known of the base: the module's class and shapes. The base's files are not.
"""

from __future__ import annotations

from ingot.adapters.adapter import Adapter
from ingot.adapters.config import AdapterConfig
from ingot.adapters.dora import Dora
from ingot.adapters.edit import Edit, Update
from ingot.adapters.factor import Factor
from ingot.adapters.loading import load_tensor
from ingot.adapters.lora_config import LoraConfig
from ingot.adapters.module import Module, ModuleKind, matrix_view
from ingot.adapters.parsing import parse_config
from ingot.adapters.terms import Add, LowRank, Needs, Replace, ReplaceRows, Term

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Add",
    "Dora",
    "Edit",
    "Factor",
    "LoraConfig",
    "LowRank",
    "Module",
    "ModuleKind",
    "Needs",
    "Replace",
    "ReplaceRows",
    "Term",
    "Update",
    "load_tensor",
    "matrix_view",
    "parse_config",
]
