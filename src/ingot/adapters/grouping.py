"""From the tensors of an adapter file to updates: each tensor is claimed by one update or explained, or it is an error.

PEFT loads with `strict=False` and says nothing of a tensor that it does not expect. Here everything it would ignore is
refused, and so is everything that it would fill with zeros because it is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ingot.adapters.edit import Update
from ingot.adapters.experts import ParametersUpdate
from ingot.adapters.factor import Factor
from ingot.adapters.keys import Key, Role, parse_keys
from ingot.adapters.lora import EmbeddingUpdate, LoraUpdate, make_lora
from ingot.adapters.lora_config import LoraConfig
from ingot.adapters.multihead import MultiheadUpdate
from ingot.adapters.principal import Method
from ingot.adapters.saved import SavedUpdate, is_embedding, replaces
from ingot.adapters.tokens import TokensUpdate, check_tokens
from ingot.errors import AdapterError, MismatchError
from ingot.formats.tensor_ref import TensorRef

_FLOATS = ("F64", "F32", "F16", "BF16")
_OUT_PROJ = ".base_layer.out_proj"
_NOT_GATHERED = (
    "It was saved from a run whose parameters were sharded (DeepSpeed ZeRO-3 or FSDP) without gathering them. "
    "Save it again from the training checkpoint."
)
IGNORED = "PEFT would ignore it without a word. Correct adapter_config.json, or remove the tensor from the file."


def group_tensors(
    config: LoraConfig, tensors: Sequence[TensorRef], adapter: int
) -> tuple[tuple[Update, ...], dict[str, str]]:
    """The updates of an adapter, in the order of its modules' first tensors, and the reason for every other tensor.

    Law: each tensor is in `tensors` of exactly one update or a key of the second result.

    Raises:
        AdapterError: a tensor cannot be read, has no counterpart or no purpose; the message names it.
        MismatchError: tensors and config disagree on a rank.
    """
    groups: dict[str, _Group] = {}
    explained: dict[str, str] = {}
    for key in parse_keys(tensors):
        if key.role is Role.EXTRA:
            explained[key.ref.name] = key.parameter
            continue
        _check_tensor(key)
        groups.setdefault(key.path, _Group(config, adapter, key.path)).keys.append(key)
    updates: list[Update] = []
    for path, group in _with_attention(groups).items():
        if ".base_layer" in path:
            raise AdapterError("tensor's module is wrapped in an unknown way", where=f"`{group.first.name}`")
        updates += group.updates()
        explained.update(group.explained)
    check_nothing_left([key.ref.name for group in groups.values() for key in group.keys])
    check_tokens(config, updates)
    if not updates:
        raise AdapterError("adapter changes nothing: none of its tensors is an update", found=f"{len(tensors)} tensors")
    return tuple(updates), explained


def _with_attention(groups: dict[str, _Group]) -> dict[str, _Group]:
    """The groups, the output projection of each attention layer inside the attention's own."""
    merged = {path: group for path, group in groups.items() if not path.endswith(_OUT_PROJ)}
    for path, group in groups.items():
        if path.endswith(_OUT_PROJ):
            parent = path.removesuffix(_OUT_PROJ)
            if parent not in merged:
                what = "an attention has a layer on its output projection alone"
                raise AdapterError(what, where=f"`{group.first.name}`")
            merged[parent].out_proj = group
    return merged


def _check_tensor(key: Key) -> None:
    where = f"`{key.ref.name}`"
    if key.ref.dtype not in _FLOATS:
        expected = ", ".join(_FLOATS)
        raise AdapterError("tensor's dtype cannot be merged", where=where, expected=expected, found=key.ref.dtype)
    whole = key.role in (Role.FULL, Role.BASE, Role.TOKENS_BASE, Role.B_BIAS, Role.MAGNITUDE, Role.DIAGONAL)
    if 0 in key.ref.shape or (len(key.ref.shape) < 2 and not whole):
        found = list(key.ref.shape)
        raise AdapterError("tensor is empty or a mere vector", where=where, found=found, hint=_NOT_GATHERED)


def check_nothing_left(left: Sequence[str]) -> None:
    """Raise AdapterError, naming them, where tensors are left that nothing gives a purpose to."""
    if not left:
        return
    names = ", ".join(f"`{name}`" for name in left[:10]) + (", ..." if len(left) > 10 else "")
    raise AdapterError(f"nothing in the config explains {len(left)} tensor(s)", found=names, hint=IGNORED)


