"""What a command line or a recipe asks of a GGUF, from text to the plan's options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.plan.model import GgufOptions

#: Too few bits for what a small adapter has changed.
_POOR = re.compile(r"(Q2|Q3|IQ1|IQ2|IQ3)_")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
#: A signed number of 64 bits has a place for it.
_MOST_NBYTES = float(1 << 62)
_SHOWN = 40
_NAME = "gguf:Q4_K_M and gguf:Q8_0 are the usual ones."
_LATER = ("awq", "gptq", "fp8", "nvfp4", "mxfp4")


def file_types(formats: Sequence[str]) -> tuple[str, ...]:
    """The GGUF types of `gguf:TYPE,gguf:TYPE`, in llama.cpp's spelling, each once; none of `safetensors`.

    Raises:
        UsageError: an unknown format, or safetensors and GGUF together.
    """
    names = [part.strip() for text in formats for part in text.split(",") if part.strip()]
    if not formats or names == ["safetensors"]:
        return ()
    if not names:
        raise UsageError("no format is named", expected="safetensors or gguf:TYPE", found=repr(formats[0]), hint=_NAME)
    from ingot.quantize.gguf.types import FILE_TYPES

    found = []
    for name in names:
        kind, _, file_type = name.partition(":")
        if kind.lower() == "gguf" and file_type.upper() in FILE_TYPES:
            found.append(file_type.upper())
        elif kind.lower() == "gguf":
            raise UsageError("no such GGUF type", found=repr(file_type), expected=", ".join(FILE_TYPES), hint=_NAME)
        elif kind.lower() == "safetensors":
            raise UsageError("safetensors and GGUF are two artifacts", hint="Run the command once for each.")
        else:
            later = " (int4 and FP8 formats come in a later version)" if kind.lower() in _LATER else ""
            raise UsageError(
                f"no such format{later}", found=repr(name), expected="safetensors or gguf:TYPE", hint=_NAME
            )
    return tuple(dict.fromkeys(found))


def refuse_poor(types: Sequence[str], accept: str) -> None:
    """Raises UsageError where a type has too few bits for an adapter. `accept`: how to take it all the same."""
    poor = [name for name in types if _POOR.match(name)]
    if poor:
        raise UsageError(
            f"{', '.join(poor)}: at three bits and less the error of each weight is larger than what a usual adapter "
            "changes, so much of the fine-tuning is lost",
            hint=f"Use gguf:Q4_K_M or more; or {accept}, and validate the result.",
        )


def split_nbytes(text: str, name: str) -> int:
    """The bytes of a size such as 4G, 500M or 1000000. Raises UsageError where it is none; `name`: the option's."""
    match = _SIZE.fullmatch(text.strip())
    number = float(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not 1 <= number < _MOST_NBYTES:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise UsageError(f"{name} is no size", found=repr(shown), expected="a number of bytes",
                         hint="Write it like 4G or 500M.")  # fmt: skip
    return int(number)


def gguf_options(
    types: Sequence[str], *, pre: str | None, split: int, imatrix: Path | None, llama_cpp: Path | None
) -> GgufOptions:
    """The plan's options; reads the importance matrix and the converter for their digests. `split` is in bytes.

    Raises:
        UsageError: one of them cannot be read.
    """
    from ingot.plan.model import GgufOptions

    digest = code = None
    if llama_cpp is not None:
        from ingot.quantize.gguf.bridge.checkout import Checkout

        code = Checkout.open(llama_cpp).digest
    if imatrix is not None:
        if not imatrix.is_file():
            hint = "Make one with `ingot imatrix MODEL --samples FILE -o FILE`."
            raise UsageError("there is no such importance matrix", where=imatrix, hint=hint)
        from ingot.quantize.gguf.run import digest_of

        digest = digest_of(imatrix)
    return GgufOptions(tuple(types), pre, split, digest, code)
