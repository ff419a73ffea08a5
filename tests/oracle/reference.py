"""What an adapter must become, by two judges that know nothing of ingot: PEFT itself, and the formula in float64.

Workshop.base        a tiny model, saved by transformers
Workshop.adapter     a PEFT adapter for it with random weights, saved by PEFT
Workshop.by_peft     PEFT loads base and adapter, merges, and saves
by_formula           W + s * B @ A and its variants in float64, on the parameters of the model in memory
merged               ingot's merge of the same two directories
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ingot.merge import prepare
from ingot.plan.model import Options, Plan
from tests.oracle.cases import Case
from tests.tiny_models import MODELS

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """PEFT and transformers warn of what these cases do on purpose (tied embeddings, missing keys, ranks)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Workshop:
    """Directories of bases, adapters and PEFT's merges, each made when first asked for."""

    root: Path
    made: dict[str, Path] = field(default_factory=dict)

    def base(self, model: str, dtype: torch.dtype = torch.float32) -> Path:
        key = f"base {model} {dtype}"
        if key not in self.made:
            directory = self._directory()
            with unheard():
                MODELS[model]().to(dtype).save_pretrained(directory)
            self.made[key] = directory
        return self.made[key]

    def adapter(self, case: Case) -> Path:
        key = f"adapter {case.name}"
        if key not in self.made:
            directory = self._directory()
            train(case, self.base(case.model), directory)
            self.made[key] = directory
        return self.made[key]

    def by_peft(self, case: Case) -> Path:
        key = f"peft {case.name}"
        if key not in self.made:
            directory = self._directory()
            with unheard():
                merged_model(case, self.base(case.model), self.adapter(case)).save_pretrained(directory)
            self.made[key] = directory
        return self.made[key]

    def _directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.root))


def load_base(case: Case, base: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model that the adapter was, or will be, put on."""
    config = json.loads((base / "config.json").read_text())
    cls = getattr(transformers, case.train_as or config["architectures"][0])
    extra = {} if case.labels is None else {"num_labels": case.labels}
    with unheard():
        model = cls.from_pretrained(base, dtype=dtype, **extra)
        if case.vocab is not None:
            model.resize_token_embeddings(case.vocab, mean_resizing=False)
    return model.eval()


def train(case: Case, base: Path, directory: Path) -> None:
    """Save an adapter whose every trained tensor is random."""
    with unheard():
        model = load_base(case, base)
        options = {"r": 4, "lora_alpha": 6, **case.options}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type=case.task, **options))
        randomize(wrapped, seed=len(case.name))
        wrapped.save_pretrained(directory)


def randomize(model: nn.Module, seed: int) -> None:
    """Random values in every tensor that the adapter trains; magnitudes stay positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator) * 0.1
            # in place: tied layers hold views of each other
            parameter.data.copy_(values.abs() + 0.5 if "magnitude" in name else values)


def merged_model(case: Case, base: Path, adapter: Path) -> Any:
    """PEFT's merge in float32."""
    with unheard():
        model = load_base(case, base)
        return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()


def merged(base: Path, adapters: Path | list[tuple[Path, float]], target: Path, options: Options | None = None) -> Plan:
    """ingot's merge, run into `target`."""
    listed = [(adapters, 1.0)] if isinstance(adapters, Path) else adapters
    named = [(str(path), weight) for path, weight in listed]
    with prepare(str(base), named, options, target=target, jobs=1) as job:
        job.run()
        return job.plan


def plan_of(base: Path, adapter: Path, target: Path, options: Options | None = None) -> Plan:
    with prepare(str(base), [(str(adapter), 1.0)], options, target=target) as job:
        return job.plan


def on_disk(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by name."""
    return {
        name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def adapter_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / WEIGHTS)


def write_adapter(directory: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Path:
    """An adapter as given: names with their prefix, config as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, directory / WEIGHTS)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config


def load_output(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The artifact, loaded by transformers alone; every parameter must come from it and every tensor go somewhere."""
    cls = getattr(transformers, config_of(directory)["architectures"][0])
    model, info = cls.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    assert problems == {}, problems
    return model.eval()


def worst(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each tensor relative to its largest element; the names and shapes must agree."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    found = {}
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, (name, ours[name].shape, expected.shape)
        scale = max(expected.abs().max().item(), 1e-30) if expected.numel() else 1.0
        found[name] = (ours[name].double() - expected.double()).abs().max().item() / scale if expected.numel() else 0.0
    return found


def assert_close(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    wrong = {name: value for name, value in worst(ours, theirs).items() if not value <= tolerance}
    assert wrong == {}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that differ, or that only one has."""
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before
        or name not in after
        or before[name].shape != after[name].shape
        or not torch.equal(before[name], after[name])
    }


