"""Make the references of LyCORIS' methods: `python -m tests.reference.make_lycoris`.

Needs lycoris-lora, in a venv of its own. Made with lycoris-lora 4.1.3, torch 2.13.0.

A layer's weight is what its forward pass does, since that was trained: LyCORIS' `merge_to` scales LoHa and LoKr twice.
A Linear is asked by the unit vectors; a convolution by pictures with one pixel, at the centre of what comes out.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import lycoris
import numpy as np
import torch
from lycoris import LycorisNetwork, create_lycoris
from torch import nn

from tests.reference.drawn import draw, draw_adapter
from tests.reference.kept import Spec, keep

BY = f"lycoris-lora {version('lycoris-lora')}, torch {torch.__version__}"


class Net(nn.Module):
    """One of each layer, under names that read alike with underscores but for one."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(12, 8)
        self.up_proj = nn.Linear(8, 16, bias=False)
        self.down = nn.ModuleList([nn.Conv2d(6, 12, 3, padding=1), nn.Conv2d(12, 6, 1)])
        self.conv1d = nn.Conv1d(4, 10, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.group_norm = nn.GroupNorm(2, 6)


def seeded() -> Net:
    net = Net()
    net.load_state_dict({name: torch.from_numpy(draw(name, t.shape)) for name, t in net.state_dict().items()})
    return net


def effective(module: nn.Module, wrapped: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of what the layer computes."""
    weight = module.weight
    if isinstance(module, nn.Linear):
        bias = wrapped(torch.zeros(1, weight.shape[1], dtype=weight.dtype))[0]
        made = wrapped(torch.eye(weight.shape[1], dtype=weight.dtype)) - bias
        return made.T, (bias if module.bias is not None else None)
    _, inputs, *kernel = weight.shape
    count = inputs * int(np.prod(kernel))
    pictures = torch.eye(count, dtype=weight.dtype).reshape(count, inputs, *kernel)
    middle = tuple(side // 2 for side in kernel)
    bias = wrapped(torch.zeros_like(pictures[:1]))[(0, slice(None), *middle)]
    made = wrapped(pictures)[(slice(None), slice(None), *middle)] - bias
    return made.T.reshape(weight.shape), bias


def effective_norm(module: nn.Module, wrapped: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a norm: from what it makes of two inputs whose normed values are known."""
    shape = (2, module.weight.shape[0]) if isinstance(module, nn.LayerNorm) else (2, module.weight.shape[0], 3)
    x = torch.randn(shape, dtype=module.weight.dtype, generator=torch.Generator().manual_seed(0))
    weight, bias = module.weight.data.clone(), module.bias.data.clone()
    made = wrapped(x)
    module.weight.data.fill_(1), module.bias.data.zero_()
    plain = type(module).forward(module, x)
    module.weight.data, module.bias.data = weight, bias
    a, b = (plain[0], plain[1]) if x.ndim == 2 else (plain[0, :, 0], plain[1, :, 0])
    ya, yb = (made[0], made[1]) if x.ndim == 2 else (made[0, :, 0], made[1, :, 0])
    slope = (ya - yb) / (a - b)
    return slope, ya - slope * a


def record(case: str, algo: str, *, dtype: torch.dtype = torch.float64, norms: bool = False, **settings: Any) -> None:
    """Wrap the net, give the adapter drawn values, keep what its layers compute."""
    net = seeded()
    base = {name: list(t.shape) for name, t in net.state_dict().items()}
    targets = ["to_q", "up_proj", "down.0", "down.1", "conv1d"] + (["norm", "group_norm"] if norms else [])
    LycorisNetwork.apply_preset({"target_name": targets, "enable_conv": True})
    settings = {"linear_dim": 2, "conv_dim": 2, "linear_alpha": 3.0, "conv_alpha": 3.0, **settings}
    network = create_lycoris(net.to(dtype), 1.0, algo=algo, train_norm=norms, **settings)
    originals = {name: t.detach().clone() for name, t in net.state_dict().items()}
    network.apply_to()
    network.to(dtype)
    saved = dict(network.state_dict())
    numbers = {name: [str(t.dtype).removeprefix("torch."), float(t)] for name, t in saved.items() if t.numel() == 1
               and name.endswith(("alpha", "on_input"))}  # fmt: skip
    numbers = {n: ["float32" if d.startswith(("float", "bfloat")) else d, v] for n, (d, v) in numbers.items()}
    values = {name: torch.from_numpy(draw_adapter(name, t.shape)) for name, t in saved.items() if name not in numbers}
    network.load_state_dict({**saved, **{n: v.to(saved[n].dtype) for n, v in values.items()}})
    merged = {name: t.double().numpy() for name, t in originals.items()}
    with torch.no_grad():
        for layer in network.loras:
            path = next(p for p in targets if layer.lora_name == f"lycoris_{p.replace('.', '_')}")
            module = net.get_submodule(path)
            norm = isinstance(module, nn.LayerNorm | nn.GroupNorm)
            weight, bias = (effective_norm if norm else effective)(_whole(module, originals, path), layer)
            merged[f"{path}.weight"] = weight.double().numpy()
            if bias is not None:
                merged[f"{path}.bias"] = bias.double().numpy()
    changed = {f"{layer.lora_name}" for layer in network.loras}
    untouched = {
        n: draw(n, base[n]) for n in merged if f"lycoris_{n.rpartition('.')[0].replace('.', '_')}" not in changed
    }
    biases = {n: draw(n, base[n]) for n in merged if n.endswith(".bias") and algo != "full" and "norm" not in n}
    shapes = {name: list(saved[name].shape) for name in saved}
    spec = Spec(
        by=f"{BY}: forward pass of {algo} {settings}", base=base, adapter=shapes, numbers=numbers,
        base_name="diffusion_pytorch_model.safetensors", adapter_name=f"{case}.safetensors",
        base_files={"config.json": {"_class_name": "ToyTransformer2DModel"}},
    )  # fmt: skip
    keep(case, spec, {**merged, **untouched, **biases})


def _whole(module: nn.Module, originals: dict[str, torch.Tensor], path: str) -> nn.Module:
    """The module with its own weight: LyCORIS' full method takes it away."""
    for name in ("weight", "bias"):
        if getattr(module, name, None) is None and f"{path}.{name}" in originals:
            setattr(module, name, nn.Parameter(originals[f"{path}.{name}"]))
    return module


def main() -> None:
    assert lycoris
    record("lycoris_locon", "lora")
    record("lycoris_locon_cp", "lora", use_tucker=True)
    record("lycoris_locon_rs", "lora", rs_lora=True)
    record("lycoris_locon_dora", "lora", dtype=torch.float32, dora_wd=True)
    record("lycoris_locon_dora_in", "lora", dtype=torch.float32, dora_wd=True, wd_on_output=False)
    record("lycoris_loha", "loha")
    record("lycoris_loha_cp", "loha", use_tucker=True)
    record("lycoris_loha_dora", "loha", dtype=torch.float32, dora_wd=True)
    record("lycoris_lokr", "lokr", factor=2)
    record("lycoris_lokr_both", "lokr", linear_dim=1, conv_dim=1, factor=4, decompose_both=True)
    record("lycoris_lokr_cp", "lokr", factor=2, use_tucker=True)
    record("lycoris_lokr_whole", "lokr", full_matrix=True, factor=2)
    record("lycoris_ia3", "ia3")
    record("lycoris_ia3_in", "ia3", train_on_input=True)
    record("lycoris_full", "full", norms=True)


if __name__ == "__main__":
    main()
