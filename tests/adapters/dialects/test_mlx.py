"""mlx-lm's adapters: what its settings mean, and what is refused. Merged values: `test_against_libraries`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.adapters import Adapter, Module, ModuleKind
from ingot.errors import AdapterError, MismatchError
from tests.adapters.dialects.files import drawn, on, opened, write

REAL = Path(__file__).parents[4] / "shared" / "adapters" / "configs"
Q = "model.layers.1.self_attn.q_proj"
LORA = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0}}


def pair(path: str = Q, rank: int = 2, inner: int = 4, out: int = 6) -> dict[str, Any]:
    name = path.replace(".", "__")
    return drawn(**{f"{name}__lora_a": (inner, rank), f"{name}__lora_b": (rank, out)})


def adapter(root: Path, tensors: dict[str, Any] | None = None, **settings: Any) -> Adapter:
    return opened(write(root / "adapters.safetensors", tensors or pair(), {**LORA, **settings}).parent)


def test_scale_is_the_scaling_and_no_rank_divides_it(tmp_path: Path) -> None:
    found = adapter(tmp_path, lora_parameters={"rank": 2, "alpha": 16, "scale": 10.0})
    (edit,) = found.updates[0].edits(Module(Q, ModuleKind.LINEAR, {"weight": (6, 4)}))
    assert edit.term.scaling == 10.0
    assert edit.term.shape == (6, 4)
    assert (found.config.title, found.ranks, found.config.alphas) == ("MLX LoRA", (2,), ())


def test_a_run_that_nothing_dates_is_refused_where_its_alpha_may_count(tmp_path: Path) -> None:
    old = {"lora_layers": 8, "adapter_path": "x", "lora_parameters": {"rank": 2, "alpha": 16, "scale": 10.0}}
    write(tmp_path / "adapters.safetensors", pair(), old)
    with pytest.raises(AdapterError, match=r"June 2024.*= 80 before, scale = 10 after"):
        opened(tmp_path)
    same = {**old, "lora_parameters": {"rank": 2, "alpha": 2, "scale": 10.0}}
    write(tmp_path / "adapters.safetensors", pair(), same)
    assert opened(tmp_path).updates[0].scale == 10.0


@pytest.mark.parametrize(
    ("settings", "tensors", "text"),
    [
        ({"lora_parameters": {"rank": 2}}, {}, "`scale` is missing"),
        ({"lora_parameters": {"rank": 3, "scale": 1.0}}, {}, "rank of a tensor is not that of the config"),
        ({"lora_parameters": {"rank": 2, "scale": "x"}}, {}, "`scale` has a wrong value"),
        ({"lora_parameters": [1]}, {}, "lora_parameters"),
        ({"fine_tune_type": "qlora"}, {}, "fine_tune_type"),
        ({"fine_tune_type": "dora"}, {}, r"counterpart.*q_proj\.m`"),
        ({}, {f"{Q}.m": (6,)}, "magnitude in a run that is not called dora"),
        ({}, {f"{Q}.lora_c": (2, 2)}, r"1 tensor.*lora_c"),
        ({}, {"model.layers.0.self_attn.v_proj.lora_a": (4, 2)}, r"counterpart.*v_proj\.lora_b"),
        ({}, {"model.layers.0.x.lora_a": (4, 2), "model.layers.0.x.lora_b": (3, 6)}, "do not multiply"),
        ({}, {"model.layers.0.x.lora_a": (2, 2, 4), "model.layers.0.x.lora_b": (2, 6, 2)}, "stack of experts"),
        ({}, {"a.switch_mlp.up_proj.lora_a": (3, 4), "a.switch_mlp.up_proj.lora_b": (2, 6, 2)}, "do not multiply"),
        ({"fine_tune_type": "full"}, {"model.layers.0.x.scales": (2,)}, "quantized MLX model"),
    ],
)
def test_what_is_wrong_is_said(settings: Any, tensors: Any, text: str, tmp_path: Path) -> None:
    own = drawn(**{name.replace(".", "__"): shape for name, shape in tensors.items()})
    with pytest.raises((AdapterError, MismatchError), match=text):
        adapter(tmp_path, {**pair(), **own}, **settings)


def test_weights_without_their_settings_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "adapters.safetensors", pair())
    with pytest.raises(AdapterError, match=r"no adapter_config\.json of mlx-lm") as caught:
        opened(tmp_path)
    assert "folder" in str(caught.value.hint)


def test_pefts_config_beside_mlx_weights_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "adapters.safetensors", pair(), {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    with pytest.raises(AdapterError, match="mlx-lm"):
        opened(tmp_path)


def test_a_checkpoint_of_the_run_is_an_adapter_too(tmp_path: Path) -> None:
    path = write(tmp_path / "0000100_adapters.safetensors", pair(), LORA)
    assert opened(path).config.title == "MLX LoRA"


def test_modules_that_keys_names_and_the_file_lacks_are_missing(tmp_path: Path) -> None:
    parameters = {"rank": 2, "scale": 3.0, "keys": ["self_attn.q_proj", "mlp.up_proj"]}
    found = adapter(tmp_path, lora_parameters=parameters)
    paths = [f"model.layers.{n}.{end}" for n in range(3) for end in ("self_attn.q_proj", "mlp.up_proj")]
    fitted = on(found, *paths)
    last = [path for path in paths if fitted.expects(path)]
    assert last == ["model.layers.2.self_attn.q_proj", "model.layers.2.mlp.up_proj"]
    up = Module("model.layers.2.mlp.up_proj", ModuleKind.LINEAR, {"weight": (8, 4)})
    assert fitted.lacks(up) == ("model.layers.2.mlp.up_proj.lora_a",)


def test_a_square_embedding_is_told_by_its_name_where_no_class_is_known(tmp_path: Path) -> None:
    for path, left in (("model.embed_tokens", "lora_a"), ("model.layers.1.x", "lora_b")):
        found = adapter(tmp_path / left, pair(path, inner=5, out=5))
        (edit,) = found.updates[0].edits(Module(path, ModuleKind.UNKNOWN, {"weight": (5, 5)}))
        assert edit.term.left.ref.name == f"{path}.{left}"


def test_a_shape_that_fits_when_turned_is_refused(tmp_path: Path) -> None:
    (update,) = adapter(tmp_path).updates
    with pytest.raises(MismatchError, match=r"\[6, 4\]"):
        update.edits(Module("model.layers.1.self_attn.q_proj", ModuleKind.LINEAR, {"weight": (4, 6)}))


@pytest.mark.parametrize(
    ("model_type", "path", "kind", "refused"),
    [
        ("falcon_h1", "model.layers.1.mamba.in_proj", "lora", True),
        ("llama", Q, "lora", False),
        ("bailing_moe", "lm_head", "lora", True),
        ("bailing_moe", Q, "lora", False),
        ("qwen3_next", "model.layers.1.input_layernorm", "full", True),
        ("qwen3_next", Q, "full", False),
    ],
)
def test_weights_that_mlx_changes_when_it_loads_them_are_refused(
    model_type: str, path: str, kind: str, refused: bool, tmp_path: Path
) -> None:
    tensors = pair(path) if kind == "lora" else drawn(**{f"{path.replace('.', '__')}__weight": (4,)})
    found = adapter(tmp_path, tensors, fine_tune_type=kind)
    if refused:
        with pytest.raises(MismatchError, match="rescales"):
            on(found, path, model_type=model_type)
    else:
        assert on(found, path, model_type=model_type).updates


def test_experts_take_the_names_that_they_have_on_disk(tmp_path: Path) -> None:
    stack = {"lora_a": (3, 2, 4), "lora_b": (3, 6, 2)}
    for block, names in (("mlp", ["gate_proj"]), ("block_sparse_moe", ["w1"])):
        path = f"model__layers__0__{block}__switch_mlp__gate_proj"
        tensors = drawn(**{f"{path}__{role}": shape for role, shape in stack.items()})
        found = adapter(tmp_path / block, tensors)
        assert [u.path for u in found.updates] == [f"model.layers.0.{block}.experts.{e}.{names[0]}" for e in range(3)]
        (edit,) = found.updates[1].edits(Module("e", ModuleKind.LINEAR, {"weight": (6, 4)}))
        assert np.prod(edit.term.left.shape) == 12
        assert edit.term.scaling == 3.0


def real_configs() -> list[Any]:
    paths = sorted(REAL.glob("*_mlx_*.json"))
    return [pytest.param(path, id=path.stem) for path in paths] or [
        pytest.param(None, marks=pytest.mark.skip(reason="no real adapter files beside the checkout"))
    ]


@pytest.mark.parametrize("path", real_configs())
def test_real_settings_are_read(path: Path, tmp_path: Path) -> None:
    raw = json.loads(path.read_text())
    rank = raw["lora_parameters"]["rank"]
    write(tmp_path / "adapters.safetensors", pair(rank=rank), raw)
    found = opened(tmp_path)
    assert found.updates[0].scale == raw["lora_parameters"]["scale"]
    assert found.base_model == raw.get("model")
