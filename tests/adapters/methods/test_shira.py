"""SHiRA against PEFT's own merge."""

from __future__ import annotations

import peft
import pytest
import torch

from ingot.errors import AdapterError
from tests.adapters.methods.cuts import check_cuts
from tests.adapters.methods.judge import Judge
from tests.adapters.methods.wrong import INTEGER, check_refusals, spoiled
from tests.oracle.reference import adapter_tensors, assert_close, merged, on_disk, write_adapter

LAYERS = ["q_proj", "k_proj", "down_proj"]


def test_linear_layers_are_pefts(judge: Judge) -> None:
    judge.check("llama", peft.ShiraConfig(r=2, random_seed=4, target_modules=LAYERS))


def test_elements_that_are_named_twice_and_indices_of_windows_are_pefts(judge: Judge) -> None:
    """PEFT on Windows saves indices as float32."""
    sound = spoiled(judge, "llama", peft.ShiraConfig(r=2, target_modules=LAYERS))
    tensors = adapter_tensors(sound.adapter)
    for name, tensor in tensors.items():
        if name.endswith("shira_indices"):
            tensor[:, 1] = tensor[:, 0]
            tensors[name] = tensor.float()
    adapter = write_adapter(sound.adapter.with_name("shira-windows"), tensors, sound.config)
    merged(sound.base, adapter, adapter / "ours")
    assert_close(on_disk(adapter / "ours"), on_disk(judge.by_peft("llama", adapter)))


def test_cuts_do_not_matter(judge: Judge) -> None:
    check_cuts(judge, "llama", peft.ShiraConfig(r=2, target_modules=LAYERS))


def test_wrong_adapters_are_refused(judge: Judge) -> None:
    sound = check_refusals(judge, "llama", peft.ShiraConfig(r=2, target_modules=["k_proj"]), {"r": INTEGER})
    sound.refusal(settings={"r": 3})


@pytest.mark.parametrize(
    ("row", "value", "message"),
    [
        (0, 8, "out of range: expected 0 to 7, found 8"),
        (1, 16, "out of range: expected 0 to 15, found 16"),
        (0, -1, "out of range: expected 0 to 7, found -1"),
        (1, 0.5, "holds fractions"),
        (1, 2.0**70, "holds fractions"),
    ],
)
def test_an_element_that_the_weight_does_not_have_is_refused(
    judge: Judge, row: int, value: float, message: str
) -> None:
    sound = spoiled(judge, "llama", peft.ShiraConfig(r=2, target_modules=["k_proj"]))
    tensors = adapter_tensors(sound.adapter)
    name = next(name for name in tensors if name.endswith("shira_indices"))
    if isinstance(value, float):
        tensors[name] = tensors[name].float()
    tensors[name][row, 3] = value
    adapter = write_adapter(sound.adapter.with_name(f"shira-{row}-{value}"), tensors, sound.config)
    with pytest.raises(AdapterError, match=f"{message}.*shira_indices"):
        merged(sound.base, adapter, adapter / "never")


@pytest.mark.parametrize("role", ["shira_indices", "shira_weight"])
def test_a_tensor_of_the_wrong_kind_of_numbers_is_refused(judge: Judge, role: str) -> None:
    sound = spoiled(judge, "llama", peft.ShiraConfig(r=2, target_modules=["k_proj"]))
    wrong = {"shira_indices": torch.bool, "shira_weight": torch.int32}[role]
    tensors = {n: t.to(wrong) if n.endswith(role) else t for n, t in adapter_tensors(sound.adapter).items()}
    adapter = write_adapter(sound.adapter.with_name(f"{role}-kind"), tensors, sound.config)
    with pytest.raises(AdapterError, match=rf"does not hold .*{role}"):
        merged(sound.base, adapter, adapter / "never")
