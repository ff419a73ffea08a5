"""Differences and their rounding, against numpy and against a rounding that was done."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import BaseError, Interrupted
from ingot.extract import source as module
from ingot.extract.model import Parameter
from ingot.extract.pairing import pair
from ingot.extract.source import Source, difference, differs, rounding_energy
from ingot.naming import Names
from tests.extract.judge import load, low_rank, make, shake
from tests.oracle.reference import on_disk

Pair = tuple[Path, Path]


def opened(directory: Path, role: str, stop: threading.Event | None = None) -> Source:
    checkpoint = Checkpoint.open(locate(str(directory), what="model", error=BaseError))
    return Source(role, checkpoint, Names.of(checkpoint.tensors, checkpoint.config), stop or threading.Event())


def both(directories: Pair) -> tuple[Source, Source, dict[str, Parameter]]:
    base, tuned = opened(directories[0], "BASE"), opened(directories[1], "TUNED")
    return base, tuned, {one.full: one for one in pair(base, tuned).parameters}


@pytest.mark.parametrize("window", [64, 1 << 20])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "nomic_bert"])
def test_a_difference_is_that_of_the_models_parameters(
    name: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_NBYTES", window)
    directories = make(tmp_path, name, lambda model: shake(*model.parameters()))
    base, tuned, parameters = both(directories)
    ours, theirs = (dict(load(path).state_dict()) for path in directories)
    assert parameters.keys() == ours.keys()
    for full, parameter in parameters.items():
        found = torch.stack([difference(base, tuned, parameter, i, lambda _: None) for i in range(parameter.view[0])])
        expected = theirs[full].double() - ours[full].double()
        assert torch.equal(found.reshape(expected.shape), expected.to(found.dtype)), full


@pytest.mark.parametrize("element", [0, -1])
def test_one_element_makes_a_difference(element: int, llama: Pair, tmp_path: Path) -> None:
    shutil.copytree(llama[0], tmp_path / "changed")
    file = tmp_path / "changed" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[element] += 1e-6
    save_file(tensors, file, {"format": "pt"})
    base, tuned, parameters = both((llama[0], tmp_path / "changed"))
    found = {name for name, parameter in parameters.items() if differs(base, tuned, parameter, lambda _: None)}
    assert found == {"model.layers.1.mlp.up_proj.weight"}


def test_every_byte_of_both_is_reported(llama: Pair) -> None:
    base, tuned, parameters = both(llama)
    told: list[int] = []
    for parameter in parameters.values():
        differs(base, tuned, parameter, told.append)
    assert sum(told) == sum(t.nbytes for path in llama for t in on_disk(path).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rounding_that_was_done_is_what_is_expected(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(400, 300, generator=generator) * 0.1).to(dtype)
    exact = base.double() + low_rank(base.shape, 8, generator).double()
    exact[:, 200:] = base[:, 200:].double()  # what did not change was not rounded
    tuned = exact.to(dtype)
    for directory, weight in (("base", base), ("tuned", tuned)):
        (tmp_path / directory).mkdir()
        save_file({"layer.weight": weight}, tmp_path / directory / "model.safetensors", {"format": "pt"})
        (tmp_path / directory / "config.json").write_text('{"model_type": "toy"}')
    source, other, parameters = both((tmp_path / "base", tmp_path / "tuned"))
    delta = difference(source, other, parameters["layer.weight"], 0, lambda _: None)
    done = float((tuned.double() - exact).square().sum())
    assert 0.97 < done / rounding_energy(other, parameters["layer.weight"], 0, delta) < 1.03


def test_float32_has_no_rounding_to_speak_of(llama: Pair) -> None:
    _, tuned, parameters = both(llama)
    name = "model.layers.0.mlp.up_proj.weight"
    assert rounding_energy(tuned, parameters[name], 0, torch.ones(24, 16)) == 0


def test_a_stop_ends_the_reading(llama: Pair) -> None:
    stop = threading.Event()
    source = opened(llama[1], "TUNED", stop)
    _, _, parameters = both(llama)
    stop.set()
    with pytest.raises(Interrupted):
        next(source.blocks(parameters["model.norm.weight"].tuned, 0))


def test_float8_is_no_number_to_subtract(llama: Pair, tmp_path: Path) -> None:
    shutil.copytree(llama[1], tmp_path / "eight")
    file = tmp_path / "eight" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BaseError, match="F8_E4M3"):
        both((llama[0], tmp_path / "eight"))
