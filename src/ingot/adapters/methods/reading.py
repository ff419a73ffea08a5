"""From the tensors of an adapter file of any method to updates: each tensor has a purpose, or it is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ingot.adapters.config import check_patterns, common_settings
from ingot.adapters.edit import Update
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.grouping import IGNORED, check_nothing_left
from ingot.adapters.keys import Key, Role, parse_parameter, without_prefix
from ingot.adapters.methods.method import Layer, LayerUpdate, Method, MethodConfig
from ingot.adapters.saved import SavedUpdate, is_embedding, replaces
from ingot.adapters.tokens import TokensUpdate, check_tokens
from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef


def parse_method(method: Method, fields: Fields) -> MethodConfig:
    """The config of an adapter of this method. Raises AdapterError for what cannot be read or merged."""
    common = common_settings(fields)
    config = MethodConfig(**{**common, "bias": fields.text("bias") or "none"}, name=method.title)
    check_patterns(config)
    method.check(fields)
    return config


def group_layers(
    method: Method, config: MethodConfig, tensors: Sequence[TensorRef], adapter: int
) -> tuple[tuple[Update, ...], dict[str, str]]:
    """The updates of an adapter in the order of its modules' first tensors, and the reason for every other tensor.

    Law: each tensor is in `tensors` of an update, or shared by layers, or a key of the second result.

    Raises:
        AdapterError: a tensor cannot be read or has no purpose; the message names it.
    """
    if not tensors:
        raise AdapterError("adapter has no tensors")
    explained: dict[str, str] = {}
    shared: dict[str, Factor] = {}
    own: list[TensorRef] = []
    implicit = method.implicit(config.fields)
    for ref in tensors:
        match = method.shared_pattern.fullmatch(ref.name)
        if match is None or ref.name.startswith("base_model.model."):
            own.append(ref)
        elif method.shares(match["name"]):
            shared[match["name"]] = Factor(adapter, ref)
        else:
            explained[ref.name] = _unused(method, match["name"]) or ""
    layers: dict[str, dict[str, Factor]] = {}
    whole: dict[str, list[Key]] = {}
    for ref, name in zip(own, without_prefix(own), strict=True):
        match = method.role_pattern.fullmatch(name)
        if match is None:
            key = parse_parameter(ref, name)
            whole.setdefault(key.path, []).append(key)
        elif reason := _unused(method, match["role"]):
            explained[ref.name] = reason
        else:
            _put(layers.setdefault(match["path"], {}), match["role"], Factor(adapter, ref))
    for path, layer in layers.items():
        if ".base_layer" in path:
            first = next(iter(layer.values())).ref.name
            raise AdapterError("tensor's module is wrapped in an unknown way", where=f"`{first}`")
    explained.update(_take_repeats(method, config, layers))
    updates: list[Update] = _take_tokens(config, whole, adapter)
    for path in dict.fromkeys((*whole, *layers)):
        wrapped = path in layers or (implicit and config.targets(path) is not False)
        copy = _copy(whole.get(path, ()), adapter) if wrapped else None
        saved = [key for key in whole.get(path, ()) if copy is None or key.ref is not copy.ref]
        updates += _saved(config, path, saved, adapter, wrapped=wrapped)
        if path in layers:
            _check_targeted(config, path, layers[path])
            updates.append(LayerUpdate(method, Layer(path, layers[path], shared, config), copy))
    check_tokens(config, updates)
    if not updates and not implicit:
        raise AdapterError("adapter changes nothing: none of its tensors is an update", found=f"{len(tensors)} tensors")
    return tuple(updates), explained


def implied_layers(
    method: Method, config: MethodConfig, tensors: Sequence[TensorRef], adapter: int, paths: Iterable[str]
) -> tuple[Update, ...]:
    """The layers on these modules of a method that is `implicit`: they have the shared tensors, and perhaps a copy."""
    matches = [(ref, method.shared_pattern.fullmatch(ref.name)) for ref in tensors]
    shared = {match["name"]: Factor(adapter, ref) for ref, match in matches if match and method.shares(match["name"])}
    own = [ref for ref, match in matches if not match]
    keys = [parse_parameter(ref, name) for ref, name in zip(own, without_prefix(own), strict=True)]
    copies = {path: _copy([key for key in keys if key.path == path], adapter) for path in {key.path for key in keys}}
    return tuple(LayerUpdate(method, Layer(path, {}, shared, config), copies.get(path)) for path in paths)


def _take_repeats(method: Method, config: MethodConfig, layers: dict[str, dict[str, Factor]]) -> dict[str, str]:
    """Take out the layers that are saved once more, for what is tied to a targeted module: the same tensors."""
    untargeted = [path for path in layers if method.repeats and config.targets(path) is False]
    shapes = [_shapes(tensors) for path, tensors in layers.items() if path not in untargeted]
    repeated = [path for path in untargeted if _shapes(layers[path]) in shapes]
    return {factor.ref.name: method.repeats for path in repeated for factor in layers.pop(path).values()}


def _shapes(tensors: dict[str, Factor]) -> dict[str, tuple[int, ...]]:
    return {role: factor.shape for role, factor in tensors.items()}


def _take_tokens(config: MethodConfig, whole: dict[str, list[Key]], adapter: int) -> list[Update]:
    """Take out the token rows that `trainable_token_indices` trains beside the method."""
    updates: list[Update] = []
    for wrapper in [path for path in whole if path.endswith(".token_adapter")]:
        path = wrapper.removesuffix(".token_adapter")
        indices = config.tokens(path)
        for key in [key for key in whole[wrapper] if key.parameter == "trainable_tokens_delta" and indices]:
            whole[wrapper].remove(key)
            copies = [key for key in whole.get(path, ()) if key.role is Role.TOKENS_BASE and key.parameter == "weight"]
            whole[path] = [key for key in whole.get(path, ()) if key not in copies]
            copy = Factor(adapter, copies[0].ref) if copies else None
            updates.append(TokensUpdate(path, indices or (), Factor(adapter, key.ref), copy))
    return updates


def _unused(method: Method, name: str) -> str | None:
    """Why a merge does not need the tensor of this role; None where it does."""
    return method.unused.get(re.sub(r"\d+", "*", name)) or method.unused.get(name)


def _put(roles: dict[str, Factor], role: str, factor: Factor) -> None:
    if role in roles:
        found = f"`{roles[role].ref.name}` and `{factor.ref.name}`"
        raise AdapterError("two tensors mean the same", where=role, found=found)
    roles[role] = factor


def _copy(keys: Sequence[Key], adapter: int) -> Factor | None:
    """The whole weight of an embedding that has a layer."""
    for key in keys:
        if key.role is Role.BASE and key.parameter == "weight" and is_embedding(key.path):
            return Factor(adapter, key.ref)
    return None


def _saved(config: MethodConfig, path: str, keys: Sequence[Key], adapter: int, *, wrapped: bool) -> list[Update]:
    left = [key.ref.name for key in keys if not replaces(config, key, wrapped=wrapped)]
    check_nothing_left(left)
    parameters = tuple((key.parameter, Factor(adapter, key.ref)) for key in keys)
    if len({name for name, _ in parameters}) < len(parameters):
        raise AdapterError("two tensors mean the same", where=path, found=", ".join(key.ref.name for key in keys))
    return [SavedUpdate(path, parameters)] if parameters else []


def _check_targeted(config: MethodConfig, path: str, tensors: dict[str, Factor]) -> None:
    if config.targets(path) is False:
        first = next(iter(tensors.values())).ref.name
        what = "the config does not target this tensor's module"
        raise AdapterError(what, where=f"`{first}`", hint=IGNORED)