# -- the formula -----------------------------------------------------------------------------------------------------


def by_formula(model: nn.Module, adapter: Path) -> dict[str, torch.Tensor]:
    """Every parameter that a saved adapter changes, in float64, from the model in memory and the adapter's tensors.

    Names of modules in memory only; rank and alpha patterns, DoRA, biases, saved modules and token rows included.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = {name.removeprefix(PREFIX): tensor.double() for name, tensor in adapter_tensors(adapter).items()}
    return _Formula(model, config, tensors).results()


@dataclass
class _Formula:
    model: nn.Module
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def results(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.tensors.items():  # whole tensors first: updates go on top of them
            if ".lora_" not in name and "trainable_tokens" not in name:
                found[name.replace(".base_layer", "").replace(".token_adapter", "")] = tensor
        for name, tensor in self.tensors.items():
            path, _, role = name.partition(".lora_" if ".lora_" in name else ".token_adapter.trainable")
            if not role:
                continue
            nested = path.count(".base_layer")
            module = self.model.get_submodule(path.replace(".base_layer", ""))
            if (
                role == "A.weight"
                and any(p.ndim == 3 for p in module.parameters(recurse=False))
                and not _is_layer(module)
            ):
                path = path.replace(".base_layer", "")
                found.update([self._experts(path, module, nested)])
            elif role == "A.weight" or role == "embedding_A":
                weight = found.get(f"{path}.weight", module.weight.detach().double())
                found[f"{path}.weight"] = self._weight(path, module, weight)
            elif role == "B.bias":
                found[f"{path}.bias"] = found.get(f"{path}.bias", module.bias.double()) + self._scaling(path) * tensor
            elif role == "_tokens_delta":
                weight = found.get(f"{path}.weight", module.weight.detach().double()).clone()
                weight[self._tokens(path)] = tensor
                found[f"{path}.weight"] = weight
        return {name: tensor.detach() for name, tensor in found.items()}

    def _scaling(self, path: str, rank: int | None = None) -> float:
        rank = rank or next(
            t.shape[0]
            for name, t in self.tensors.items()
            if name in (f"{path}.lora_A.weight", f"{path}.lora_embedding_A")
        )
        patterns = self.config.get("alpha_pattern") or {}
        fitting = (a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", path))
        alpha = next(fitting, self.config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def _tokens(self, path: str) -> list[int]:
        tokens = self.config["trainable_token_indices"]
        if isinstance(tokens, dict):
            tokens = next(rows for name, rows in tokens.items() if path.endswith(name))
        return list(tokens)

    def _weight(self, path: str, module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
        scaling = self._scaling(path)
        if f"{path}.lora_embedding_A" in self.tensors:
            delta = (self.tensors[f"{path}.lora_embedding_B"] @ self.tensors[f"{path}.lora_embedding_A"]).T
            along = 0
        else:
            delta = self.tensors[f"{path}.lora_B.weight"].flatten(1) @ self.tensors[f"{path}.lora_A.weight"].flatten(1)
            along = 1
            if isinstance(module, Conv1D):
                delta, along = delta.T, 0
        updated = weight + scaling * delta.reshape(weight.shape)
        magnitude = self.tensors.get(f"{path}.lora_magnitude_vector")
        if magnitude is None:
            return updated
        flat = updated.flatten(1)
        factor = magnitude.flatten() / flat.norm(dim=along)
        return (flat * (factor[:, None] if along == 1 else factor)).reshape(updated.shape)

    def _experts(self, path: str, module: nn.Module, nested: int) -> tuple[str, torch.Tensor]:
        """Parameter `nested` from the outside, in the reverse of the order of declaration."""
        targets = self.config["target_parameters"]
        own = [n for n, _ in module.named_parameters(recurse=False) if any(f"{path}.{n}".endswith(t) for t in targets)]
        name = own[::-1][nested]
        weight = getattr(module, name).detach().double()
        layer = path + ".base_layer" * nested
        A, B = self.tensors[f"{layer}.lora_A.weight"], self.tensors[f"{layer}.lora_B.weight"]
        experts, d1, d2 = weight.shape
        rank = A.shape[0] // experts
        scaling = self._scaling(f"{path}.{name}", rank)
        stacked_a, stacked_b = A.reshape(experts, rank, -1), B.reshape(-1, rank, experts)
        transposed = bool(getattr(module, "is_transposed", False))
        spelled = "ore,eri->eio" if transposed else "ore,eri->eoi"
        delta = torch.einsum(spelled, stacked_b, stacked_a)
        assert delta.shape == (experts, d1, d2)
        return f"{path}.{name}", weight + scaling * delta


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, Conv1D))
