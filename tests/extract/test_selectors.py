"""The names that are written, judged by PEFT's own matching."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from ingot.extract.selectors import ancestry, inside, saved, targets
from tests.oracle.reference import unheard
from tests.tiny_models import MODELS

PATHS = ["enc", "enc.q", "enc.v", "dec", "dec.q", "dec.v", "dec.norm", "q", "dec.layernorm", "dec.norm_q"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"enc.q", "dec.q", "q"}, ["q"]),
        ({"enc.q", "enc.v"}, ["enc.q", "enc.v"]),
        ({"enc.v", "dec.v", "dec.q"}, ["dec.q", "v"]),
        ({"q"}, "q"),  # as a list it would match enc.q and dec.q too
    ],
)
def test_targets_are_the_shortest_names_that_are_exact(chosen: set[str], expected: object) -> None:
    found = targets(chosen, PATHS)
    assert found == expected
    config = peft.LoraConfig(target_modules=found)
    assert {path for path in PATHS if check_target_module_exists(config, path)} == chosen


def test_dots_in_a_regular_expression_are_literal() -> None:
    assert targets({"a.b"}, ["a.b", "x.a.b", "aXb"]) == r"a\.b"


@pytest.mark.parametrize(
    ("chosen", "names", "whole"),
    [
        ({"dec.layernorm"}, ["layernorm"], {"dec.layernorm"}),
        ({"dec.norm"}, ["dec.norm"], {"dec.norm"}),
        ({"dec.norm", "dec.layernorm"}, ["layernorm", "norm"], {"dec.norm", "dec.layernorm"}),
        ({"enc"}, ["enc"], {"enc", "enc.q", "enc.v"}),
        ({"enc", "enc.q"}, ["enc"], {"enc", "enc.q", "enc.v"}),
        ({"q"}, ["norm_q", "q"], {"q", "enc.q", "dec.q", "dec.norm_q"}),
    ],
)
def test_saved_modules_are_those_that_peft_saves(chosen: set[str], names: list[str], whole: set[str]) -> None:
    assert saved(chosen, PATHS) == (names, frozenset(whole))


@pytest.mark.parametrize("name", ["bert", "vit", "whisper", "qwen2_moe"])
@pytest.mark.parametrize("end", ["norm", "LayerNorm", "fc1", "gate", "embeddings"])
def test_peft_wraps_exactly_the_modules_that_are_told(name: str, end: str) -> None:
    model: Any = MODELS[name]()
    paths = [path for path, _ in model.named_modules() if path]
    chosen = {path for path in paths if path.endswith(end)}
    if not chosen:
        pytest.skip(f"{name} has none")
    names, whole = saved(chosen, paths)
    tops = {path for path in whole if not inside(path.rpartition(".")[0], whole)}
    with torch.no_grad(), unheard():
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(target_modules="dummy-target-modules", modules_to_save=names)
        )
    found = {path for path, module in wrapped.base_model.model.named_modules() if _is_wrapper(module)}
    assert found == tops


def _is_wrapper(module: nn.Module) -> bool:
    return isinstance(module, ModulesToSaveWrapper)


def test_a_path_stands_in_itself_and_in_all_above_it() -> None:
    assert ancestry("a.b.c") == ["a", "a.b", "a.b.c"]
    assert ancestry("") == []
    assert inside("a.b.c", {"a.b"})
    assert not inside("a.bc", {"a.b"})
