"""Which modules bitsandbytes gets: what transformers' own quantizer replaces in the same model class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.naming import Names
from ingot.plan.base_as import is_quantized
from tests.tiny_models import MODELS

pytest.importorskip("bitsandbytes")


def replaced(model: Any) -> set[str]:
    """Paths of the modules that transformers replaces when it loads this model in 4 bits."""
    import bitsandbytes
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    with torch.device("meta"):
        replace_with_bnb_linear(model, skipped, BitsAndBytesConfig(load_in_4bit=True))
    return {path for path, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


@pytest.mark.parametrize("name", MODELS)
def test_they_are_the_ones_that_transformers_replaces(name: str) -> None:
    model = MODELS[name]()
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    names = Names.of(dict(model.state_dict()), config)
    found = {p for p, module in names.modules.items() if is_quantized(p, module, names.dense_in_bitsandbytes)}
    assert found == replaced(model)
