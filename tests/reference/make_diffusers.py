"""Make the references of diffusers' form and kohya's: `python -m tests.reference.make_diffusers`.

Needs diffusers and peft, in a venv of their own. Made with diffusers 0.42.1, peft 0.21.2, torch 2.13.0.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.reference.drawn import draw, draw_adapter
from tests.reference.kept import Spec, keep

BY = f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}"
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA = "pytorch_lora_weights.safetensors"


def unet(levels: int = 2, depth: int = 1, linear: bool = False) -> UNet2DConditionModel:
    """A UNet as Stable Diffusion's, of `levels` levels with `depth` resnets each; the first level has no attention."""
    down = ("DownBlock2D", *("CrossAttnDownBlock2D" for _ in range(levels - 1)))
    model = UNet2DConditionModel(
        sample_size=8, block_out_channels=(4,) * (levels - 1) + (8,), layers_per_block=depth, norm_num_groups=2,
        down_block_types=down, up_block_types=tuple(n.replace("Down", "Up") for n in reversed(down)),
        cross_attention_dim=6, attention_head_dim=2, use_linear_projection=linear, in_channels=3, out_channels=3,
    )  # fmt: skip
    return fill(model)


def flux() -> FluxTransformer2DModel:
    return fill(
        FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=6,
            pooled_projection_dim=5,
            axes_dims_rope=(2, 1, 1),
        )
    )


def fill(model: Any) -> Any:
    """The model with weights drawn from their names."""
    model.load_state_dict({name: torch.from_numpy(draw(name, t.shape)) for name, t in model.state_dict().items()})
    return model.eval()


def drawn(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(draw_adapter(name, t.shape)) for name, t in tensors.items()}


def shapes(tensors: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(t.shape) for name, t in tensors.items()}


def config_of(model: Any) -> dict[str, Any]:
    config = json.loads(model.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_name")}


def state(model: Any) -> dict[str, np.ndarray]:
    """The weights after a fuse, under the names of the base."""
    model.unload_lora()
    return {name: t.detach().numpy() for name, t in model.state_dict().items()}


def record(case: str, make: Callable[[], Any], adapter: dict[str, torch.Tensor], load: Callable[[Any, Path], None],
           what: str, *, numbers: dict[str, list[Any]] | None = None, metadata: dict[str, str] | None = None,
           **options: Any) -> None:  # fmt: skip
    """Load the adapter with the library, fuse it, keep what came out."""
    model = make()
    base = shapes(model.state_dict())
    numbers = numbers or {}
    values = drawn({name: t for name, t in adapter.items() if name not in numbers})
    values |= {name: torch.tensor(value, dtype=getattr(torch, dtype)) for name, (dtype, value) in numbers.items()}
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: v.contiguous() for k, v in values.items()}, Path(folder) / LORA, metadata)
        load(model, Path(folder))
    model.fuse_lora()
    spec = Spec(
        by=f"{BY}: {what}", base=base, base_name=WEIGHTS, adapter=shapes(values), adapter_name=LORA, numbers=numbers,
        base_files={"config.json": config_of(model)}, metadata=metadata or {}, options=options,
    )  # fmt: skip
    keep(case, spec, state(model))


def saved_by_pipeline(pipeline: Any, component: str, model: Any, config: peft.LoraConfig, **more: Any) -> Any:
    """What `save_lora_weights` writes for an adapter of this config: tensors and metadata."""
    model.add_adapter(config)
    layers = peft.get_peft_model_state_dict(model)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_lora_weights(folder, **{f"{component}_lora_layers": layers}, **more)
        from safetensors import safe_open

        with safe_open(Path(folder) / LORA, "pt") as file:
            metadata = file.metadata()
        return load_file(Path(folder) / LORA), metadata


def in_metadata(config: peft.LoraConfig, component: str) -> dict[str, Any]:
    return {f"{component}_lora_adapter_metadata": config.to_dict()}


def as_pipeline(pipeline: Any, component: str) -> Callable[[Any, Path], None]:
    """Load as `pipeline.load_lora_weights` does, into one component."""

    def load(model: Any, folder: Path) -> None:
        found = pipeline.lora_state_dict(folder / LORA, unet_config=model.config, return_lora_metadata=True,
                                         **({"return_alphas": True} if pipeline is FluxPipeline else {}))  # fmt: skip
        tensors, alphas, metadata = found
        model.load_lora_adapter(tensors, prefix=component, network_alphas=alphas, metadata=metadata)

    return load


