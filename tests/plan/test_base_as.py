"""--base-as nf4: the base goes through bitsandbytes' NF4 and back where bitsandbytes would have quantized it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import Location
from ingot.cli import main
from ingot.errors import BaseError, MismatchError, NonFiniteError, UsageError
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.record import Depth, verify
from ingot.storage.digest_memory import DigestMemory
from ingot.validate.weights.compare import compare
from tests import toy
from tests.checkpoint.quantized import llama
from tests.oracle.reference import unheard
from tests.tiny_models import MODELS

functional = pytest.importorskip("bitsandbytes.functional")

NF4 = Options(base_as="nf4")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def merge(base: Path, adapter: Path, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    with prepare(str(base), [(str(adapter), 1.0)], Options(**options), target=out, jobs=2) as job:
        job.run(memory=DigestMemory(out.parent / "memory"))
    return load_file(out / "model.safetensors")


def through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """bitsandbytes' 4-bit numbers and absmax, taken on by the definition, with numpy.

    Its own functions for the rest are no reference on a CPU: see tests/kernels/test_nf4.py.
    """
    packed, state = functional.quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=False)
    absmax, fine = state.absmax.numpy(), functional.create_dynamic_map().numpy()
    mean = np.float32(state.absmax.mean())
    apart = absmax - mean
    outer = np.repeat([np.abs(apart[at : at + 256]).max() for at in range(0, len(apart), 256)], 256)[: len(apart)]
    nearest = np.abs((apart / outer)[:, None].astype(np.float64) - fine).argmin(1)
    scale = fine[nearest] * outer.astype(np.float32) + mean
    numbers = packed.numpy().reshape(-1)
    values = state.code.numpy()[np.stack([numbers >> 4, numbers & 15], 1).reshape(-1)]
    dense = torch.tensor(values * np.repeat(scale, 64)[: values.size])
    return dense.to(weight.dtype).view(weight.shape)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    with unheard():
        llama.model().save_pretrained(tmp_path / "base")
    return tmp_path / "base", llama.adapter(tmp_path / "adapter", ["q_proj", "v_proj"])


def test_every_linear_layer_but_the_head_is_what_bitsandbytes_makes_of_it_and_the_update_is_added_once(
    tmp_path: Path, places: tuple[Path, Path]
) -> None:
    base, adapter = places
    stored = load_file(base / "model.safetensors")
    dense = {name: through_nf4(tensor) if "_proj." in name else tensor for name, tensor in stored.items()}
    exact = merge(base, adapter, tmp_path / "exact", base_as="nf4", dtype="F32")
    for name, expected in llama.by_peft(dense, adapter).items():
        assert (exact[name] - expected).abs().max() <= 1e-6 * expected.abs().max(), name
    found = merge(base, adapter, tmp_path / "out", base_as="nf4")
    for name, tensor in found.items():
        if "q_proj" in name or "v_proj" in name:
            assert torch.equal(tensor, exact[name].to(torch.bfloat16))  # one rounding
        else:
            assert torch.equal(tensor, dense[name]), name


def test_conv1d_is_quantized_as_the_linear_layer_that_it_is_and_comes_back_as_it_was(tmp_path: Path) -> None:
    with unheard():
        model = MODELS["gpt2"]()
        model.save_pretrained(tmp_path / "base")
        config = peft.LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True)
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    found = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", base_as="nf4")
    for name, tensor in found.items():
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            assert torch.equal(tensor, through_nf4(stored[name].T).T), name
        else:
            assert torch.equal(tensor, stored[name]), name


@pytest.mark.parametrize("rounding", ["stochastic", "preserve"])
def test_weights_without_an_update_are_not_rounded_a_second_time(
    tmp_path: Path, places: tuple[Path, Path], rounding: str
) -> None:
    base, adapter = places
    nearest = merge(base, adapter, tmp_path / "nearest", base_as="nf4")
    found = merge(base, adapter, tmp_path / "out", base_as="nf4", rounding=rounding)
    for name, tensor in found.items():
        assert torch.equal(tensor, nearest[name]) is not ("q_proj" in name or "v_proj" in name), name


def test_the_record_keeps_it_and_it_is_computed_again(tmp_path: Path, places: tuple[Path, Path]) -> None:
    base, adapter = places
    merge(base, adapter, tmp_path / "out", base_as="nf4")
    record = json.loads((tmp_path / "out" / "ingot.json").read_text())
    options = record["predicate"]["buildDefinition"]["externalParameters"]["options"]
    assert options["base_as"] == "nf4"
    assert verify(tmp_path / "out", depth=Depth.AGAINST_INPUTS, base=str(base), adapters=[str(adapter)]).ok


def test_its_weights_are_measured_against_the_base_that_went_through_nf4(
    tmp_path: Path, places: tuple[Path, Path]
) -> None:
    base, adapter = places
    merge(base, adapter, tmp_path / "out", base_as="nf4")
    candidate = Checkpoint.open(Location(tmp_path / "out", "out"))
    with prepare(str(base), [(str(adapter), 1.0)], NF4) as job:
        found = compare(job, candidate)
    candidate.close()
    assert found.worst_ulp <= 1
    assert found.equal > 0.999
    assert (found.untouched_differ, found.missing, found.extra) == ((), (), ())


def test_the_plan_tells_the_ratio_of_the_error_to_the_update(places: tuple[Path, Path]) -> None:
    base, adapter = places
    stored, parts = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    with prepare(str(base), [(str(adapter), 1.0)], NF4) as job:
        (note,) = [note for note in job.plan.notes if "NF4" in note]
    assert any(option == "base as: nf4" for option in _options(job.plan))
    for kind in ("q_proj", "v_proj"):
        name = f"model.layers.1.self_attn.{kind}"
        a, b = (parts[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        weight = stored[f"{name}.weight"]
        error = (through_nf4(weight).double() - weight.double()).pow(2).mean().sqrt()
        exact = float(error / (2 * b @ a).pow(2).mean().sqrt())
        shown = float(note.partition(f"self_attn.{kind}.weight ")[2].split(",")[0].split(". ")[0])
        assert 0.7 * exact < shown < 1.4 * exact
    assert "k_proj" not in note


def _options(plan: Any) -> list[str]:
    from ingot.plan.render import as_lines

    return [line.removeprefix("Options").strip() for line in as_lines(plan, 100)]


def test_an_adapter_that_names_a_4_bit_base_gets_the_ratio_and_the_way_to_it(places: tuple[Path, Path]) -> None:
    base, adapter = places
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "someone/base-bnb-4bit"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with prepare(str(base), [(str(adapter), 1.0)]) as job:
        assert any("NF4's error over the update" in note for note in job.plan.notes)
        assert any("--base-as nf4" in warning for warning in job.plan.warnings)
    with prepare(str(base), [(str(adapter), 1.0)], NF4) as job:
        assert not any("--base-as nf4" in warning for warning in job.plan.warnings)


def test_an_ordinary_merge_says_nothing_of_it(places: tuple[Path, Path]) -> None:
    base, adapter = places
    with prepare(str(base), [(str(adapter), 1.0)]) as job:
        assert not any("NF4" in note for note in job.plan.notes)


def test_a_base_that_is_quantized_already_is_refused(tmp_path: Path, places: tuple[Path, Path]) -> None:
    llama.write(tmp_path / "quantized", "nf4")
    with pytest.raises(BaseError, match="quantized already"):
        prepare(str(tmp_path / "quantized"), [(str(places[1]), 1.0)], NF4)


def test_a_weight_that_is_not_finite_is_refused_as_always(tmp_path: Path, places: tuple[Path, Path]) -> None:
    base, adapter = places
    stored = load_file(base / "model.safetensors")
    stored["model.layers.0.self_attn.o_proj.weight"][3, 5] = float("nan")
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"o_proj\.weight"):
        merge(base, adapter, tmp_path / "out", base_as="nf4")
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_it(places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = places
    assert main(["plan", str(base), str(adapter), "--base-as", "nf4"]) == 0
    assert "NF4(W), then W + s·B@A" in capsys.readouterr().out
    assert main(["plan", str(base), str(adapter), "--base-as", "int8"]) == 2


def test_a_model_class_that_is_not_known_is_refused(tmp_path: Path) -> None:
    toy.make_base(tmp_path / "base")
    toy.make_adapter(tmp_path / "adapter")
    with pytest.raises(BaseError, match="without a model class"):
        prepare(str(tmp_path / "base"), [(str(tmp_path / "adapter"), 1.0)], NF4)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_pissa_is_refused_since_its_residual_was_quantized(
    weight: float, tmp_path: Path, places: tuple[Path, Path]
) -> None:
    with unheard():
        whole = transformers.LlamaForCausalLM.from_pretrained(places[0], dtype=torch.float32)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
        peft.get_peft_model(whole, config).save_pretrained(tmp_path / "pissa")
    with pytest.raises(MismatchError, match="PiSSA"):
        prepare(str(places[0]), [(str(tmp_path / "pissa"), weight)], NF4)


def test_another_word_is_a_usage_error(places: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="no such base"):
        prepare(str(places[0]), [(str(places[1]), 1.0)], Options(base_as="int8"))
