"""What may stand in a recipe, as one tree of nouns: it reads the file, and describes it to editors as a JSON schema.

The same nouns hold a recipe whose paths are resolved (`recipe.Recipe`). Names are those of the command line, with `_`
for `-`. Descriptions are for people who write a recipe.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ingot.combine.parameters import Majority, Method
from ingot.plan.model import Rounding

#: The version of the format that this ingot reads.
RECIPE_VERSION = 1

Dtype = Literal["bfloat16", "float16", "float32", "bf16", "fp16", "fp32"]
Version = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        max_length=32,
        description='A version, as text: letters, digits, ".", "_", "+" and "-". Quote it: "1.10" is not 1.1.',
    ),
]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96)]
Run = Annotated[str, Meta(min_length=1, max_length=300)]
Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class BaseForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The model that the adapters were trained on.

    A string stands for `{model: STRING}`. In a resolved recipe, `model` is an absolute path or `org/name@revision`,
    and `revision` is None.
    """

    model: Annotated[Text, Meta(description="A directory, or a Hub id such as org/name or org/name@revision.")]
    revision: Annotated[Text | None, Meta(description="Branch, tag or commit of a Hub id.")] = None
    version: Annotated[Version | None, Meta(description="What people call this version of the base.")] = None


class AdapterForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One adapter, and what is known of it.

    A string stands for `{adapter: STRING}`. In a resolved recipe, `adapter` is an absolute path or a Hub id.
    """

    adapter: Annotated[Text, Meta(description="A directory, a file, or a Hub id such as org/name@revision.")]
    weight: Annotated[float, Meta(description="Its update is multiplied by it.")] = 1.0
    version: Annotated[Version | None, Meta(description="What people call this version of the adapter.")] = None
    training_run: Annotated[
        Run | None,
        Meta(description="The run that made it, as its tracker names it: wandb:team/project/runs/ID."),
    ] = None


class MergeForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How base and adapters become one; the options of `ingot merge`."""

    method: Annotated[Method, Meta(description="How several adapters become one; see docs/combining.md.")] = (
        Method.LINEAR
    )
    dtype: Annotated[Dtype | None, Meta(description="Store all weights in it; default: as in the base.")] = None
    rounding: Annotated[Rounding, Meta(description="How sums in float32 become the output dtype.")] = Rounding.NEAREST
    seed: Annotated[Seed, Meta(description="Of stochastic rounding, dare and della.")] = 0
    density: Annotated[float | None, Meta(description="The share of each update that is kept, in (0, 1].")] = None
    lambda_: Annotated[float, Meta(description="The combined update is multiplied by it.")] = field(
        name="lambda", default=1.0
    )
    majority_sign: Annotated[Majority, Meta(description="What elects a sign where adapters disagree.")] = Majority.TOTAL
    gamma: Annotated[
        float | None, Meta(description="breadcrumbs: the share that is dropped because it is largest.")
    ] = None
    epsilon: Annotated[
        float | None, Meta(description="della: how far the probability of being kept spreads around density.")
    ] = None
    take: Annotated[
        tuple[Text | Positive, ...],
        Meta(description="Adapters, by name or number from 1, whose whole tensors are used where several bring them."),
    ] = ()
    component: Annotated[
        Text | None, Meta(description="Which of the adapter's components the base is, such as unet.")
    ] = None
    expert_layout: Annotated[
        Literal["peft", "unsloth"] | None, Meta(description="How an expert stack's lora_B is read.")
    ] = None
    base_as: Annotated[
        Literal["stored", "nf4"], Meta(description="The base as stored, or as QLoRA trained on it (nf4).")
    ] = "stored"
    assume_peft_version: Annotated[
        Text | None, Meta(description="Read adapters as this PEFT release wrote them, where their config does not say.")
    ] = None
    accept_missing: Annotated[bool, Meta(description="Go on where an adapter lacks tensors that its config names.")] = (
        False
    )
    accept_nonfinite_base: Annotated[
        bool, Meta(description="Copy NaN and infinity in tensors that no adapter changes.")
    ] = False


class GatesForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits that an artifact must keep to be published; what is left out has the default of `ingot validate`."""

    max_score_drop: Annotated[Share | None, Meta(description="Of each task's mean score, a fraction.")] = None
    max_kl: Annotated[NotNegative | None, Meta(description="Mean KL divergence in nats.")] = None
    min_top1: Annotated[Share | None, Meta(description="Share of positions with the same likeliest token.")] = None
    min_survival: Annotated[
        float | None, Meta(description="Of every tensor's update, what is left after rounding.")
    ] = None


class FormatForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One artifact to be made.

    A string stands for `{format: STRING}`. In a resolved recipe, `format` is "safetensors" or "gguf:" and llama.cpp's
    spelling of the type; paths are absolute. All keys but `format` and `gates` belong to GGUF.
    """

    format: Annotated[Text, Meta(description="safetensors, or gguf:TYPE such as gguf:Q4_K_M.")]
    imatrix: Annotated[Text | None, Meta(description="Importance matrix, of `ingot imatrix` or llama.cpp.")] = None
    pre: Annotated[Text | None, Meta(description="llama.cpp's name of the pre-tokenizer.")] = None
    split_size: Annotated[
        Positive | Text | None,
        Meta(description="Cut the GGUF into files of at most this many bytes of tensors: 4G, 500M."),
    ] = None
    llama_cpp: Annotated[
        Text | None, Meta(description="A checkout of llama.cpp, whose converter is run for models ingot does not know.")
    ] = None
    accept_quality_loss: Annotated[bool, Meta(description="Make a Q2, Q3 or IQ1 to IQ3 type.")] = False
    gates: Annotated[GatesForm | None, Meta(description="Limits of this format; they override the general ones.")] = (
        None
    )


class ValidateForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What each artifact is held against base and adapter by, before it is published; see docs/evidence.md.

    Weights are compared whether or not there are samples. In a resolved recipe, the files are absolute.
    """

    samples: Annotated[
        tuple[Text, ...], Meta(description="Files of prompts and answers: FILE.jsonl or NAME=FILE.jsonl:METRIC.")
    ] = ()
    metric: Annotated[
        Text | None, Meta(description="Of files that name none: contains, exact, regex, numeric, json, choice, ...")
    ] = None
    chat: Annotated[bool, Meta(description="Put the prompts through the chat template.")] = False
    new_tokens: Annotated[int, Meta(ge=1, le=8192, description="The most tokens that an answer may have.")] = 64
    tasks: Annotated[tuple[Text, ...], Meta(description="Tasks of lm-evaluation-harness.")] = ()
    tasks_dir: Annotated[Text | None, Meta(description="Where YAML files of such tasks of your own are.")] = None
    tasks_limit: Annotated[Positive | None, Meta(description="Only the first N documents of each of them.")] = None
    dtype: Annotated[Dtype | None, Meta(description="What the models compute in; default: as they are stored.")] = None
    logit_tokens: Annotated[
        Annotated[int, Meta(ge=2)] | None, Meta(description="Compare logits on about so many tokens.")
    ] = None
    gates: Annotated[GatesForm, Meta(description="Limits of every format.")] = GatesForm()
    seed: Annotated[Seed, Meta(description="Of the bootstrap intervals.")] = 0


class PublishForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the artifacts go once all gates have passed. In a resolved recipe, `registry` is absolute."""

    registry: Annotated[
        Text | None, Meta(description="The registry's directory; default: $INGOT_REGISTRY, else the user's own.")
    ] = None
    tags: Annotated[
        tuple[Text, ...],
        Meta(description="Tags that each artifact gets; {name}, {format} and {version} are filled in."),
    ] = ()
    keep_adapters: Annotated[
        bool | None, Meta(description="Keep a copy of the adapters; default: of those up to 1 GB.")
    ] = None
    push: Annotated[
        tuple[Text, ...],
        Meta(description="Where each artifact is pushed afterwards, such as hf://org/{name}."),
    ] = ()


class RecipeForm(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A release of ingot: from a base and adapters to artifacts that were validated and published.

    Paths are relative to the recipe's file.
    """

    ingot: Annotated[Literal[1], Meta(description="The version of the recipe format.")]
    base: Annotated[Text | BaseForm, Meta(description="The model that the adapters were trained on.")]
    adapters: Annotated[tuple[Text | AdapterForm, ...], Meta(min_length=1, description="The adapters, at least one.")]
    formats: Annotated[
        tuple[Text | FormatForm, ...], Meta(min_length=1, description="The artifacts to be made, at least one.")
    ]
    name: Annotated[
        Name | None,
        Meta(description="The artifacts' name; default: made of base, adapter and their versions."),
    ] = None
    version: Annotated[Version | None, Meta(description="The release's version.")] = None
    merge: Annotated[MergeForm, Meta(description="How base and adapters become one.")] = MergeForm()
    validate: Annotated[ValidateForm | None, Meta(description="What each artifact is checked by.")] = None
    publish: Annotated[PublishForm, Meta(description="Where the artifacts go.")] = PublishForm()