def main() -> None:
    # What diffusers saves today, with its config in the metadata: alpha, patterns, convolutions, DoRA, biases.
    targets = ["to_q", "to_k", "to_out.0", "conv1", "proj_in", "time_emb_proj", "conv_shortcut"]
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, rank_pattern={"conv1": 3},
                             alpha_pattern={"to_q": 5})  # fmt: skip
    tensors, metadata = saved_by_pipeline(
        StableDiffusionPipeline, "unet", unet(), config, **in_metadata(config, "unet")
    )
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"
    with_text = {**tensors, text.format("A"): torch.empty(2, 6), text.format("B"): torch.empty(6, 2)}
    load = as_pipeline(StableDiffusionPipeline, "unet")
    record("diffusers_unet", unet, with_text, load, "load_lora_weights and fuse_lora of a UNet's LoRA beside a text "
           "encoder's", metadata=metadata, component="unet")  # fmt: skip

    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_v", "conv2"], use_dora=True, use_rslora=True)
    tensors, metadata = saved_by_pipeline(
        StableDiffusionPipeline, "unet", unet(), config, **in_metadata(config, "unet")
    )
    record("diffusers_dora", unet, tensors, load, "load_lora_weights and fuse_lora, DoRA", metadata=metadata)

    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_out.0", "ff.net.2"], lora_bias=False)
    tensors, _ = saved_by_pipeline(StableDiffusionPipeline, "unet", unet(), config)
    record("diffusers_plain", unet, tensors, load, "load_lora_weights and fuse_lora, no metadata and no alpha")

    # Before PEFT: `.lora.down.weight`, and attention processors of 2023 without a component's name.
    old = {k.replace("lora_A.weight", "lora.down.weight").replace("lora_B.weight", "lora.up.weight"): v
           for k, v in tensors.items()}  # fmt: skip
    record("diffusers_down_up", unet, old, load, "load_lora_weights and fuse_lora, `.lora.down.weight`")
    processors = {}
    for name, tensor in tensors.items():
        if ".attn" in name:
            path, _, role = name.removeprefix("unet.").partition(".lora_")
            stem, _, leaf = path.replace(".to_out.0", ".to_out").rpartition(".")
            side = {"A.weight": "down", "B.weight": "up"}[role]
            processors[f"{stem}.processor.{leaf}_lora.{side}.weight"] = tensor
    record("diffusers_processors", unet, processors, lambda m, f: m.load_lora_adapter(load_file(f / LORA), prefix=None),
           "load_lora_adapter and fuse_lora, attention processors")  # fmt: skip

    # A transformer with an alpha for each layer.
    targets = ["to_q", "add_k_proj", "to_out.0", "proj_mlp", "norm.linear"]
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets)
    tensors, _ = saved_by_pipeline(FluxPipeline, "transformer", flux(), config)
    alphas = {name.replace("lora_A.weight", "alpha"): ["float32", 1.0 + number % 3]
              for number, name in enumerate(n for n in tensors if n.endswith("lora_A.weight"))}  # fmt: skip
    record("diffusers_alphas", flux, {**tensors, **dict.fromkeys(alphas)}, as_pipeline(FluxPipeline, "transformer"),
           "load_lora_weights and fuse_lora of a transformer with alphas", numbers=alphas)  # fmt: skip

    # kohya, in diffusers' block names and in those of the original UNet.
    for case, model, original in (("kohya_unet", unet, False), ("kohya_original", lambda: unet(3, 2, True), True)):
        record_kohya(case, model, original)


