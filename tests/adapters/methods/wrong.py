"""Damaged adapters: each must be refused in a sentence, and none may give a traceback or a result.

check_refusals(judge, model, config, settings)   a sound adapter, and every way to spoil it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ingot.errors import AdapterError, IngotError, MismatchError
from tests.adapters.methods.judge import Judge
from tests.oracle.reference import adapter_tensors, plan_of, write_adapter

#: No value of any setting.
NEVER: tuple[object, ...] = ([1], {"a": 1}, "no such value")
NUMBER = (*NEVER, True)
POSITIVE = (*NUMBER, 0, -1, 10**400)
INTEGER = (*POSITIVE, 1.5)
FLAG = (*NEVER, 1)


@dataclass
class Spoiled:
    """A sound adapter that is written again with changes."""

    base: Path
    adapter: Path
    count: int = 0

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.adapter / "adapter_config.json").read_text())
        return config

    def refusal(
        self, tensors: Mapping[str, torch.Tensor] | None = None, settings: Mapping[str, object] | None = None
    ) -> IngotError:
        """The error for the adapter with other tensors, or with other values in its config (`...` takes a key out)."""
        self.count += 1
        directory = self.adapter.with_name(f"{self.adapter.name}-spoiled-{self.count}")
        shutil.rmtree(directory, ignore_errors=True)
        config = {key: value for key, value in (self.config | dict(settings or {})).items() if value is not ...}
        write_adapter(directory, adapter_tensors(self.adapter) if tensors is None else tensors, config)
        with pytest.raises((AdapterError, MismatchError)) as caught:
            plan_of(self.base, directory, directory.with_name("never"))
        return caught.value


def spoiled(judge: Judge, model: str, config: peft.PeftConfig) -> Spoiled:
    name = f"sound-{config.peft_type.value}-{len(list(judge.root.iterdir()))}"
    return Spoiled(judge.base(model), judge.adapter(model, config, name))


def check_refusals(
    judge: Judge, model: str, config: peft.PeftConfig, settings: Mapping[str, Sequence[object]]
) -> Spoiled:
    """Assert that a missing, extra or misshapen tensor is refused, naming it, and so are the values of `settings`."""
    sound = spoiled(judge, model, config)
    tensors = adapter_tensors(sound.adapter)
    for name, tensor in tensors.items():
        sound.refusal({key: value for key, value in tensors.items() if key != name})
        for axis in range(tensor.ndim):
            longer = torch.cat([tensor, tensor.narrow(axis, 0, 1)] if tensor.shape[axis] else [tensor], dim=axis)
            if longer.shape != tensor.shape:
                sound.refusal({**tensors, name: longer})
        sound.refusal({**tensors, name: tensor.unsqueeze(0)})
        extra = f"{name.removesuffix('.weight')}_extra"
        assert extra in str(sound.refusal({**tensors, extra: tensor})), extra
    for key, values in settings.items():
        for value in values:
            error = sound.refusal(settings={key: value})
            assert f"`{key}`" in str(error), (key, value, str(error))
    return sound
