"""A first recipe for a base and adapters that fit each other, with comments on what else can be said."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.errors import IngotError, printable
from ingot.kernels.spelling import DTYPES
from ingot.plan.model import GgufOptions, Options
from ingot.release import names
from ingot.release.form import RECIPE_VERSION, AdapterForm, BaseForm
from ingot.release.training import Origin, origin_of

if TYPE_CHECKING:
    from ingot.merge import Job

#: What a text may be to stand without quotes.
_PLAIN = re.compile(r"(?!.*(?::$|\.$))[A-Za-z./][A-Za-z0-9_./@:-]*")
_WORDS = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])
_FORMAT = "Q4_K_M"
_DTYPE_NAMES = {stored: name for name, stored in reversed(DTYPES.items())}


@dataclass(frozen=True)
class Starter:
    """A recipe's text, and what was found on the way.

    Attributes:
        name: that the artifacts will have.
        formats: that will be made.
        no_gguf: why none of them is a GGUF, where it is so.
        warnings: of the plan.
    """

    text: str
    name: str
    formats: tuple[str, ...]
    no_gguf: str | None
    warnings: tuple[str, ...]


def start(base: str, adapters: Sequence[tuple[str, float]], directory: Path) -> Starter:
    """A recipe for these, whose file will stand in `directory`. Plans the merge, and so reads headers and a few rows.

    Raises:
        BaseError, AdapterError, MismatchError, UnsafeInputError: there would be no such merge.
    """
    from ingot.merge import prepare

    with prepare(base, adapters) as job:
        origins = [origin_of(weighted.location.path) for weighted in job.adapters]
        base_form = _base(base, job, directory)
        forms = [
            _adapter(spec, weight, origin, directory) for (spec, weight), origin in zip(adapters, origins, strict=True)
        ]
        name = names.stem_of(
            BaseForm(job.base.location.name),
            [_unversioned(w.location.name, o) for w, o in zip(job.adapters, origins, strict=True)],
        )
        no_gguf = _no_gguf(base, adapters)
        parts = (
            _head(name), _base_lines(base_form), _adapter_lines(forms, origins), _merge_lines(job, len(forms)),
            _format_lines(no_gguf), _validate_lines(), _PUBLISH,
        )  # fmt: skip
        text = "".join(f"{line}\n" for part in parts for line in part)
        formats = ("safetensors",) if no_gguf else ("safetensors", f"gguf:{_FORMAT}")
        return Starter(text, name, formats, no_gguf, job.plan.warnings)


def _base(spec: str, job: Job, directory: Path) -> BaseForm:
    """As it was named; a Hub id with the commit that it stands for now, so that the recipe means it tomorrow."""
    if Path(spec).expanduser().exists():
        return BaseForm(_relative(spec, directory))
    model, _, revision = spec.partition("@")
    return BaseForm(model, revision=job.base.location.commit or revision or None)


def _adapter(spec: str, weight: float, origin: Origin, directory: Path) -> AdapterForm:
    here = Path(spec).expanduser().exists()
    return AdapterForm(_relative(spec, directory) if here else spec, weight, origin.version, origin.run)


def _unversioned(name: str, origin: Origin) -> AdapterForm:
    """For the name of the artifacts: the version has a key of its own."""
    return AdapterForm(re.sub(rf"[-_.]{re.escape(origin.version)}$", "", name) if origin.version else name)


def _relative(spec: str, directory: Path) -> str:
    path = os.path.relpath(Path(spec).expanduser().absolute(), directory)
    return path if path.startswith("..") else os.path.join(".", path)


def _no_gguf(base: str, adapters: Sequence[tuple[str, float]]) -> str | None:
    """Why the merge cannot be written as a GGUF; None where it can."""
    from ingot.merge import prepare

    try:
        with prepare(base, adapters, Options(gguf=GgufOptions((_FORMAT,)))):
            return None
    except IngotError as error:
        return error.what


def _head(name: str) -> list[str]:
    return [
        "# A release recipe of ingot: `ingot release` makes, validates and publishes what it says.",
        "# Paths are relative to this file. Every key: docs/release.md; for editors: `ingot init --schema`.",
        f"ingot: {RECIPE_VERSION}                    # version of the recipe format",
        f"name: {_text(name)}",
        'version: "1.0"              # of this release; raise it with every change',
        "",
    ]


def _base_lines(base: BaseForm) -> list[str]:
    revision = [f"  revision: {_text(base.revision)}"] if base.revision else []
    return [
        "base:",
        f"  model: {_text(base.model)}",
        *revision,
        '  # version: "1.0"           # what people call it',
        "",
    ]


def _adapter_lines(forms: Sequence[AdapterForm], origins: Sequence[Origin]) -> list[str]:
    lines = ["adapters:"]
    for form, origin in zip(forms, origins, strict=True):
        lines += [f"  - adapter: {_text(form.adapter)}", f"    weight: {form.weight!r}"]
        if form.version:
            lines.append(f"    version: {_text(form.version)}              # a guess; please look")
        else:
            lines.append("    # version: v1")
        if form.training_run:
            lines.append(f"    training_run: {_text(form.training_run)}    # a guess; please look")
        else:
            lines.append("    # training_run: wandb:team/project/runs/ID")
        if origin.steps is not None:
            lines.append(f"    # trained for {origin.steps:,} steps, by its trainer_state.json")
    return [*lines, ""]


def _merge_lines(job: Job, adapters: int) -> list[str]:
    """One dtype all through is said; where there are several, each tensor keeps its own unless a person decides."""
    stored: dict[str, int] = {}
    for op in job.plan.ops:
        stored[op.dtype] = stored.get(op.dtype, 0) + 1
    floating = sorted((dtype for dtype in stored if dtype in _DTYPE_NAMES), key=lambda dtype: -stored[dtype])
    lines = [
        "merge:",
        "  method: linear              # "
        + ("see docs/combining.md" if adapters > 1 else "one adapter needs no other"),
    ]
    if len(floating) == 1 and len(stored) == 1:
        lines.append(f"  dtype: {_DTYPE_NAMES[floating[0]]:<20} # as in the base")
    elif floating:
        own = f"of all tensors; without it each keeps its own: {', '.join(sorted(stored))}"
        lines.append(f"  # dtype: {_DTYPE_NAMES[floating[0]]:<18} # {own}")
    return [*lines, "  rounding: nearest           # stochastic, preserve or auto keep a small adapter alive", ""]


def _format_lines(no_gguf: str | None) -> list[str]:
    lines = ["formats:", "  - safetensors"]
    if no_gguf is None:
        lines += [
            f"  - format: gguf:{_FORMAT}",
            "    # imatrix: ./model.imatrix",
            "    # gates: {max_kl: 0.1}    # limits of this format alone",
        ]
    else:
        lines += [f"  # - gguf:{_FORMAT}             # not for this model: {_comment(no_gguf)}"]
    return [*lines, ""]


def _validate_lines() -> list[str]:
    from ingot.validate.gates import Limits

    limits = ", ".join(f"{name}: {value:g}" for name, value in vars(Limits()).items())
    return [
        "validate:",
        '  # samples: [tests.jsonl]    # lines of {"prompt": ..., "expected": ...}; without any, weights are compared',
        "  # chat: true                # through the chat template",
        f"  gates: {{{limits}}}",
        "",
    ]


_PUBLISH = [
    "# publish:",
    "#   registry: ./registry      # default: $INGOT_REGISTRY, else the user's own",
    "#   tags: [candidate]",
    '#   push: ["hf://org/{name}"]',
]


def _text(text: str) -> str:
    """A scalar that every reader of YAML takes for this text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text)


def _comment(text: str) -> str:
    return printable(" ".join(text.split()))
