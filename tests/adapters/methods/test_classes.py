"""A layer stands on a module that PEFT wraps, or it is refused; where no class is known, the shapes decide."""

from __future__ import annotations

import peft
import pytest

from ingot.adapters.edit import Update
from ingot.adapters.module import Module, ModuleKind
from ingot.errors import AdapterError, MismatchError
from tests.adapters.files import opened
from tests.adapters.methods.judge import Judge

#: On the square attn.c_proj[16, 16] and on c_attn[16, 48], transformers' Conv1D.
TURNED = {
    "adalora": lambda: peft.AdaLoraConfig(init_r=3, total_step=10, target_modules=["c_attn", "attn.c_proj"]),
    "hira": lambda: peft.HiraConfig(r=3, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True),
    "ia3": lambda: peft.IA3Config(target_modules=["c_attn", "attn.c_proj"], feedforward_modules=[]),
    "ia3 of inputs": lambda: peft.IA3Config(
        target_modules=["c_attn", "attn.c_proj"], feedforward_modules=["c_attn", "attn.c_proj"]
    ),
}


def updates(judge: Judge, model: str, config: peft.PeftConfig, name: str) -> dict[str, Update]:
    return {update.path: update for update in opened(judge.adapter(model, config, f"classes-{name}")).updates}


@pytest.mark.parametrize("name", TURNED)
def test_the_shape_tells_a_transposed_weight_where_no_class_is_known(name: str, judge: Judge) -> None:
    found = updates(judge, "gpt2", TURNED[name](), name)
    wide = found["transformer.h.0.attn.c_attn"]
    for shape in ((16, 48), (48, 16)):
        edit = wide.edits(Module(wide.path, ModuleKind.UNKNOWN, {"weight": shape}))[0]
        assert edit.term.shape == shape
    square = found["transformer.h.0.attn.c_proj"]
    with pytest.raises(MismatchError, match="nothing tells which"):
        square.edits(Module(square.path, ModuleKind.UNKNOWN, {"weight": (16, 16)}))
    with pytest.raises(MismatchError, match="does not fit its module"):
        wide.edits(Module(wide.path, ModuleKind.UNKNOWN, {"weight": (17, 47)}))


Q = {"target_modules": ["q_proj"]}
OTHERS = {
    "LoHa on an embedding": (lambda: peft.LoHaConfig(r=3, **Q), ModuleKind.EMBEDDING, {"weight": (16, 16)}),
    "LoHa on GPT-2's Conv1D": (lambda: peft.LoHaConfig(r=3, **Q), ModuleKind.CONV1D, {"weight": (16, 16)}),
    "LoKr on a Conv3d": (lambda: peft.LoKrConfig(r=4, **Q), ModuleKind.CONV, {"weight": (16, 16, 1, 1, 1)}),
    "MiSS on a norm": (lambda: peft.MissConfig(r=4, **Q), ModuleKind.OTHER, {"weight": (16,)}),
    "MiSS on some kernel": (lambda: peft.MissConfig(r=4, **Q), ModuleKind.UNKNOWN, {"weight": (16, 4, 4)}),
    "GLoRA on no weight": (lambda: peft.GloraConfig(r=4, **Q), ModuleKind.UNKNOWN, {"bias": (16,)}),
    "BEFT on a Conv1d": (lambda: peft.BeftConfig(**Q), ModuleKind.CONV, {"weight": (16, 16, 3)}),
    "AdaLoRA on some Conv1d": (
        lambda: peft.AdaLoraConfig(init_r=4, total_step=10, **Q), ModuleKind.UNKNOWN, {"weight": (16, 16, 1)}
    ),
    "IA3 on a Conv1d": (lambda: peft.IA3Config(feedforward_modules=[], **Q), ModuleKind.CONV, {"weight": (16, 16, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_module_of_another_class_is_refused_by_the_layers_name(name: str, judge: Judge) -> None:
    config, kind, parameters = OTHERS[name]
    update = next(iter(updates(judge, "llama_bias", config(), name).values()))
    with pytest.raises(MismatchError, match="stands on a module of another class") as caught:
        update.edits(Module("x", kind, parameters))
    assert "q_proj" in caught.value.message


def test_hira_on_a_convolution_with_groups_is_refused(judge: Judge) -> None:
    update = next(iter(updates(judge, "whisper", peft.HiraConfig(r=3, target_modules=["conv1"]), "groups").values()))
    with pytest.raises(AdapterError, match="HiRA has no form"):
        update.edits(Module(update.path, ModuleKind.CONV, {"weight": (16, 8, 3)}, groups=2))
