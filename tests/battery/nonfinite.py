"""NaN, infinities and overflows in every place that holds a number: exit 13, and the tensor is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests import toy
from tests.battery.figure import Figure, Report, count, thinned
from tests.battery.workshop import Workshop, cli, scratch, workshop

BAD = (float("nan"), float("inf"), float("-inf"))
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Bad:
    """`spoil(shop)` puts it in; the refusal must have one of `codes` and say `named`."""

    name: str
    spoil: Callable[[Workshop], None]
    named: str
    codes: tuple[int, ...] = (13,)


def run(scale: float, report: Report) -> Figure:
    with workshop(dtype=torch.float16) as shop:
        bads = [*_adapter_values(), *_base_values(), *_configs(), *_overflows()]
        what = "values that are not finite (A, B, magnitude, alpha, base; overflow of F16): refused by name"
        return Figure([count(what, thinned(bads, scale, 8), partial(_refused, shop), report)])


def _refused(shop: Workshop, bad: Bad) -> str | None:
    with scratch(shop.root / "tries") as folder:
        shutil.copytree(shop.base, folder / "base")
        shutil.copytree(shop.adapter, folder / "adapter")
        copy = Workshop(folder, folder / "base", folder / "adapter")
        bad.spoil(copy)
        code, said, _ = cli(*copy.command(folder / "out", "--json"))
        last = json.loads(said.splitlines()[-1])
        well = code in bad.codes and bad.named in last.get("message", "") and not (folder / "out").exists()
        return None if well else f"{bad.name}: exit {code}, {last.get('message')}"


def _spots(shape: torch.Size) -> dict[str, int]:
    return {"first": 0, "middle": shape.numel() // 2, "last": shape.numel() - 1}


def _set(path: Path, name: str, at: int, value: float) -> None:
    tensors = load_file(path)
    tensors[name].view(-1)[at] = value
    save_file(tensors, path, {"format": "pt"})


def _adapter_values() -> Iterator[Bad]:
    """In the factors; in a DoRA magnitude; in a module that was saved whole."""
    for value in BAD:
        for module, (out, inner) in toy.MODULES.items():
            for side, shape in (("A", (4, inner)), ("B", (out, 4))):
                for where, at in _spots(torch.Size(shape)).items():
                    name = f"{PREFIX}{module}.lora_{side}.weight"
                    yield Bad(f"{value} at the {where} of {name}", _in_adapter(name, at, value), name)
        magnitude = f"{PREFIX}block.0.up.lora_magnitude_vector"
        yield Bad(f"{value} in {magnitude}", _dora(magnitude, value), magnitude)
        saved = f"{PREFIX}norm.weight"
        yield Bad(f"{value} in {saved}", _saved(saved, value), "norm.weight")


def _in_adapter(name: str, at: int, value: float) -> Callable[[Workshop], None]:
    return lambda shop: _set(shop.adapter / "adapter_model.safetensors", name, at, value)


def _dora(name: str, value: float) -> Callable[[Workshop], None]:
    def spoil(shop: Workshop) -> None:
        path = shop.adapter / "adapter_model.safetensors"
        tensors = load_file(path)
        for module, (out, _) in toy.MODULES.items():
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = torch.ones(out)
        tensors[name][7] = value
        save_file(tensors, path, {"format": "pt"})
        _configure(shop, use_dora=True)

    return spoil


def _saved(name: str, value: float) -> Callable[[Workshop], None]:
    def spoil(shop: Workshop) -> None:
        path = shop.adapter / "adapter_model.safetensors"
        tensors = load_file(path) | {name: torch.ones(70)}
        tensors[name][69] = value
        save_file(tensors, path, {"format": "pt"})
        _configure(shop, modules_to_save=["norm"])

    return spoil


def _base_values() -> Iterator[Bad]:
    """In tensors that are changed, and in those that are only copied."""
    for value in BAD:
        for name, shape in {**{f"{m}.weight": s for m, s in toy.MODULES.items()}, "norm.weight": (70,)}.items():
            for where, at in _spots(torch.Size(shape)).items():
                yield Bad(f"{value} at the {where} of the base's {name}", _in_base(name, at, value), name)


def _in_base(name: str, at: int, value: float) -> Callable[[Workshop], None]:
    def spoil(shop: Workshop) -> None:
        for path in shop.base.glob("*.safetensors"):
            if name in load_file(path):
                _set(path, name, at, value)

    return spoil


def _configure(shop: Workshop, **changes: object) -> None:
    path = shop.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _configs() -> Iterator[Bad]:
    """Python's json writes NaN and Infinity into a config; 1e400 is a JSON number that no float holds."""
    for key in ("lora_alpha", "r"):
        for text in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400"):
            yield Bad(f"{key} {text}", _config_text(key, text), "adapter_config.json", (11, 16))
    yield Bad("an alpha_pattern of NaN", _config_text("alpha_pattern", '{"up": NaN}'), "adapter_config.json", (11, 16))
    yield Bad("lora_alpha 1e308", _config_text("lora_alpha", "1e308"), "lora_B.weight", (11,))


def _config_text(key: str, text: str) -> Callable[[Workshop], None]:
    def spoil(shop: Workshop) -> None:
        path = shop.adapter / "adapter_config.json"
        config = {name: value for name, value in json.loads(path.read_text()).items() if name != key}
        path.write_text(json.dumps(config)[:-1] + f', "{key}": {text}}}')

    return spoil


def _overflows() -> Iterator[Bad]:
    """Every input is finite, and the sum is not, in F16: one element of one tensor is enough."""
    for module, (out, inner) in toy.MODULES.items():
        for where, at in _spots(torch.Size((out, inner))).items():
            row, column = divmod(at, inner)
            yield Bad(f"an F16 overflow at the {where} of {module}", _overflow(module, row, column), f"{module}.weight")


def _overflow(module: str, row: int, column: int) -> Callable[[Workshop], None]:
    def spoil(shop: Workshop) -> None:
        path = shop.adapter / "adapter_model.safetensors"
        tensors = load_file(path)
        a, b = (tensors[f"{PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        a[0], b[:, 0] = 0, 0
        a[0, column], b[row, 0] = 300.0, 300.0
        save_file(tensors, path, {"format": "pt"})

    return spoil
