"""Adapters in other formats than PEFT's, one file each: told by their content, and read as the same updates.

dialect      what every dialect answers: is this mine, and what does it say; Content and BaseFacts are what it is given
mlx          mlx-lm: `lora_a[in, r]`, `lora_b[r, out]`, DoRA, whole layers; the scale is in its adapter_config.json
torchtune    torchtune's own names, with q and k in the order of its attention
kohya        kohya's sd-scripts and LyCORIS: one file, module names with underscores
diffusers    `pytorch_lora_weights.safetensors`: names with dots under the name of a component
  components   which component of a pipeline is meant, where an adapter changes several
  layer, kinds one module's tensors by role -> edits: LoRA, LoCon, LoHa, LoKr, (IA)³, differences, DoRA
  deltas, decomposed, scaled
               the formulas that PEFT's methods do not have
  grouped      names that are read -> layers, by component
  flat_names   module names with underscores, and those of the original UNet, held against the base's
  scalars      the values of tensors that hold one number
"""

from __future__ import annotations

from ingot.adapters.dialects import diffusers, kohya, mlx, torchtune
from ingot.adapters.dialects.dialect import BaseFacts, Content, Dialect, Reading

__all__ = ["DIALECTS", "BaseFacts", "Content", "Dialect", "Reading", "dialect_of"]

DIALECTS = (mlx.DIALECT, torchtune.DIALECT, kohya.DIALECT, diffusers.DIALECT)


def dialect_of(content: Content) -> Dialect | None:
    """The dialect that an adapter is written in; None for PEFT's format, and for what nobody knows."""
    return next((dialect for dialect in DIALECTS if dialect.recognizes(content)), None)
