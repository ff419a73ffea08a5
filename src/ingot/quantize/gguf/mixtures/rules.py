"""The tables. A rule says: for these file types, where these conditions hold, this type. The first rule that fits wins;
where none does, a tensor gets the type that the file type is named for.

Fractions of the layers round down, as integers in C do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ingot.quantize.gguf.mixtures.model import Model
from ingot.quantize.gguf.types import FILE_TYPES


@dataclass(frozen=True)
class Place:
    """What a condition may ask of a tensor.

    Attributes:
        part: see `model.part_of`.
        type: its type so far.
        weighted: whether there is an importance matrix.
        index, count: its layer and the number of layers; for values, which one it is, of how many.
        fits: whether its rows are whole blocks of the file type's own type.
        stacked: whether it holds several experts.
    """

    model: Model
    part: str
    type: str
    weighted: bool
    index: int
    count: int
    fits: bool
    stacked: bool


Condition = Callable[[Place], bool]


@dataclass(frozen=True)
class Rule:
    """`files` and `conditions` -> `to`."""

    files: frozenset[str]
    conditions: tuple[Condition, ...]
    to: str


def rule(files: str, *conditions: Condition, to: str) -> Rule:
    """`files` are names with spaces between them, or "any"."""
    return Rule(frozenset(FILE_TYPES if files == "any" else files.split()), conditions, to)


def first_fit(rules: Sequence[Rule], file_type: str, place: Place) -> str | None:
    """The type of the first rule that fits."""
    for candidate in rules:
        if file_type in candidate.files and all(condition(place) for condition in candidate.conditions):
            return candidate.to
    return None


def falcon(place: Place) -> bool:
    return place.model.architecture == "falcon"


def not_falcon(place: Place) -> bool:
    return not falcon(place)


def grouped(place: Place) -> bool:
    """At least four heads share a value, so that it is small."""
    return place.model.queries_per_value >= 4


def some_experts(place: Place) -> bool:
    return place.model.n_expert >= 4


def eight_experts(place: Place) -> bool:
    return place.model.n_expert == 8


def large(place: Place) -> bool:
    return place.model.is_large


def weighted(place: Place) -> bool:
    return place.weighted


def unweighted(place: Place) -> bool:
    return not place.weighted


def first(count: int) -> Condition:
    return lambda place: place.index < count


def first_eighth(place: Place) -> bool:
    return place.index < place.count // 8


def first_sixteenth(place: Place) -> bool:
    return place.index < place.count // 16


def last_eighth(place: Place) -> bool:
    return place.index >= 7 * place.count // 8


def middle(place: Place) -> bool:
    return not first_eighth(place) and not last_eighth(place)


def more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    return not middle(place) or (place.index - place.count // 8) % 3 == 2


def either(one: Condition, other: Condition) -> Condition:
    return lambda place: one(place) or other(place)


def both(one: Condition, other: Condition) -> Condition:
    return lambda place: one(place) and other(place)


def has(*types: str) -> Condition:
    return lambda place: place.type in types


def misfit(place: Place) -> bool:
    return not place.fits


def stacked(place: Place) -> bool:
    return place.stacked


def routed(place: Place) -> bool:
    """An expert's matrix: of BailingMoE 3 other stacks are none."""
    return place.model.architecture != "bailingmoe3" or place.part in ("ffn_up", "ffn_gate", "ffn_down")


#: Two bits and less.
VERY_LOW = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"

#: The output matrix, and the embeddings where they are it, too.
OUTPUT = (
    rule("MXFP4_MOE", to="Q8_0"),
    rule("any", falcon, to="Q8_0"),
    rule("any", misfit, to="Q8_0"),
    rule(VERY_LOW, to="Q5_K"),
    rule("IQ3_XXS", to="Q5_K"),
    rule("Q8_0", to="Q8_0"),
    rule("any", to="Q6_K"),
)

#: Every other tensor of a file of MXFP4.
EXPERTS = (rule("MXFP4_MOE", stacked, routed, to="MXFP4"), rule("MXFP4_MOE", to="Q8_0"))

EMBEDDING = (
    rule("IQ1_S IQ1_M IQ2_XXS IQ2_XS", to="Q2_K"),
    rule("IQ2_S IQ2_M IQ3_XXS", to="IQ3_S"),
)

