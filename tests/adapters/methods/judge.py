"""The judge of a method's formula: PEFT loads the adapter on the base, merges, and both results are compared.

Judge.check(model, config)   a tiny model of `tests.tiny_models`, an adapter of PEFT's with random values, two merges
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn

from ingot.plan.model import Plan
from tests.oracle.reference import assert_close, changed, config_of, merged, on_disk, unheard
from tests.tiny_models import MODELS

#: Relative to each tensor's largest element.
TOLERANCE = 1e-5


def jitter(model: nn.Module) -> None:
    """Random values in every floating point tensor that the adapter trains, near what it starts from."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.data.add_(noise.to(parameter.dtype))


@dataclass
class Judge:
    """Makes bases and adapters under `root`."""

    root: Path

    def base(self, model: str) -> Path:
        directory = self.root / f"base-{model}"
        if not directory.exists():
            with unheard():
                MODELS[model]().float().save_pretrained(directory)
        return directory

    def adapter(
        self, model: str, config: peft.PeftConfig, name: str, train: Callable[[nn.Module], None] = jitter, **saving: Any
    ) -> Path:
        """An adapter as PEFT saves it, its values changed by `train`."""
        directory = self.root / f"adapter-{model}-{name}"
        with unheard():
            torch.manual_seed(0)
            wrapped = peft.get_peft_model(self.load(model), config)
            train(wrapped)
            wrapped.save_pretrained(directory, **saving)
        return directory

    def load(self, model: str) -> Any:
        base = self.base(model)
        cls = getattr(transformers, config_of(base)["architectures"][0])
        with unheard():
            return cls.from_pretrained(base, dtype=torch.float32).eval()

    def by_peft(self, model: str, adapter: Path) -> Path:
        """PEFT's merge of a saved adapter, saved."""
        directory = adapter.with_name(f"{adapter.name}-by-peft")
        with unheard():
            torch.manual_seed(
                1
            )  # not the state in which it was trained: what is drawn at random must be saved or seeded
            whole = peft.PeftModel.from_pretrained(self.load(model), adapter).merge_and_unload()
            whole.save_pretrained(directory)
        return directory

    def check(
        self,
        model: str,
        config: peft.PeftConfig,
        *,
        train: Callable[[nn.Module], None] = jitter,
        tolerance: float = TOLERANCE,
        changes: bool = True,
        **saving: Any,
    ) -> Plan:
        """Assert that ingot's merge in float32 is PEFT's, and that it changed what PEFT's changed; returns the plan.

        `changes`: whether the adapter changes anything.
        """
        adapter = self.adapter(
            model, config, f"{config.peft_type.value}-{len(list(self.root.iterdir()))}", train, **saving
        )
        base, target = self.base(model), adapter.with_name(f"{adapter.name}-ours")
        plan = merged(base, adapter, target)
        ours, theirs = on_disk(target), on_disk(self.by_peft(model, adapter))
        assert_close(ours, theirs, tolerance)
        assert changed(on_disk(base), ours) == changed(on_disk(base), theirs)
        assert bool(changed(on_disk(base), ours)) is changes
        return plan
