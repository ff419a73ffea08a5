"""PEFT's merge against ours on plain torch layers, for classes that no tiny transformers model has."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
from torch import nn

from ingot.adapters import Adapter
from tests.adapters.methods.judge import TOLERANCE, jitter
from tests.adapters.reference import changed, differences, merged_by_peft, merged_by_us
from tests.adapters.toys import seeded
from tests.oracle.reference import unheard


def check_layers(model: nn.Module, config: peft.PeftConfig, directory: Path) -> None:
    """Assert that the edits of an adapter that PEFT saved are what PEFT merges, and change what it changes."""
    seeded(model)
    with unheard():
        wrapped = peft.get_peft_model(copy.deepcopy(model), config)
        jitter(wrapped)
        wrapped.save_pretrained(directory)
    theirs = merged_by_peft(model, directory)
    with Adapter.open(directory, adapter_index=0) as adapter:
        ours = merged_by_us(model, adapter)
    wrong = {name: value for name, value in differences(ours, theirs).items() if not value <= TOLERANCE}
    assert wrong == {}
    assert changed(model, ours) == changed(model, theirs) != set()
