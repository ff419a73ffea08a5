"""adapter_config.json of an extracted adapter: what PEFT needs to put every tensor where it belongs, and no more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from ingot.adapters.patterns import pattern_value
from ingot.checkpoint.locate import Location
from ingot.extract.forms import Forms
from ingot.extract.layers import Layout
from ingot.plan.public import public_name

#: The release whose layout of tensors this is; it decides how expert stacks are read (`adapters/versions.py`).
PEFT_VERSION = "0.21.2"
#: What PEFT takes for an adapter of saved modules alone (`peft.utils.constants.DUMMY_TARGET_MODULES`).
NO_TARGETS = "dummy-target-modules"


def adapter_config(
    forms: Forms, ranks: Mapping[str, int], base: Location, model_class: str | None
) -> dict[str, object]:
    """The configuration as JSON.

    Args:
        ranks: of each target, by `Target.named`.
        model_class: BASE's transformers class.
    """
    common = Counter(ranks.values()).most_common(1)
    rank = common[0][0] if common else 1
    pattern = _pattern(ranks, rank)
    task = "CAUSAL_LM" if (model_class or "").endswith(("ForCausalLM", "LMHeadModel")) else None
    mapping = {"base_model_class": model_class, "parent_library": "transformers"} if model_class and not task else None
    return {
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "task_type": task,
        "auto_mapping": mapping,
        "base_model_name_or_path": public_name(base.name),
        "revision": base.commit or base.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": forms.target_modules or ([] if forms.target_parameters else NO_TARGETS),
        **({"target_parameters": list(forms.target_parameters)} if forms.target_parameters else {}),
        "modules_to_save": list(forms.modules_to_save) or None,
        "bias": forms.bias,
        "fan_in_fan_out": any(target.layout is Layout.CONV1D for target in forms.targets),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _pattern(ranks: Mapping[str, int], usual: int) -> dict[str, int]:
    """`rank_pattern` for the targets that have another rank than most; its keys are regular expressions."""
    plain = {name: rank for name, rank in ranks.items() if rank != usual}
    if all(pattern_value(name, plain, usual) == rank for name, rank in ranks.items()):
        return plain
    return {re.escape(name): rank for name, rank in plain.items()}