def record_kohya(case: str, make: Callable[[], Any], original: bool) -> None:
    """Every Linear and convolution in a block; those outside of blocks diffusers cannot load.

    One alpha for all, and two ranks: where alphas differ, diffusers 0.42.1 scales attention layers by the most frequent
    one, as it looks for theirs under the names of attention processors.
    """
    model = make()
    names = {}
    for path, module in model.named_modules():
        blocks = path.startswith(("down_blocks", "mid_block", "up_blocks"))
        if not blocks or not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            continue
        # diffusers cannot read these in kohya's names: it takes the upsampler behind an attention alone.
        if "upsamplers" in path and original and not hasattr(model.up_blocks[int(path.split(".")[1])], "attentions"):
            continue
        names[path] = module
    spelled = {path: _original(path, 2) if original else path for path in names}
    adapter, numbers = {}, {}
    for number, (path, module) in enumerate(names.items()):
        key = f"lora_unet_{spelled[path].replace('.', '_')}"
        out, inner, *kernel = module.weight.shape
        rank = 2 + number % 2
        adapter[f"{key}.lora_down.weight"] = torch.empty(rank, inner, *kernel)
        adapter[f"{key}.lora_up.weight"] = torch.empty(out, rank, *(1 for _ in kernel))
        adapter[f"{key}.alpha"] = torch.empty(())
        numbers[f"{key}.alpha"] = ["float16", 1.5]
    te = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    adapter |= {f"{te}.lora_down.weight": torch.empty(2, 6), f"{te}.lora_up.weight": torch.empty(6, 2)}
    adapter[f"{te}.alpha"], numbers[f"{te}.alpha"] = torch.empty(()), ["float16", 1.5]
    record(case, make, adapter, as_pipeline(StableDiffusionPipeline, "unet"),
           "load_lora_weights and fuse_lora of a file in kohya's names", numbers=numbers, component="unet")  # fmt: skip


def _original(path: str, depth: int) -> str:
    """The original checkpoint's name, by diffusers' own table: the inverse of its conversion, asked name by name."""
    return ORIGINALS(depth)[path]


def ORIGINALS(depth: int) -> dict[str, str]:  # noqa: N802
    """diffusers' path -> original name, from `convert_ldm_unet_checkpoint` run on a checkpoint that names itself."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model = unet(3, depth, True)
    wanted = {name: t.shape for name, t in model.state_dict().items()}
    originals = _guesses(wanted, depth)
    marked = {f"model.diffusion_model.{name}": torch.full((1,), float(n)) for n, name in enumerate(originals)}
    converted = convert_ldm_unet_checkpoint(marked, config=dict(model.config))
    names = list(originals)
    found = {new.rpartition(".")[0]: names[int(value)].rpartition(".")[0] for new, value in converted.items()}
    missing = {name.rpartition(".")[0] for name in wanted} - found.keys()
    assert not missing, missing
    return found


def _guesses(wanted: dict[str, Any], depth: int) -> list[str]:
    """All names that an original checkpoint of this shape has."""
    names = [f"{stem}.{leaf}" for stem in ("input_blocks.0.0", "out.0", "out.2", "time_embed.0", "time_embed.2")
             for leaf in ("weight", "bias")]  # fmt: skip
    resnet = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
    inner = sorted({name.partition("attentions.")[2].partition(".")[2] for name in wanted if ".attentions." in name})
    levels = 3
    for block in range(levels):
        for number in range(depth):
            at = 1 + block * (depth + 1) + number
            names += [f"input_blocks.{at}.0.{part}.{leaf}" for part in resnet for leaf in ("weight", "bias")]
            names += [f"input_blocks.{at}.1.{part}" for part in inner] if block else []
        if block < levels - 1:
            names += [f"input_blocks.{(block + 1) * (depth + 1)}.0.op.{leaf}" for leaf in ("weight", "bias")]
        for number in range(depth + 1):
            at = block * (depth + 1) + number
            attending = block < levels - 1
            names += [f"output_blocks.{at}.0.{part}.{leaf}" for part in resnet for leaf in ("weight", "bias")]
            names += [f"output_blocks.{at}.1.{part}" for part in inner] if attending else []
            if number == depth and block < levels - 1:
                names += [f"output_blocks.{at}.{2 if attending else 1}.conv.{leaf}" for leaf in ("weight", "bias")]
    for at in (0, 2):
        names += [f"middle_block.{at}.{part}.{leaf}" for part in resnet for leaf in ("weight", "bias")]
    return names + [f"middle_block.1.{part}" for part in inner]


if __name__ == "__main__":
    main()
