"""kohya's and LyCORIS' files: what is read, what is refused. Merged values: `test_against_libraries`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.adapters import Adapter, Module, ModuleKind
from ingot.errors import AdapterError, MismatchError, UsageError
from tests.adapters.dialects.files import TO_Q, UNET, drawn, on, opened, write

FLAT = TO_Q.replace(".", "_")
MODULE = Module(TO_Q, ModuleKind.UNKNOWN, {"weight": (4, 4), "bias": (4,)})
PATHS = tuple(dict.fromkeys(name.rpartition(".")[0] for name in UNET))


def layer(name: str = f"lora_unet_{FLAT}", alpha: float | None = 3.0, **more: Any) -> dict[str, Any]:
    tensors = drawn(**{f"{name}__lora_down__weight": (2, 4), f"{name}__lora_up__weight": (4, 2)})
    if alpha is not None:
        tensors[f"{name}.alpha"] = np.array(alpha, np.float16)
    return {**tensors, **drawn(**{f"{name}__{role}": shape for role, shape in more.items()})}


def adapter(root: Path, tensors: dict[str, Any], **metadata: str) -> Adapter:
    return opened(write(root / "style.safetensors", tensors, **metadata))


def test_a_file_is_summed_up_with_its_metadata(tmp_path: Path) -> None:
    found = adapter(tmp_path, layer(), ss_sd_model_name="v1-5.safetensors", ss_network_dim="2")
    assert (found.config.title, found.ranks, found.config.alphas) == ("kohya LoRA", (2,), (3.0,))
    assert (found.base_model, found.components) == ("v1-5.safetensors", {"unet": 3})
    assert found.explained == {f"lora_unet_{FLAT}.alpha": "alpha of a layer: its value is in the plan, as the layer's "
                               "scaling"}  # fmt: skip
    assert on(found, *PATHS).updates[0].path == TO_Q


@pytest.mark.parametrize(("alpha", "scaling"), [(3.0, 1.5), (-1.0, -0.5), (None, 1.0)])
def test_alpha_over_rank_scales_and_no_alpha_at_all_means_one(
    alpha: float | None, scaling: float, tmp_path: Path
) -> None:
    (edit,) = adapter(tmp_path, layer(alpha=alpha)).updates[0].edits(MODULE)
    assert edit.term.scaling == scaling


def test_a_layer_on_a_norm_and_one_on_a_bias_are_read(tmp_path: Path) -> None:
    tensors = drawn(
        lora_unet_norm__w_norm=(4,), lora_unet_norm__b_norm=(4,), lora_unet_q__diff_b=(4,),
    )  # fmt: skip
    norm, bias = adapter(tmp_path, tensors).updates
    module = Module("n", ModuleKind.OTHER, {"weight": (4,), "bias": (4,)})
    assert [edit.parameter for edit in norm.edits(module)] == ["weight", "bias"]
    assert [edit.parameter for edit in bias.edits(MODULE)] == ["bias"]


Q = f"lora_unet_{FLAT}"


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({f"{Q}.lora_down.weight": (2, 4)}, rf"counterpart.*{Q.removeprefix('lora_unet_')}\.lora_up\.weight"),
        ({f"{Q}.alpha": ()}, "stand alone"),
        ({f"{Q}.hada_w1_a": (4, 2), f"{Q}.hada_w1_b": (2, 4)}, "hada_w2_a"),
        ({f"{Q}.lokr_w1": (2, 2), f"{Q}.lokr_w2_a": (2, 1)}, "lokr_w2_b"),
        ({f"{Q}.lokr_w1": (2, 2), f"{Q}.lokr_w2": (2, 2), f"{Q}.lokr_w2_a": (2, 1), f"{Q}.lokr_w2_b": (1, 2)}, "twice"),
        ({f"{Q}.weight": (4,)}, "on_input"),
        ({f"{Q}.diff": (4, 4), f"{Q}.dora_scale": (4, 1)}, "does not belong to a full difference layer"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2, 4), f"{Q}.diff": (4, 4)}, "two kinds"),
        ({f"{Q}.oft_blocks": (2, 2)}, "OFT"),
        ({f"{Q}.a1.weight": (2, 2)}, "GLoRA"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2, 4), f"{Q}.scalar": ()}, r"1 tensor.*scalar"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2, 4), "unet.x.lora_A.weight": (2, 2)}, r"unet\.x"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2,)}, "mere vector"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2, 0)}, "empty"),
        ({f"{Q}.lora_up.weight": (4, 2), f"{Q}.lora_down.weight": (2, 4), f"{Q}.lora_B.bias": (4,)}, "lora_B.bias"),
    ],
)
def test_what_is_wrong_is_said(tensors: dict[str, Any], text: str, tmp_path: Path) -> None:
    own = drawn(**{name.replace(".", "__"): shape for name, shape in tensors.items()})
    with pytest.raises((AdapterError, MismatchError), match=text):
        adapter(tmp_path, own).updates[0].edits(MODULE)


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_up.weight": (5, 2), "lora_down.weight": (2, 4)},
        {"lora_up.weight": (4, 3), "lora_down.weight": (2, 4)},
        {"lora_up.weight": (4, 2), "lora_down.weight": (2, 4, 3, 3)},
        {"lora_up.weight": (4, 2, 2, 1), "lora_down.weight": (4, 4)},
        {"lora_up.weight": (4, 2), "lora_down.weight": (2, 4), "lora_mid.weight": (2, 2, 3, 3)},
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 3), "hada_w2_b": (3, 4)},
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 5), "hada_w2_a": (4, 2), "hada_w2_b": (2, 5)},
        {"hada_w1_a": (2, 4), "hada_w1_b": (2, 4), "hada_w2_a": (2, 4), "hada_w2_b": (2, 4), "hada_t1": (2, 2, 1)},
        {"lokr_w1": (2, 2), "lokr_w2": (3, 2)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (2, 1), "lokr_w2_b": (2, 2)},
        {"diff": (4, 5)},
        {"diff_b": (5,)},
        {"lora_up.weight": (4, 2), "lora_down.weight": (2, 4), "dora_scale": (4,)},
        {"lora_up.weight": (4, 2), "lora_down.weight": (2, 4), "dora_scale": (2, 2)},
    ],
    ids=str,
)
def test_a_layer_of_another_shape_is_refused_naming_its_tensor(tensors: dict[str, Any], tmp_path: Path) -> None:
    own = drawn(**{f"{Q}.{name}".replace(".", "__"): shape for name, shape in tensors.items()})
    (update,) = adapter(tmp_path, own).updates
    with pytest.raises(MismatchError, match=Q):
        update.edits(MODULE)


@pytest.mark.parametrize("role", ["lora_down.weight", "hada_w1_a", "lokr_w1", "weight"])
def test_a_layer_of_matrices_on_a_vector_is_refused(role: str, tmp_path: Path) -> None:
    roles = {
        "lora_down.weight": {"lora_up.weight": (4, 2), "lora_down.weight": (2, 1)},
        "hada_w1_a": {"hada_w1_a": (4, 2), "hada_w1_b": (2, 1), "hada_w2_a": (4, 2), "hada_w2_b": (2, 1)},
        "lokr_w1": {"lokr_w1": (2, 1), "lokr_w2": (2, 1)},
        "weight": {"weight": (4,)},
    }[role]
    own = drawn(**{f"{Q}.{name}".replace(".", "__"): shape for name, shape in roles.items()})
    own |= {f"{Q}.on_input": np.array(1)} if role == "weight" else {}
    (update,) = adapter(tmp_path, own).updates
    with pytest.raises(MismatchError, match="does not fit"):
        update.edits(Module("norm", ModuleKind.UNKNOWN, {"weight": (4,)}))


def test_a_kernel_of_one_fits_a_matrix_and_the_other_way_round(tmp_path: Path) -> None:
    flat = adapter(tmp_path / "a", layer()).updates[0]
    assert flat.edits(Module(TO_Q, ModuleKind.UNKNOWN, {"weight": (4, 4, 1, 1)}))[0].term.shape == (4, 4)
    tensors = drawn(**{f"{Q}__lora_down__weight": (2, 4, 1, 1), f"{Q}__lora_up__weight": (4, 2, 1, 1)})
    assert adapter(tmp_path / "b", tensors).updates[0].edits(MODULE)[0].term.shape == (4, 4)


def test_one_layer_without_the_alpha_that_others_have_is_refused(tmp_path: Path) -> None:
    tensors = {**layer(), **layer("lora_unet_conv_in", alpha=None)}
    with pytest.raises(AdapterError, match=r"lacks its alpha.*conv_in\.alpha"):
        adapter(tmp_path, tensors)


@pytest.mark.parametrize(("value", "text"), [(0.0, "alpha is 0"), (float("nan"), "not finite")])
def test_an_alpha_that_is_no_scaling_is_refused(value: float, text: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=text):
        adapter(tmp_path, layer(alpha=value))


def test_an_alpha_of_several_numbers_is_refused(tmp_path: Path) -> None:
    tensors = {**layer(), f"{Q}.alpha": np.ones(2, np.float32)}
    with pytest.raises(AdapterError, match="one number"):
        adapter(tmp_path, tensors)


# -- components and names ---------------------------------------------------------------------------------------------


def test_two_components_are_refused_until_one_is_named_and_the_other_is_then_explained(tmp_path: Path) -> None:
    te = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    found = adapter(tmp_path, {**layer(), **layer(te)})
    assert found.components == {"text_encoder": 3, "unet": 3}
    with pytest.raises(AdapterError, match="text_encoder, unet") as caught:
        on(found, *PATHS)
    assert "--component unet" in str(caught.value.hint)
    fitted = on(found, *PATHS, component="unet")
    assert [update.path for update in fitted.updates] == [TO_Q]
    assert fitted.explained[f"{te}.alpha"] == "belongs to text_encoder, another component than unet"
    claimed = {ref.name for update in fitted.updates for ref in update.tensors}
    assert claimed | fitted.explained.keys() == found.tensors.keys()
    assert on(found, *PATHS, component="transformer").updates[0].path == TO_Q
    with pytest.raises(UsageError, match="text_encoder_2"):
        on(found, *PATHS, component="text_encoder_2")


def test_a_name_that_may_mean_two_modules_is_refused_naming_both(tmp_path: Path) -> None:
    found = adapter(tmp_path, layer("lora_unet_a_b_c"))
    with pytest.raises(MismatchError, match=r"a\.b_c, a_b\.c"):
        on(found, "a.b_c", "a_b.c")


def test_a_name_that_the_base_does_not_have_is_refused_with_what_is_near(tmp_path: Path) -> None:
    found = adapter(tmp_path, layer("lora_unet_down_blocks_0_attentions_0_to_k"))
    with pytest.raises(MismatchError) as caught:
        on(found, *PATHS)
    assert TO_Q in str(caught.value.hint)
    with pytest.raises(MismatchError) as caught:
        on(adapter(tmp_path, layer("lora_unet_double_blocks_0_img_attn_qkv")), "transformer_blocks.0.attn.to_q")
    assert "save_lora_weights" in str(caught.value.hint)


def test_names_of_the_original_unet_are_for_a_unet_alone(tmp_path: Path) -> None:
    found = adapter(tmp_path, layer("lora_unet_input_blocks_1_1_to_q"))
    assert on(found, *PATHS, _class_name="UNet2DConditionModel").updates[0].path == TO_Q
    with pytest.raises(MismatchError) as caught:
        on(found, *PATHS, _class_name="SomeTransformer2DModel")
    assert "UNet2DConditionModel" in str(caught.value.hint)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_text_encoder_is_found_whichever_transformers_saved_it(prefix: str, tmp_path: Path) -> None:
    found = adapter(tmp_path, layer("lora_te1_text_model_encoder_layers_0_mlp_fc1"))
    paths = {"encoder.layers.0.mlp.fc1", f"{prefix}encoder.layers.0.mlp.fc1"}
    fitted = on(found, *paths, model_type="clip_text_model")
    assert fitted.updates[0].path == f"{prefix}encoder.layers.0.mlp.fc1"


def test_two_names_of_one_module_are_refused(tmp_path: Path) -> None:
    found = adapter(tmp_path, {**layer(), **layer("lora_unet_input_blocks_1_1_to_q")})
    with pytest.raises(MismatchError, match="two layers of the adapter mean one module"):
        on(found, *PATHS, _class_name="UNet2DConditionModel")


def test_what_lycoris_alone_has_is_in_the_title(tmp_path: Path) -> None:
    tensors = drawn(
        lycoris_q__hada_w1_a=(4, 2), lycoris_q__hada_w1_b=(2, 4), lycoris_q__hada_w2_a=(4, 2),
        lycoris_q__hada_w2_b=(2, 4), lycoris_q__dora_scale=(4, 1),
    )  # fmt: skip
    assert adapter(tmp_path, tensors).config.title == "kohya LoRA (LyCORIS LoHa + DoRA)"
