"""What several verbs take: BASE, ADAPTER=WEIGHT, and the options that they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ingot.checkpoint.named import named, number_of
from ingot.checkpoint.named import parse_adapter as parse_adapter
from ingot.cli.framework import COMBINE, OUTPUT, RESULT, RUN, Option
from ingot.combine.parameters import DENSITY, EPSILON, GAMMA, Majority, Method
from ingot.errors import UsageError
from ingot.kernels.spelling import DTYPES as DTYPES

if TYPE_CHECKING:
    from ingot.plan.model import Options

#: `plan.model.Rounding`, which is not imported for a line of help.
ROUNDINGS = ("nearest", "stochastic", "preserve", "auto")

#: `adapters.adapter.EXPERT_LAYOUTS`, likewise.
EXPERT_LAYOUTS = ("peft", "unsloth")

#: `plan.base_as.BaseAs`, likewise.
BASES = ("stored", "nf4")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def parse_base(text: str) -> str:
    """BASE as it was typed. Raises UsageError when it is empty, which a path would take for the current directory."""
    return named(text, "BASE")


def device_name(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    """`name`, when it is spelled like a device; whether this machine has it, the run will say."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise UsageError(f"no such device: {name}", expected="cpu, cuda or cuda:N")
    return name


def make_options(
    dtype: str | None,
    rounding: str,
    assume_peft_version: str | None,
    accept_nonfinite_base: bool,
    accept_missing: bool,
    seed: int = 0,
    *,
    take: Sequence[str] = (),
    adapters: Sequence[str] = (),
    **more: Any,
) -> Options:
    """The plan's options from those of the command line. `take` names some of `adapters`, by name or by number."""
    from ingot.plan.model import Options

    stored = DTYPES[dtype] if dtype else None
    taken = tuple(number_of(name, adapters) for name in take)
    return Options(
        stored, rounding, assume_peft_version, accept_nonfinite_base, accept_missing, seed, take=taken, **more
    )


#: Shown under "Arguments" of the verbs that take a base and adapters.
BASE_AND_ADAPTERS = (
    ("BASE", "The model that the adapter was trained on: a directory, or a Hub id such as org/name@revision."),
    ("ADAPTER[=WEIGHT]", "An adapter: a directory, file or Hub id. Its update is multiplied by WEIGHT (default 1)."),
)


def _option(*names: str, group: str, **settings: Any) -> Decorator:
    return click.option(*names, cls=Option, group=group, **settings)


def result_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that change bytes of the output."""
    options = (
        _option("--dtype", group=RESULT, type=click.Choice(list(DTYPES)), metavar="DTYPE",
                help=f"Store all weights as {', '.join(DTYPES)}; default: as in the base."),
        _option("--rounding", group=RESULT, type=click.Choice(ROUNDINGS), default="nearest", show_default=True,
                help="How sums in float32 become the output dtype; the others keep a small adapter alive."),
        _option("--base-as", group=RESULT, type=click.Choice(BASES), default="stored", show_default=True,
                help="The base as it is stored, or as QLoRA trained on it: a 16-bit base taken through NF4 and back."),
        _option("--seed", group=RESULT, type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N",
                help="Of stochastic rounding, dare and della: the same seed gives the same bytes."),
        _option("--assume-peft-version", group=RESULT, metavar="VERSION",
                help="Read the adapter as this PEFT release wrote it, where its config does not say."),
        _option("--accept-nonfinite-base", group=RESULT, is_flag=True,
                help="Copy NaN and infinity in tensors that no adapter changes, instead of refusing them."),
        _option("--accept-missing", group=RESULT, is_flag=True,
                help="Go on where the adapter lacks tensors that its config speaks of, or its new head is not whole."),
        _option("--component", group=RESULT, metavar="NAME",
                help="Which of the adapter's components BASE is: unet, transformer, text_encoder, text_encoder_2 …"),
        _option("--expert-layout", group=RESULT, type=click.Choice(EXPERT_LAYOUTS),
                help="How an expert stack's lora_B is read; unsloth: trained by Unsloth before September 2026. "
                     "Default: as its config says, else as PEFT saves it."),
    )  # fmt: skip
    return _apply(options, function)


def combine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how several adapters become one; see `combine.parameters`."""
    options = (
        _option("--method", group=COMBINE, type=click.Choice([str(method) for method in Method]), metavar="METHOD",
                default=str(Method.LINEAR), show_default=True, help=f"{', '.join(Method)}; see docs/combining.md."),
        _option("--density", group=COMBINE, type=float, metavar="SHARE",
                help=f"The share of each update that is kept, above 0 and at most 1; default {DENSITY:g}."),
        _option("--lambda", "lambda_", group=COMBINE, type=float, default=1.0, show_default=True, metavar="FACTOR",
                help="The combined update is multiplied by it."),
        _option("--majority-sign", group=COMBINE, type=click.Choice([str(one) for one in Majority]),
                default=str(Majority.TOTAL), show_default=True,
                help="What elects a sign where adapters disagree: their values, or how many they are."),
        _option("--gamma", group=COMBINE, type=float, metavar="SHARE",
                help=f"breadcrumbs: the share that is dropped because it is largest; default {GAMMA:g}."),
        _option("--epsilon", group=COMBINE, type=float, metavar="SHARE",
                help=f"della: what is small is kept with probability density - epsilon, what is large with "
                     f"density + epsilon; default {EPSILON:g}."),
        _option("--take", group=COMBINE, multiple=True, metavar="ADAPTER",
                help="Whose tensors are used where several adapters bring them whole: a name or a number."),
    )  # fmt: skip
    return _apply(options, function)


def output_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that every verb takes. `boundary` reads them from the raw arguments; here they are only declared."""
    flags = (
        (("--json",), "JSON Lines on stdout; the last line is the result or the error."),
        (("-q", "--quiet"), "Nothing but errors, and one line of data."),
        (("--no-color",), "No colour. NO_COLOR and TERM=dumb do the same."),
        (("--debug",), "Show the traceback of an error."),
    )
    options = (_option(*names, group=OUTPUT, is_flag=True, expose_value=False, help=text) for names, text in flags)
    return _apply(tuple(options), function)


def jobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--jobs"""
    return _option("--jobs", group=RUN, type=click.IntRange(1, 1024), metavar="N",
                   help="Threads that compute; default: as many as there are cores.")(function)  # fmt: skip


def making_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where an artifact is made, and how; `making.make` takes them."""
    options = (
        _option("-o", "--output", "target", group=RUN, metavar="OUT", required=True,
                help="The directory to be made. It appears when it is whole; it must not exist before."),
        _option("--device", group=RUN, metavar="DEVICE", default="cpu", show_default=True, callback=device_name,
                help="Where the arithmetic is done: cpu, cuda or cuda:N."),
        jobs_option,
        _option("--restart", group=RUN, is_flag=True,
                help="Drop what an interrupted run of this output has finished, and begin anew."),
        _option("--registry", group=RUN, metavar="DIR",
                help="Take note of the artifact in this registry, and keep a copy of its adapters there; default: "
                     "$INGOT_REGISTRY, else in none."),
        _option("-v", "--verbose", group=OUTPUT, is_flag=True, help="Show the whole plan first."),
    )  # fmt: skip
    return _apply(options, function)


def _apply(decorators: tuple[Decorator, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    for decorator in reversed(decorators):
        function = decorator(function)
    return function
