"""A foreign adapter goes the whole way: planned, merged, recorded, verified, inspected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from ingot.inspect import inspect_path
from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.plan.render import as_lines
from tests.adapters.dialects.files import TO_Q, drawn, write, write_base
from tests.cli.toys import make_base, run_here
from tests.oracle.reference import unheard
from tests.tiny_models import MODELS

FLAT = TO_Q.replace(".", "_")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def style(root: Path, te: bool = True) -> Path:
    """A kohya file of two components."""
    names = [f"lora_unet_{FLAT}"] + (["lora_te_text_model_encoder_layers_0_mlp_fc1"] if te else [])
    tensors: dict[str, Any] = {}
    for name in names:
        tensors |= drawn(**{f"{name}__lora_down__weight": (2, 4), f"{name}__lora_up__weight": (4, 2)})
        tensors[f"{name}.alpha"] = np.array(3.0, np.float16)
    return write(root / "my style.safetensors", tensors, ss_network_dim="2")


def test_a_file_is_merged_recorded_under_its_name_and_recomputed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path / "unet")
    file = style(tmp_path / "downloads")
    assert run_here("merge unet 'downloads/my style.safetensors=0.5' --component unet -o out", tmp_path) == 0
    tensors = load_file(file)
    base, merged = load_file(tmp_path / "unet" / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    up, down = tensors[f"lora_unet_{FLAT}.lora_up.weight"], tensors[f"lora_unet_{FLAT}.lora_down.weight"]
    expected = base[f"{TO_Q}.weight"].astype(np.float64) + 0.5 * 1.5 * up.astype(np.float64) @ down
    assert np.abs(merged[f"{TO_Q}.weight"] - expected).max() < 1e-7
    record = json.loads((tmp_path / "out" / "ingot.json").read_text())
    recipe = record["predicate"]["buildDefinition"]["externalParameters"]
    assert recipe["adapters"] == [{"name": "my style", "revision": None, "weight": 0.5}]
    assert recipe["options"]["component"] == "unet"
    explained = record["predicate"]["runDetails"]["ingot_checks"]["adapter_tensors"]["explained"]
    assert len(explained) == 4
    assert str(tmp_path) not in (tmp_path / "out" / "ingot.json").read_text()
    assert "--component unet" in (tmp_path / "out" / "README.md").read_text()
    assert run_here("verify out --read", tmp_path) == 0
    again = "verify out --against-inputs --base unet --adapter 'downloads/my style.safetensors'"
    assert run_here(again, tmp_path) == 0
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert run_here(again, tmp_path) == 1
    assert "my style.safetensors" in capfd.readouterr().err


def test_two_components_and_no_name_are_an_error_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path / "unet")
    style(tmp_path)
    assert run_here("merge unet 'my style.safetensors' -o out", tmp_path) == 11
    assert "--component unet" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_component_for_an_adapter_without_any_is_a_wrong_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_base(tmp_path / "base")
    q = "model__layers__1__self_attn__q_proj"
    settings = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 3.0}}
    write(tmp_path / "mlx" / "adapters.safetensors",
          drawn(**{f"{q}__lora_a": (16, 2), f"{q}__lora_b": (2, 16)}), settings)  # fmt: skip
    assert run_here("plan base mlx --component unet", tmp_path) == 2
    assert "no adapter has components" in capfd.readouterr().err
    assert run_here("plan base mlx", tmp_path) == 0
    assert "mlx: MLX LoRA, rank 2" in capfd.readouterr().out


def test_the_plan_and_the_inspection_say_which_dialect_it_is(tmp_path: Path) -> None:
    base, file = write_base(tmp_path / "unet"), style(tmp_path / "x")
    with prepare(str(base), [(str(file), 1.0)], Options(component="unet")) as job:
        lines = "\n".join(as_lines(job.plan, 100))
    assert "my style: kohya LoRA, rank 2, alpha 3" in lines
    assert "component: unet" in lines
    assert "belongs to text_encoder, another component than unet" in lines
    for path in (file, file.parent):
        report = inspect_path(path)
        assert report.kind == "adapter"
        assert report.facts["method"] == "kohya LoRA"
        assert report.facts["components"] == {"text_encoder": 3, "unet": 3}
        assert report.facts["refused"] is None


def test_a_refused_dialect_is_inspected_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", drawn(lora_unet_q__lora_down__weight=(2, 4)))
    report = inspect_path(path)
    assert report.facts["method"] == "kohya"
    assert "counterpart" in str(report.facts["refused"])


def test_foreign_and_pefts_adapters_are_merged_together(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    q = "model.layers.1.self_attn.q_proj"
    flat = q.replace(".", "__")
    settings = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 3.0}}
    mlx = drawn(**{f"{flat}__lora_a": (16, 2), f"{flat}__lora_b": (2, 16)})
    write(tmp_path / "mlx" / "adapters.safetensors", mlx, settings)
    theirs = drawn(**{f"base_model__model__{flat}__lora_A__weight": (2, 16),
                      f"base_model__model__{flat}__lora_B__weight": (16, 2)})  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [q]}
    write(tmp_path / "peft" / "adapter_model.safetensors", theirs, config)
    assert run_here("merge base mlx peft=0.5 -o out --dtype float32", tmp_path) == 0
    merged = {name: t for file in (tmp_path / "out").glob("*.safetensors") for name, t in load_file(file).items()}
    a, b = (mlx[f"{q}.{role}"].astype(np.float64) for role in ("lora_a", "lora_b"))
    lora_a, lora_b = (theirs[f"base_model.model.{q}.{role}.weight"].astype(np.float64) for role in ("lora_A", "lora_B"))
    expected = base[f"{q}.weight"].astype(np.float64) + 3 * (a @ b).T + 0.5 * 2 * lora_b @ lora_a
    assert np.abs(merged[f"{q}.weight"] - expected).max() < 1e-6


def test_an_adapter_that_transformers_itself_saved_is_pefts(tmp_path: Path) -> None:
    """`model.add_adapter` and `save_pretrained`: PEFT merges what transformers wrote, and so does ingot."""
    with unheard():
        model = MODELS["llama"]().float()
        model.save_pretrained(tmp_path / "base")
        model.add_adapter(peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"]))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        model.save_pretrained(tmp_path / "native")
        fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        theirs = peft.PeftModel.from_pretrained(fresh, tmp_path / "native").merge_and_unload().state_dict()
    assert sorted(path.name for path in (tmp_path / "native").iterdir() if "adapter" in path.name) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert run_here("merge base native -o out", tmp_path) == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    changed = 0
    for name, value in merged.items():
        assert np.abs(value - theirs[name].numpy()).max() < 1e-6, name
        changed += "q_proj" in name or "down_proj" in name
    assert changed == 4


@pytest.mark.parametrize("layout", [None, "unsloth"])
def test_the_plan_says_how_expert_stacks_are_read(layout: str | None, tmp_path: Path) -> None:
    with unheard():
        MODELS["qwen3_moe"]().float().save_pretrained(tmp_path / "base")
    parameter = "model.layers.0.mlp.experts.down_proj"
    model = MODELS["qwen3_moe"]()
    experts, out, inner = model.get_parameter(parameter).shape
    path = "base_model__model__model__layers__0__mlp__experts"
    tensors = drawn(**{f"{path}__lora_A__weight": (2 * experts, inner), f"{path}__lora_B__weight": (out, 2 * experts)})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [], "peft_version": "0.21.2",
              "target_parameters": ["0.mlp.experts.down_proj"]}  # fmt: skip
    file = write(tmp_path / "lora" / "adapter_model.safetensors", tensors, config)
    options = Options(expert_layout=layout)
    with prepare(str(tmp_path / "base"), [(str(file.parent), 1.0)], options, target=tmp_path / "out") as job:
        text = " ".join("\n".join(as_lines(job.plan, 100)).split())
        job.run()
    assert ("as Unsloth trained it" in text, "expert layout: unsloth" in text) == (layout is not None,) * 2
    assert ("as PEFT saves it" in text) == (layout is None)
    a, b = (
        tensors[f"base_model.model.model.layers.0.mlp.experts.lora_{side}.weight"].astype(np.float64) for side in "AB"
    )
    b = b.reshape(out, experts, 2).transpose(1, 0, 2) if layout else b.reshape(out, 2, experts).transpose(2, 0, 1)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(tmp_path / "base" / "model.safetensors")
    for expert in range(experts):
        name = f"model.layers.0.mlp.experts.{expert}.down_proj.weight"
        expected = base[name].astype(np.float64) + b[expert] @ a.reshape(experts, 2, inner)[expert]
        assert np.abs(merged[name] - expected).max() < 1e-6
