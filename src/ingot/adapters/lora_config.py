"""`adapter_config.json` of a LoRA adapter. Defaults are those of PEFT's `LoraConfig`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ingot.adapters.config import AdapterConfig, check_patterns, common_settings
from ingot.adapters.fields import Fields
from ingot.adapters.patterns import pattern_value
from ingot.adapters.refusals import refuse_unmergeable
from ingot.errors import AdapterError


@dataclass(frozen=True)
class BlockDiagonal:
    """`use_bdlora`: the factor of the modules whose path contains one of these texts is stored as diagonal blocks."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    blocks: int
    strict: bool

    def sides(self, path: str) -> tuple[bool, bool]:
        """Whether A, and whether B, of this module is block-diagonal.

        Raises:
            AdapterError: both are, or none is although `match_strict` asks for one; PEFT refuses these too.
        """
        a, b = any(text in path for text in self.a), any(text in path for text in self.b)
        if (a and b) or (self.strict and not (a or b)):
            found = "both" if a else "none"
            raise AdapterError("use_bdlora must name one factor of a module", where=path, expected="one", found=found)
        return a, b


@dataclass(frozen=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """A LoRA adapter's configuration; names as in PEFT, but `expert_blocks`: how stacks are read, see `experts`."""

    r: int = 8
    lora_alpha: float = 8
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str = True
    ensure_weight_tying: bool = False
    block_diagonal: BlockDiagonal | None = None
    kasa: bool = False
    expert_blocks: bool = False

    @property
    def title(self) -> str:
        variants = {
            "rsLoRA": self.use_rslora,
            "DoRA": self.use_dora,
            "BD-LoRA": self.block_diagonal is not None,
            "KaSA": self.kasa,
        }
        named = [name for name, used in variants.items() if used]
        if isinstance(self.init_lora_weights, str) and self.init_lora_weights.lower() in _PRINCIPAL:
            named.append(_PRINCIPAL[self.init_lora_weights.lower()])
        return " + ".join(named) or "LoRA"

    @property
    def alphas(self) -> tuple[float, ...]:
        return tuple(sorted({float(self.lora_alpha), *map(float, self.alpha_pattern.values())}))

    def rank(self, path: str) -> int:
        """The rank that the config gives to a module or parameter."""
        return int(pattern_value(path, self.rank_pattern, self.r))

    def scaling(self, path: str, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        alpha = float(pattern_value(path, self.alpha_pattern, self.lora_alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


_PRINCIPAL = {"pissa": "PiSSA", "olora": "OLoRA"}


def parse_lora(fields: Fields) -> LoraConfig:
    """The config of a LoRA adapter that can be merged.

    Raises:
        AdapterError: a value has the wrong type, or the result has no merged form; the hint says the way out.
    """
    config = LoraConfig(
        **common_settings(fields),
        r=fields.integer("r", 8),
        lora_alpha=fields.number("lora_alpha", 8),
        rank_pattern=fields.mapping_of_integers("rank_pattern"),
        alpha_pattern=fields.mapping_of_numbers("alpha_pattern"),
        use_rslora=fields.boolean("use_rslora"),
        use_dora=fields.boolean("use_dora"),
        lora_bias=fields.boolean("lora_bias"),
        fan_in_fan_out=fields.boolean("fan_in_fan_out"),
        bias=fields.choice("bias", ("none", "all", "lora_only")),
        init_lora_weights=fields.initialization("init_lora_weights"),
        ensure_weight_tying=fields.boolean("ensure_weight_tying"),
        block_diagonal=_block_diagonal(fields),
        kasa=_uses_kasa(fields),
        expert_blocks=_expert_blocks(fields),
    )
    refuse_unmergeable(fields.raw, config.init_lora_weights, fields.where)
    if config.use_dora and config.lora_bias:
        raise AdapterError("PEFT defines no lora_bias together with DoRA", where=fields.where, found="both true")
    if config.kasa and (config.use_dora or config.block_diagonal or config.init_lora_weights == "mica"):
        raise AdapterError(
            "PEFT does not combine KaSA with DoRA, BD-LoRA or MiCA", where=fields.where, found=config.title
        )
    check_patterns(config, *config.rank_pattern, *config.alpha_pattern)
    return config


def _uses_kasa(fields: Fields) -> bool:
    """Whether `kasa_config` is there, be it empty: its values only weigh losses in training."""
    fields.mapping("kasa_config")
    return isinstance(fields.raw.get("kasa_config"), dict)


#: What Unsloth writes of the layout of expert stacks since September 2026 -> whether each expert has a block.
LAYOUTS = {"rank_major": False, "grouped_by_expert": True}


def _expert_blocks(fields: Fields) -> bool:
    """The layout that Unsloth recorded; PEFT's where it says nothing. Source: unsloth-zoo #1232."""
    inner = Fields(fields.mapping("unsloth_fused_expert_lora"), f"unsloth_fused_expert_lora of {fields.where}")
    told = [part.get("lora_B_layout") for part in inner.mapping("parameters").values() if isinstance(part, Mapping)]
    found = {layout for layout in (fields.raw.get("lora_B_layout"), *told) if layout is not None}
    if not all(isinstance(layout, str) for layout in found) or not found <= LAYOUTS.keys():
        fields.refuse("lora_B_layout", " or ".join(LAYOUTS))
    if len(found) > 1:
        what = "expert stacks of two layouts in one adapter are not supported"
        raise AdapterError(what, where=f"`lora_B_layout` in {fields.where}", found=", ".join(sorted(found)))
    return LAYOUTS[found.pop()] if found else False


def _block_diagonal(fields: Fields) -> BlockDiagonal | None:
    raw = fields.mapping("use_bdlora")
    if not raw:
        return None
    inner = Fields(raw, f"use_bdlora of {fields.where}")
    return BlockDiagonal(
        a=inner.texts("target_modules_bd_a"),
        b=inner.texts("target_modules_bd_b"),
        blocks=inner.integer("nblocks", 1),
        strict=inner.boolean("match_strict", True),
    )
