"""What a module of a model in memory is, told by the names of its classes: nothing need be imported to ask."""

from __future__ import annotations

from typing import Any

from ingot.adapters.module import Module, ModuleKind

KINDS = {
    "torch.nn.modules.linear.Linear": ModuleKind.LINEAR,
    "transformers.pytorch_utils.Conv1D": ModuleKind.CONV1D,
    "torch.nn.modules.sparse.Embedding": ModuleKind.EMBEDDING,
    "torch.nn.modules.conv.Conv1d": ModuleKind.CONV,
    "torch.nn.modules.conv.Conv2d": ModuleKind.CONV,
    "torch.nn.modules.conv.Conv3d": ModuleKind.CONV,
    "torch.nn.modules.activation.MultiheadAttention": ModuleKind.MULTIHEAD,
}


def describe(path: str, module: Any) -> Module:
    """The module's kind and the shapes of its own parameters and persistent buffers, in the order of declaration."""
    kind = _kind(module)
    parameters = {name: tuple(tensor.shape) for name, tensor in module.named_parameters(recurse=False)}
    parameters |= {
        name: tuple(buffer.shape)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    if kind is ModuleKind.MULTIHEAD:
        output = module.out_proj.named_parameters(recurse=False)
        parameters |= {f"out_proj.{name}": tuple(tensor.shape) for name, tensor in output}
    return Module(
        path,
        kind,
        parameters,
        groups=module.groups if kind is ModuleKind.CONV else 1,
        # PEFT asks this attribute and nothing else: Llama 4, [E, in, out] but without it, counts as not transposed.
        transposed_experts=bool(getattr(module, "is_transposed", False)),
        class_name=type(module).__name__,
    )


def _kind(module: Any) -> ModuleKind:
    for cls in type(module).__mro__:
        kind = KINDS.get(f"{cls.__module__}.{cls.__qualname__}")
        if kind is not None:
            return kind
    own = dict(module.named_parameters(recurse=False))
    # A leading extent of 1 marks a broadcast vector (a class token, position embeddings), not a stack of one expert.
    if any(parameter.ndim == 3 and parameter.shape[0] > 1 for parameter in own.values()):
        return ModuleKind.EXPERTS
    # Routers hold a bare weight[out, in] that they multiply as nn.Linear does, which they were before transformers 5.
    return ModuleKind.LINEAR if "weight" in own and own["weight"].ndim == 2 else ModuleKind.OTHER
