"""diffusers' files: names of all its eras, metadata, components. Merged values: `test_against_libraries`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.adapters import Adapter, Module, ModuleKind
from ingot.errors import AdapterError, MismatchError
from tests.adapters.dialects.files import TO_Q, drawn, on, opened, write

NAME = "pytorch_lora_weights.safetensors"
MODULE = Module(TO_Q, ModuleKind.UNKNOWN, {"weight": (4, 4), "bias": (4,)})
A, B = f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight"


def adapter(root: Path, *shapes: tuple[str, tuple[int, ...]], **metadata: Any) -> Adapter:
    tensors = drawn(**{name.replace(".", "__"): shape for name, shape in shapes})
    return opened(write(root / NAME, tensors, **metadata).parent)


def in_metadata(**config: Any) -> dict[str, str]:
    base = {"r": 2, "lora_alpha": 3, "target_modules": ["to_q"]}
    return {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in {**base, **config}.items()})}


@pytest.mark.parametrize(
    ("name", "component", "path"),
    [
        (f"unet.{TO_Q}.lora_{{}}.weight", "unet", TO_Q),
        (f"{TO_Q}.lora_{{}}.default_0.weight", "model", TO_Q),
        ("transformer.blocks.0.attn.to_q.lora.{}.weight", "transformer", "blocks.0.attn.to_q"),
        ("diffusion_model.blocks.0.q.lora_{}.weight", "diffusion_model", "blocks.0.q"),
        ("unet.mid.attn1.processor.to_out_lora.{}.weight", "unet", "mid.attn1.to_out.0"),
        ("mid.attn1.processor.to_k_lora.{}.weight", "model", "mid.attn1.to_k"),
        ("text_encoder.m.self_attn.to_out_lora.{}.weight", "text_encoder", "m.self_attn.out_proj"),
        ("text_encoder_2.m.self_attn.q_proj.lora_linear_layer.{}.weight", "text_encoder_2", "m.self_attn.q_proj"),
    ],
)
def test_names_of_every_era_are_read(name: str, component: str, path: str, tmp_path: Path) -> None:
    down, up = ("A", "B") if ".default" in name or name.startswith("unet.down") else ("down", "up")
    found = adapter(tmp_path, (name.format(down), (2, 4)), (name.format(up), (4, 2)))
    assert found.components == {component: 2}
    assert [update.path for update in found.updates] == [path]
    assert found.config.title == "diffusers LoRA"


def test_the_metadata_scales_where_there_is_any(tmp_path: Path) -> None:
    plain = adapter(tmp_path / "a", (A, (2, 4)), (B, (4, 2)))
    assert plain.updates[0].edits(MODULE)[0].term.scaling == 1.0
    told = adapter(tmp_path / "b", (A, (2, 4)), (B, (4, 2)), **in_metadata(alpha_pattern={"to_q": 5}))
    assert told.updates[0].edits(MODULE)[0].term.scaling == 2.5


@pytest.mark.parametrize(
    ("extra", "metadata", "text"),
    [
        ([], {"lora_adapter_metadata": "["}, "lora_adapter_metadata"),
        ([], {"lora_adapter_metadata": "[1]"}, "no JSON object"),
        ([], in_metadata(r=3), "rank of a tensor is not that of the metadata"),
        ([], in_metadata(use_dora=True), "lora_magnitude_vector.*do not agree"),
        ([], in_metadata(init_lora_weights="pissa"), "PiSSA in diffusers' form"),
        ([], in_metadata(init_lora_weights="corda"), "CorDA"),
        ([], in_metadata(r="x"), "`r` has a wrong value"),
        ([(f"unet.{TO_Q}.alpha", ())], in_metadata(), "scaled twice"),
        ([(f"unet.{TO_Q}.lokr_w1", (2, 2))], {}, "two kinds"),
        ([("unet.x.lokr_w1", (2, 2)), ("unet.x.lokr_w2", (2, 2))], in_metadata(), "metadata is LoRA's"),
        ([("unet.x.lora_A.weight", (2, 4))], {}, r"counterpart.*x\.lora_up"),
        ([("unet.x.weight", (2, 4))], {}, r"1 tensor.*unet\.x\.weight"),
        ([(f"{TO_Q}.processor.to_q_lora.down.weight", (2, 4))], {}, "counterpart"),
        ([(f"unet.{TO_Q}.lora.down.weight", (2, 4))], {}, "two tensors mean the same"),
    ],
)
def test_what_is_wrong_is_said(extra: list[Any], metadata: dict[str, str], text: str, tmp_path: Path) -> None:
    with pytest.raises((AdapterError, MismatchError), match=text):
        adapter(tmp_path, (A, (2, 4)), (B, (4, 2)), *extra, **metadata)


def test_two_components_are_refused_until_one_is_named(tmp_path: Path) -> None:
    text = "text_encoder.m.self_attn.q_proj.lora_{}.weight"
    shapes = ((A, (2, 4)), (B, (4, 2)), (text.format("A"), (2, 4)), (text.format("B"), (4, 2)))
    found = adapter(tmp_path, *shapes)
    with pytest.raises(AdapterError, match="text_encoder, unet"):
        on(found, TO_Q)
    fitted = on(found, TO_Q, component="text_encoder")
    assert [update.path for update in fitted.updates] == ["m.self_attn.q_proj"]
    assert fitted.explained.keys() == {A, B}


def test_a_weight_that_fits_when_turned_is_refused(tmp_path: Path) -> None:
    (update,) = adapter(tmp_path, (A, (2, 4)), (B, (6, 2))).updates
    with pytest.raises(MismatchError, match=r"\[4, 6\]"):
        update.edits(Module(TO_Q, ModuleKind.UNKNOWN, {"weight": (4, 6)}))


def test_pefts_bias_and_magnitude_are_pefts(tmp_path: Path) -> None:
    more = ((f"unet.{TO_Q}.lora_B.bias", (4,)), (f"unet.{TO_Q}.lora_magnitude_vector", (4,)))
    found = adapter(tmp_path, (A, (2, 4)), (B, (4, 2)), *more)
    weight, bias = found.updates[0].edits(MODULE)
    assert (weight.term.formula, bias.parameter) == ("m/‖W + s·B@A‖ · (W + s·B@A)", "bias")
    assert found.config.title == "diffusers LoRA + DoRA"


def test_the_only_file_of_a_folder_is_the_adapter_and_of_several_one_must_be_named(tmp_path: Path) -> None:
    tensors = drawn(**{A.replace(".", "__"): (2, 4), B.replace(".", "__"): (4, 2)})
    write(tmp_path / "style.safetensors", tensors)
    assert opened(tmp_path).config.title == "diffusers LoRA"
    write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(AdapterError, match=r"other\.safetensors, style\.safetensors"):
        opened(tmp_path)
    assert opened(tmp_path / "style.safetensors").weights.path.name == "style.safetensors"