@dataclass
class _Group:
    """The tensors of one module; `take` removes those that found their purpose."""

    config: LoraConfig
    adapter: int
    path: str
    keys: list[Key] = field(default_factory=list)
    out_proj: _Group | None = None
    explained: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> TensorRef:
        return self.keys[0].ref

    def take(self, role: Role, depth: int = 0, parameter: str = "") -> Factor | None:
        for key in self.keys:
            if (key.role, key.depth, key.parameter) == (role, depth, parameter):
                self.keys.remove(key)
                return Factor(self.adapter, key.ref)
        return None

    def need(self, role: Role, depth: int, beside: Factor) -> Factor:
        """The counterpart of a tensor. Raises AdapterError, naming both, where it is missing."""
        found = self.take(role, depth)
        if found is None:
            expected = f"`{self.path}{'.base_layer' * depth}.{role}`"
            raise AdapterError("a tensor lacks its counterpart", where=f"`{beside.ref.name}`", expected=expected)
        return found

    def updates(self) -> list[Update]:
        layer = self._layer()
        tokens = self._tokens()
        saved = self._saved(wrapped=layer is not None)
        return [update for update in (*saved, layer, tokens) if update is not None]

    def _layer(self) -> Update | None:
        depths = sorted({key.depth for key in self.keys if key.role in (Role.A, Role.B)})
        if self.out_proj is not None:
            return self._attention(self.out_proj)
        if depths and (depths != [0] or self._is_parameter()):
            return self._parameters(depths)
        if depths:
            return self._lora()
        if any(key.role in (Role.EMBEDDING_A, Role.EMBEDDING_B) for key in self.keys):
            return self._embedding()
        return None

    def _pair(self, role_a: Role, role_b: Role, depth: int = 0) -> tuple[Factor, Factor]:
        b = self.take(role_b, depth)
        a = self.take(role_a, depth) if b is None else self.need(role_a, depth, b)
        if a is None:
            expected = f"`{self.path}{'.base_layer' * depth}.{role_a}`"
            raise AdapterError("a wrapped parameter lacks its layer", where=self.path, expected=expected)
        return a, b if b is not None else self.need(role_b, depth, a)

    def _lora(self) -> LoraUpdate:
        a, b = self._pair(Role.A, Role.B)
        self._check_targeted(a)
        update = LoraUpdate(
            self.path, a, b, self._scaling(a), self._bias(b), self._magnitude(a), self._copy(),
            fan_in_fan_out=self.config.fan_in_fan_out,
            diagonal=self.need(Role.DIAGONAL, 0, a) if self.config.kasa else None,
        )  # fmt: skip
        update = make_lora(update, self.config)
        self._check_inner(a, update.b)
        return update

    def _embedding(self) -> EmbeddingUpdate:
        a, b = self._pair(Role.EMBEDDING_A, Role.EMBEDDING_B)
        self._check_targeted(a)
        if self.config.kasa:
            raise AdapterError("PEFT has no `kasa_config` for this kind of layer", where=f"`{a.ref.name}`")
        self._check_inner(a, b)
        return EmbeddingUpdate(self.path, a, b, self._scaling(a), self._magnitude(a), self._copy())

    def _attention(self, out_proj: _Group) -> MultiheadUpdate:
        in_a, in_b = self._pair(Role.A, Role.B)
        out_a, out_b = out_proj._pair(Role.A, Role.B)
        self._check_targeted(in_a)
        self._refuse_variants(in_a)
        self._check_inner(in_a, in_b)
        self._check_inner(out_a, out_b)
        if in_a.shape[0] != out_a.shape[0]:
            found = f"{list(in_a.shape)} and {list(out_a.shape)}"
            raise AdapterError("an attention's two layers differ in rank", where=f"`{out_a.ref.name}`", found=found)
        unused = self._bias(in_b)
        if unused is not None:
            self.explained[unused.ref.name] = "PEFT never adds this bias, in training or in a merge"
        return MultiheadUpdate(
            self.path, in_a, in_b, out_a, out_b, self._scaling(in_a), self.config, out_proj._bias(out_b)
        )

    def _parameters(self, depths: list[int]) -> ParametersUpdate:
        pairs = [self._pair(Role.A, Role.B, depth) for depth in range(depths[-1], -1, -1)]
        for a, b in pairs:
            if not self._is_parameter():
                raise _ignored(a.ref, "`target_parameters` names nothing in this module")
            self._refuse_variants(a)
            if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
                raise _ranks_differ(a, b)
        return ParametersUpdate(self.path, tuple(pairs), self.config)

    def _is_parameter(self) -> bool:
        """Whether `target_parameters` may name a parameter of this module, and `target_modules` does not name it."""
        modules = [name.rpartition(".")[0] for name in self.config.target_parameters]
        named = any(not module or self.path == module or self.path.endswith(f".{module}") for module in modules)
        return named and self.config.targets(self.path) is not True

    def _refuse_variants(self, a: Factor) -> None:
        """PEFT refuses to train these on bare parameters and attentions, so such a file is no honest one."""
        config = self.config
        variants = {"use_dora": config.use_dora, "use_bdlora": config.block_diagonal, "kasa_config": config.kasa,
                    "init_lora_weights": Method.of(config.init_lora_weights)}  # fmt: skip
        for key, value in variants.items():
            if value:
                raise AdapterError(f"PEFT has no `{key}` for this kind of layer", where=f"`{a.ref.name}`")

    def _check_targeted(self, a: Factor) -> None:
        # With `ensure_weight_tying` PEFT gives the output embedding a copy of the input embedding's layer.
        tied = self.config.ensure_weight_tying and is_embedding(self.path)
        if self.config.targets(self.path) is False and not tied:
            raise _ignored(a.ref, "the config does not target this tensor's module")

    def _check_inner(self, a: Factor, b: Factor) -> None:
        if a.shape[0] == b.shape[1]:
            return
        if len(b.shape) == 2 or a.shape[0] % b.shape[1]:
            raise _ranks_differ(a, b)
        what = "LoRA on a convolution with groups has no merged form"
        found = f"{a.shape[0] // b.shape[1]} groups, from {list(a.shape)} and {list(b.shape)}"
        raise AdapterError(what, where=f"`{b.ref.name}`", found=found)

    def _scaling(self, a: Factor) -> float:
        rank = self.config.rank(self.path)
        if rank != a.shape[0]:
            raise MismatchError(
                "the rank of a tensor is not that of the config",
                where=f"`{a.ref.name}`",
                expected=f"rank {rank}, by adapter_config.json",
                found=f"rank {a.shape[0]}, from {list(a.shape)}",
                hint="Use the adapter_config.json that was saved together with these weights.",
            )
        return self.config.scaling(self.path, rank)

    def _bias(self, b: Factor) -> Factor | None:
        return self.need(Role.B_BIAS, 0, b) if self.config.lora_bias else None

    def _magnitude(self, a: Factor) -> Factor | None:
        return self.need(Role.MAGNITUDE, 0, a) if self.config.use_dora else None

    def _copy(self) -> Factor | None:
        """The whole embedding under a LoRA layer. Up to PEFT 0.5 it stood beside it, as `<path>.weight`."""
        if not is_embedding(self.path):
            return None
        return self.take(Role.BASE, parameter="weight") or self.take(Role.FULL, parameter="weight")

    def _tokens(self) -> TokensUpdate | None:
        rows = self.take(Role.TOKENS)
        if rows is None:
            return None
        indices = self.config.tokens(self.path)
        if indices is None:
            raise _ignored(rows.ref, "`trainable_token_indices` does not name this tensor's module")
        return TokensUpdate(self.path, indices, rows, self.take(Role.TOKENS_BASE, parameter="weight"))

    def _saved(self, *, wrapped: bool) -> list[SavedUpdate]:
        """The parameters that replace the base's, first of all so that updates on them come after."""
        found = [(key.parameter, key) for key in self.keys if replaces(self.config, key, wrapped=wrapped)]
        if self.out_proj is not None:
            inner = self.out_proj
            found += [
                (f"out_proj.{key.parameter}", key) for key in inner.keys if replaces(self.config, key, wrapped=True)
            ]
            inner.keys = [key for key in inner.keys if not replaces(self.config, key, wrapped=True)]
        self.keys = [key for key in self.keys if not replaces(self.config, key, wrapped=wrapped)]
        parameters = tuple((name, Factor(self.adapter, key.ref)) for name, key in found)
        return [SavedUpdate(self.path, parameters)] if parameters else []


def _ignored(ref: TensorRef, why: str) -> AdapterError:
    return AdapterError(why, where=f"`{ref.name}`", hint=IGNORED)


def _ranks_differ(a: Factor, b: Factor) -> AdapterError:
    return AdapterError(
        "A and B do not have the same rank",
        where=f"`{a.ref.name}` and `{b.ref.name}`",
        expected="A[r, ...] and B[out, r, ...]",
        found=f"{list(a.ref.shape)} and {list(b.ref.shape)}",
    )