#: By part, for file types of `VERY_LOW`. Here the index of `ffn_down` counts tensors, not layers.
VERY_LOW_BIT: Mapping[str, tuple[Rule, ...]] = {
    "attention_v": (
        rule(VERY_LOW, either(grouped, some_experts), to="Q4_K"),
        rule("IQ2_S IQ2_M", to="IQ3_S"),
        rule(VERY_LOW, to="Q2_K"),
    ),
    "attention_k": (rule(VERY_LOW, eight_experts, to="Q4_K"),),
    "ffn_down": (
        rule("IQ2_S IQ2_M", first_eighth, to="IQ3_S"),
        rule(VERY_LOW, first_eighth, to="Q2_K"),
    ),
    "attention_output": (
        rule(VERY_LOW, eight_experts, to="Q5_K"),
        rule("IQ1_S IQ1_M", to="IQ2_XXS"),
        rule("IQ2_S IQ2_M", to="IQ3_S"),
    ),
}

#: By part, for all other file types.
MIXED: Mapping[str, tuple[Rule, ...]] = {
    "attention_v": (
        rule("any", eight_experts, to="Q8_0"),
        rule("Q2_K", grouped, to="Q4_K"),
        rule("Q2_K", to="Q3_K"),
        rule("Q2_K_S", grouped, to="Q4_K"),
        rule("IQ3_XXS", grouped, to="Q4_K"),
        rule("IQ3_XXS", unweighted, to="IQ3_S"),
        rule("IQ3_XS IQ3_S", grouped, to="Q4_K"),
        rule("IQ3_M", to="Q4_K"),
        rule("Q3_K_M", first(2), to="Q5_K"),
        rule("Q3_K_M", to="Q4_K"),
        rule("Q3_K_L", to="Q5_K"),
        rule("IQ4_NL IQ4_XS", grouped, to="Q5_K"),
        rule("Q4_K_M Q5_K_M", more_bits, to="Q6_K"),
        rule("Q4_K_S", first(4), to="Q5_K"),
    ),
    "attention_k": (
        rule("any", eight_experts, to="Q8_0"),
        rule("IQ3_XS", to="IQ3_XXS"),
        rule("IQ3_XXS", to="IQ2_S"),
    ),
    "attention_q": (
        rule("IQ3_XS", to="IQ3_XXS"),
        rule("IQ3_XXS", to="IQ2_S"),
    ),
    "attention_output": (
        rule("Q3_K_L", falcon, to="Q4_K"),
        rule("Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS",
             not_falcon, eight_experts, to="Q5_K"),
        rule("Q2_K", not_falcon, to="Q3_K"),
        rule("IQ3_XXS", not_falcon, to="IQ3_S"),
        rule("Q3_K_M IQ3_M", not_falcon, to="Q4_K"),
        rule("Q3_K_L", not_falcon, lambda place: not eight_experts(place), to="Q5_K"),
    ),
    "ffn_down": (
        rule("Q2_K", to="Q3_K"),
        rule("Q2_K_S", first_eighth, to="Q4_K"),
        rule("IQ3_XXS", unweighted, first_eighth, to="Q4_K"),
        rule("IQ3_XXS", unweighted, to="Q3_K"),
        rule("Q3_K_M", first_sixteenth, to="Q5_K"),
        rule("Q3_K_M", either(not_falcon, more_bits), to="Q4_K"),
        rule("IQ3_M", either(first_eighth, both(eight_experts, more_bits)), to="Q4_K"),
        rule("Q3_K_L", falcon, to="Q4_K"),
        rule("Q3_K_L", to="Q5_K"),
        rule("Q4_K_M", falcon, first_sixteenth, to="Q6_K"),
        rule("Q4_K_M", falcon, more_bits, to="Q5_K"),
        rule("Q4_K_M", not_falcon, more_bits, to="Q6_K"),
        rule("Q5_K_M", more_bits, to="Q6_K"),
        rule("Q4_K_S", not_falcon, first_eighth, to="Q5_K"),
        rule("IQ4_NL IQ4_XS", unweighted, first_eighth, to="Q5_K"),
        rule("Q4_0", weighted, first_eighth, to="Q4_1"),
        rule("Q5_0", weighted, first_eighth, to="Q5_1"),
    ),
    "ffn_gate": (rule("IQ3_XS", middle, to="IQ3_XXS"),),
    "ffn_up": (rule("IQ3_XS", middle, to="IQ3_XXS"),),
}  # fmt: skip

#: Asked of the result of `MIXED`.
AFTERWARDS: Mapping[str, tuple[Rule, ...]] = {
    "attention_v": (rule("any", large, has("Q3_K", "Q4_K"), to="Q5_K"),),
}

#: Type -> what a tensor gets whose rows are no whole blocks of it; F16 where they are none of that either.
FALLBACKS: Mapping[str, str] = {
    "IQ1_S": "IQ4_NL", "IQ1_M": "IQ4_NL", "IQ2_XXS": "IQ4_NL", "IQ2_XS": "IQ4_NL", "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
