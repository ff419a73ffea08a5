"""Recipes of every kind are released, their inputs move and are renamed, gc frees the artifacts, and all come back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

import benchmarks.synthetic as synthetic
from ingot.demo import assets
from ingot.registry.entry import State
from ingot.registry.store import Registry
from tests import toy
from tests.battery.figure import Count, Figure, Report
from tests.battery.release_shop import folder_of_releases
from tests.battery.workshop import cli
from tests.registry.inputs import contents, scatter

SMALL_SAMPLE = 0.05
#: Of a small sample: several adapters, chance twice over, and a GGUF.
SAMPLE = ("linear-of-three", "dare_ties-stochastic", "ties-q8_0")
#: The artifact with a tag, which gc leaves alone.
TAGGED = "linear-of-one"
#: Wide enough for blocks of 256.
SHAPE = synthetic.Shape(256, 512, 2, 4, 2, 64, 2048, tie_word_embeddings=True)


@dataclass(frozen=True)
class Case:
    """A recipe. `adapters` with their weights; `merge` and `formats` as they stand in it."""

    base: str
    adapters: Mapping[str, float]
    merge: Mapping[str, Any] = field(default_factory=dict)
    formats: Sequence[str | Mapping[str, Any]] = ("safetensors",)
    validated: bool = False


def _of_two(method: str, **merge: Any) -> Case:
    return Case("toy", {"lora-1": 1.0, "lora-2": 0.6}, {"method": method, **merge})


_TIES = {"method": "ties", "density": 0.4}
CASES: dict[str, Case] = {
    TAGGED: Case("toy", {"lora-1": 1.0}, validated=True),
    "linear-of-three": Case("toy", {"lora-1": 0.7, "lora-2": 0.5, "lora-3": -0.2}, validated=True),
    "sequential": Case("tiny", {"lora": 1.0, "dora": 0.5}, {"method": "sequential"}),
    "ties": Case("toy", {"lora-1": 1.0, "lora-2": 0.6, "lora-3": 0.3}, {**_TIES, "majority_sign": "frequency"}),
    "magnitude_prune": _of_two("magnitude_prune", density=0.3),
    "dare_linear": _of_two("dare_linear", density=0.5, seed=7),
    "dare_ties": _of_two("dare_ties", density=0.5, seed=8, **{"lambda": 1.3}),
    "dare_ties-stochastic": _of_two("dare_ties", density=0.5, seed=9, rounding="stochastic"),
    "della": _of_two("della", density=0.5, epsilon=0.1, seed=10),
    "della_linear": _of_two("della_linear", density=0.6, epsilon=0.2, seed=11),
    "breadcrumbs": _of_two("breadcrumbs", density=0.5, gamma=0.05),
    "breadcrumbs_ties": _of_two("breadcrumbs_ties", density=0.5, gamma=0.05, dtype="float16"),
    "sce": Case("toy", {"lora-1": 1.0, "lora-2": 1.0}, {"method": "sce", "density": 0.5, "lambda": 0.8}),
    "stochastic": Case("toy", {"lora-1": 1.0}, {"rounding": "stochastic", "seed": 3}),
    "preserve": Case("toy", {"lora-1": 0.01}, {"rounding": "preserve"}),
    "auto": Case("toy", {"lora-1": 0.01}, {"rounding": "auto"}),
    "float16": Case("toy-in-one-file", {"lora-1": 1.0}),
    "as-float16": Case("toy", {"lora-1": 1.0}, {"dtype": "float16"}),
    "as-float32": Case("toy", {"lora-2": 1.0}, {"dtype": "float32"}),
    "a-tokenizer": Case("toy", {"with-tokenizer": 1.0}),
    "dora": Case("tiny", {"dora": 0.5}),
    "ia3": Case("tiny", {"ia3": 1.0}),
    "oft": Case("tiny", {"oft": 1.0}),
    "lokr-and-lora": Case("tiny", {"lokr": 1.0, "lora": 0.3}),
    "a-saved-head": Case("tiny", {"head": 1.0}),
    "base-fp8": Case("fp8", {"q-lora": 1.0}),
    "base-gptq": Case("gptq", {"q-lora": 1.0}),
    "base-nf4": Case("nf4", {"q-lora": 1.0}),
    "base-as-nf4": Case("wide", {"wide-1": 1.0}, {"base_as": "nf4"}),
    "all-formats": Case("wide", {"wide-1": 1.0}, formats=("safetensors", "gguf:Q8_0", "gguf:F16")),
    "ties-q8_0": Case("wide", {"wide-1": 1.0, "wide-2": 0.5}, _TIES, ("gguf:Q8_0",)),
    "q4_k_m": Case("wide", {"wide-1": 1.0}, formats=("gguf:Q4_K_M", {"format": "gguf:Q5_K_M", "split_size": 500_000})),
    "imatrix": Case("wide", {"wide-1": 1.0}, formats=({"format": "gguf:Q4_K_M", "imatrix": "inputs/imatrix"},)),
    "split": Case("wide", {"wide-2": 1.0}, formats=({"format": "gguf:F16", "split_size": 900_000},)),
    "stochastic-gguf": Case("wide", {"wide-2": 0.3}, {"rounding": "stochastic", "seed": 4}, ("gguf:BF16",)),
}  # fmt: skip


def run(scale: float, report: Report) -> Figure:
    with folder_of_releases() as root, mock.patch.dict(os.environ, {"INGOT_CACHE": str(root / "cache")}):
        names = (TAGGED, *SAMPLE) if scale < SMALL_SAMPLE else tuple(CASES)
        registry, copies = root / "registry", root / "copies"
        for done, name in enumerate(names):
            _release(root, name)
            report(done, 2 * len(names))
        shutil.copytree(registry / "artifacts", copies)
        _move(root)
        shutil.rmtree(root / "cache", ignore_errors=True)  # what a file was is not remembered, it is read
        freed, kept = _free(root)
        same, files = (
            Count("recipes byte-identical after their inputs moved, gc freed them and rebuild made them again"),
            0,
        )
        for done, name in enumerate(name for name in names if name != TAGGED):
            same.add(_rebuilt(root, name))
            files += sum(len(contents(path)) for path in copies.iterdir() if _is_of(path.name, name))
            report(len(names) + done, 2 * len(names))
        tagged = f"{TAGGED}-v1"
        if contents(registry / "artifacts" / tagged) != contents(copies / tagged):
            kept.faults.append("the tagged artifact was changed")
    return Figure([freed, same, kept], [f"{files} files compared"])


def _command(root: Path, verb: str, *arguments: str) -> tuple[int, str]:
    code, out, err = cli(*verb.split(), *arguments, "--registry", str(root / "registry"))
    return code, out + err


def _release(root: Path, name: str) -> None:
    """Make the inputs that are not there yet, and release."""
    case, inputs = CASES[name], root / "inputs"
    for one in (case.base, *case.adapters, *({"imatrix"} if "imatrix" in str(case.formats) else ())):
        if not (inputs / one).exists():
            inputs.mkdir(exist_ok=True)
            INPUTS[one](inputs / one)
    recipe = {
        "ingot": 1, "name": name, "version": "1", "base": f"inputs/{case.base}",
        "adapters": [
            {"adapter": f"inputs/{adapter}", "weight": weight, "version": "v2"}
            for adapter, weight in case.adapters.items()
        ],
        "merge": dict(case.merge),
        "formats": [dict(form) if isinstance(form, Mapping) else form for form in case.formats],
        # every other one has to find its adapters by content
        "publish": {"keep_adapters": len(name) % 2 == 0, "tags": ["champion"] if name == TAGGED else []},
        **({"validate": {}} if case.validated else {}),
    }  # fmt: skip
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    code, said = _command(root, "release", str(path))
    assert code == 0, f"{name}: {said}"


def _move(root: Path) -> None:
    """Every file of every input, into a folder of its own under another name (an importance matrix stays a GGUF)."""
    attic = root / "attic"
    for path in sorted((root / "inputs").iterdir()):
        if path.is_dir():
            scatter(path, attic)
        else:
            path.rename(attic / "renamed.gguf")
    (root / "inputs").rmdir()


def _is_of(artifact: str, name: str) -> bool:
    return artifact == f"{name}-v1" or artifact.startswith(f"{name}-v1-")


def _free(root: Path) -> tuple[Count, Count]:
    """gc of everything; which artifacts it has freed, and whether it left the tagged one."""
    freed, kept = Count("artifacts of these recipes freed by gc"), Count("artifact with a tag left as it was by gc")
    code, said = _command(root, "registry gc", "--keep-newest", "0", "--search", str(root / "attic"), "--yes")
    for entry in Registry.open(root / "registry").entries():
        gone = entry.state is State.FREED and not (root / "registry/artifacts" / entry.name).exists()
        if entry.tags:
            kept.add("the tagged artifact was freed" if gone else None)
        else:
            freed.add(None if gone and code == 0 else f"{entry.name} is {entry.state}: exit {code}: {said}")
    return freed, kept


def _rebuilt(root: Path, name: str) -> str | None:
    """Rebuild each artifact of a recipe, and compare it with its copy."""
    for copy in sorted((root / "copies").iterdir()):
        if _is_of(copy.name, name):
            code, said = _command(root, "registry rebuild", copy.name, "--search", str(root / "attic"))
            if code:
                return f"{copy.name}: exit {code}: {said}"
            made, was = contents(root / "registry/artifacts" / copy.name), contents(copy)
            names = sorted(name for name in {*made, *was} if made.get(name) != was.get(name))
            if names:
                return f"{copy.name} differs in {', '.join(names)}"
    return None


# -- inputs, each made once


def _wide(path: Path) -> None:
    synthetic.make_base(SHAPE, path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(assets.base() / name, path / name)


def _imatrix(path: Path) -> None:
    from ingot.merge import prepare
    from ingot.plan.model import GgufOptions, Options
    from tests.quantize.gguf.reference.files import write_imatrix

    with prepare(str(path.parent / "wide"), [], Options(gguf=GgufOptions(("BF16",)))) as job:
        assert job.document is not None
        write_imatrix({tensor.name: tensor.shape for tensor in job.document.tensors}, path)


def _tiny(path: Path) -> None:
    from tests.oracle.reference import unheard
    from tests.tiny_models import MODELS

    with unheard():
        MODELS["llama"]().bfloat16().save_pretrained(path)


def _with_tokenizer(path: Path) -> None:
    toy.make_adapter(path, seed=4)
    (path / "tokenizer.json").write_text('{"of": "the adapter"}')
    (path / "chat_template.jinja").write_text("{{ messages }}")


def _quantized(form: str, path: Path) -> None:
    from tests.checkpoint.quantized import llama

    llama.write(path, form)


def _quantized_adapter(path: Path) -> None:
    from tests.checkpoint.quantized import llama

    llama.adapter(path, ["q_proj", "up_proj"])


def _trained(kind: str, path: Path, **settings: Any) -> None:
    """What PEFT saves of a tiny Llama, its parameters moved off their beginnings."""
    import peft

    from tests.oracle.reference import unheard
    from tests.tiny_models import MODELS

    with unheard():
        config = getattr(peft, kind)(target_modules=["q_proj", "v_proj", "down_proj"], **settings)
        wrapped = peft.get_peft_model(MODELS["llama"](), config)
        generator = torch.Generator().manual_seed(len(path.name))
        for parameter in (one for one in wrapped.parameters() if one.requires_grad):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
        wrapped.save_pretrained(path)


def _peft(kind: str, **settings: Any) -> Callable[[Path], None]:
    return lambda path: _trained(kind, path, **settings)


INPUTS: dict[str, Callable[[Path], object]] = {
    "toy": toy.make_base,
    "toy-in-one-file": lambda path: toy.make_base(path, torch.float16, index=False),
    **{f"lora-{n}": partial(toy.make_adapter, seed=n, rank=2 + n) for n in (1, 2, 3)},
    "with-tokenizer": _with_tokenizer,
    "wide": _wide,
    **{f"wide-{n}": partial(synthetic.make_adapter, SHAPE, rank=4 * n, seed=n) for n in (1, 2)},
    "imatrix": _imatrix,
    "tiny": _tiny,
    "lora": _peft("LoraConfig", r=4),
    "dora": _peft("LoraConfig", r=4, use_dora=True),
    "head": _peft("LoraConfig", r=4, modules_to_save=["lm_head"]),
    "ia3": _peft("IA3Config", feedforward_modules=["down_proj"]),
    "oft": _peft("OFTConfig", r=0, oft_block_size=4),
    "lokr": _peft("LoKrConfig", r=2),
    **{form: partial(_quantized, form) for form in ("fp8", "gptq", "nf4")},
    "q-lora": _quantized_adapter,
}  # fmt: skip
