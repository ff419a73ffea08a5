"""The importance matrix of a model: what an error in each column of a weight costs, on the user's own samples.

For every matrix of the decoder layers, and every expert apart: the sum over tokens of the squared inputs, and how many
tokens there were. llama.cpp weighs the error of each column by their mean when it quantizes. It is what its
llama-imatrix computes, here with the model that transformers runs; embedding and output head are left out there too.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError, Interrupted, NonFiniteError
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.architectures.registry import find_architecture
from ingot.quantize.gguf.types import library
from ingot.quantize.gguf.writing import check_new_file, whole_file
from ingot.storage import PosixDisk, replace_file
from ingot.validate.answers.samples import read_samples
from ingot.validate.model import Unsupported
from ingot.validate.models.whole import Whole
from ingot.validate.spec import locate_spec, parse_spec

if TYPE_CHECKING:
    import torch

#: Longest text, in tokens; what is beyond it is cut.
CONTEXT = 512
_LAYER = re.compile(r"\.(?P<number>\d+)\.")


@dataclass(frozen=True)
class Computed:
    """What was written."""

    path: Path
    nbytes: int
    tensors: int
    samples: int
    tokens: int


@dataclass
class _Sums:
    """Of one tensor: float32[experts, columns], and tokens for each expert."""

    squares: torch.Tensor
    counts: torch.Tensor

    def add(self, inputs: torch.Tensor, expert: int = 0) -> None:
        """`inputs`[..., columns]: one row a token."""
        import torch

        rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(torch.float32)
        self.squares[expert] += rows.square().sum(dim=0)
        self.counts[expert] += len(rows)


def compute_imatrix(
    model: str,
    samples: Sequence[str],
    target: Path,
    *,
    dtype: str | None = None,
    device: str = "cpu",
    chat: bool | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Computed:
    """Run the samples through the model, and write what its weights saw.

    Args:
        model: a checkpoint, as `ingot validate` takes it; merged.
        samples: JSON Lines of prompts and expected answers; each is one text.
        dtype: what the model computes in: float32, bfloat16, float16; None: as stored.
        chat: put prompts into the chat template; None: where there is one.
        progress: is told of every sample.

    Raises:
        BaseError, UsageError, OutputError, MissingComponent, Interrupted.
        NonFiniteError: the model computes a NaN or an infinity.
    """
    check_new_file(target)
    library()
    texts = read_samples(samples)
    located = locate_spec(parse_spec(model))
    if located.adapters:
        raise BaseError("an importance matrix is computed on merged weights", where=model,
                        hint="Run `ingot merge` first, and give its output.")  # fmt: skip
    try:
        opened = Whole.open(located, dtype=dtype, device=device)
    except Unsupported as error:
        raise BaseError("the model cannot be run", where=model, found=error) from error
    try:
        sums = _watched(opened.inner)
        tokens = 0
        template = opened.tokenizer.template is not None if chat is None else chat
        rows = [
            opened.encode(_text(opened, sample.prompt, sample.expected_text, chat=template), special=not template)
            for file in texts for sample in file.samples
        ]  # fmt: skip
        with ExitStack() as hooks:
            for handle in sums.handles:
                hooks.callback(handle.remove)
            for row in rows:
                if stop is not None and stop.is_set():
                    raise Interrupted("the run was interrupted")
                tokens += _run(opened, row[:CONTEXT], device)
                progress(1)
    finally:
        opened.close()
    _check_finite(sums.found)
    data = _file(sums.found, [file.path.name for file in texts], len(rows))
    replace_file(PosixDisk(), target.absolute(), data)
    return Computed(target, len(data), len(sums.found), len(rows), tokens)


def _check_finite(found: dict[str, _Sums]) -> None:
    for name, sums in found.items():
        if not bool(sums.squares.isfinite().all()):
            raise NonFiniteError(
                "the model computes a NaN or an infinity", where=f"the inputs of {name}",
                hint="If its weights are finite, try --dtype float32.",
            )  # fmt: skip


def _text(model: Whole, prompt: str, expected: str, *, chat: bool) -> str:
    return model.render(prompt, chat=chat) + ("" if chat else " ") + expected


def _run(model: Whole, row: Sequence[int], device: str) -> int:
    import torch

    if row:
        with torch.inference_mode():
            model.inner(input_ids=torch.tensor([list(row)], device=device), use_cache=False)
    return len(row)


@dataclass
class _Watched:
    """The sums of every tensor by its GGUF name, and the hooks that fill them."""

    found: dict[str, _Sums] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)


def _watched(model: Any) -> _Watched:
    """Hook every linear layer and expert stack of the decoder layers."""
    import torch
    from torch import nn

    config = model.config.to_dict()
    architecture = find_architecture(type(model).__name__)
    modules = dict(model.named_modules())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    watched = _Watched()
    stacks = {path: module for path, module in modules.items() if _is_stack(module)}
    dense = {name: shape for name, shape in shapes.items() if not any(name.startswith(f"{path}.") for path in stacks)}
    for tensor in architecture.tensors(config, dense):
        module = modules.get(_module_of(tensor))
        if isinstance(module, nn.Linear) and tensor.name.startswith("blk."):
            sums = _Sums(torch.zeros(1, module.in_features), torch.zeros(1))
            watched.found[tensor.name] = sums
            watched.handles.append(module.register_forward_pre_hook(lambda _, inputs, sums=sums: sums.add(inputs[0])))
    for path, module in stacks.items():
        _watch_experts(watched, path, module)
    return watched


def _module_of(tensor: GgufTensor) -> str:
    return tensor.rows[0].tensor.removesuffix(".weight") if tensor.rows else ""


def _is_stack(module: Any) -> bool:
    """Whether a module is a stack of gated experts as transformers 5 holds them: [E, 2 * I, H] and [E, H, I]."""
    gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    return getattr(gate_up, "ndim", 0) == getattr(down, "ndim", 0) == 3 and hasattr(module, "act_fn")


def _watch_experts(watched: _Watched, path: str, module: Any) -> None:
    """Of every expert: what its gate and up see, and what its down sees, computed once more."""
    import torch

    number = _LAYER.search(f".{path}.")
    if number is None:
        raise BaseError("an expert stack belongs to no layer", where=path)
    experts, _, hidden = module.gate_up_proj.shape
    inner = module.down_proj.shape[2]
    names = {part: f"blk.{number['number']}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")}
    for part, name in names.items():
        width = inner if part == "down" else hidden
        watched.found[name] = _Sums(torch.zeros(experts, width), torch.zeros(experts))

    def see(module: Any, inputs: tuple[Any, ...]) -> None:
        states, chosen = inputs[0].reshape(-1, hidden), inputs[1]
        for expert in range(experts):
            rows = states[(chosen == expert).any(dim=-1)]
            if len(rows):
                gate, up = (rows @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
                watched.found[names["gate"]].add(rows, expert)
                watched.found[names["up"]].add(rows, expert)
                watched.found[names["down"]].add(module.act_fn(gate) * up, expert)

    watched.handles.append(module.register_forward_pre_hook(see))


def _file(found: dict[str, _Sums], datasets: Sequence[str], chunks: int) -> bytes:
    """llama.cpp's own form of it."""
    from gguf import GGUFWriter

    writer = GGUFWriter(None, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", CONTEXT)
    for name, values in _arrays(found):
        writer.add_tensor(name, values)
    return whole_file(writer)


def _arrays(found: dict[str, _Sums]) -> Iterator[tuple[str, Any]]:
    for name, sums in sorted(found.items()):
        yield f"{name}.in_sum2", sums.squares.numpy()
        yield f"{name}.counts", sums.counts.numpy()[:, None]
