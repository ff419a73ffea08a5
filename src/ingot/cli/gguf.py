"""The options of a GGUF: `--to`, and what goes with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.framework import RESULT, Option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.plan.model import GgufOptions

#: Too few bits for what a small adapter has changed.
_POOR = re.compile(r"(Q2|Q3|IQ1|IQ2|IQ3)_")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LATER = ("awq", "gptq", "fp8", "nvfp4", "mxfp4")


def gguf_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options; `gguf_request` takes them out of the keyword arguments."""
    options = (
        click.option("--to", "to", cls=Option, group=RESULT, metavar="FORMAT,...", multiple=True,
                     help="safetensors (default), or GGUF types: gguf:Q4_K_M,gguf:Q8_0 (from one pass)."),
        click.option("--imatrix", cls=Option, group=RESULT, metavar="FILE",
                     help="Importance matrix for GGUF types, of `ingot imatrix` or llama.cpp."),
        click.option("--pre", cls=Option, group=RESULT, metavar="NAME",
                     help="llama.cpp's name of the pre-tokenizer, where it cannot be told from tokenizer.json."),
        click.option("--llama-cpp", cls=Option, group=RESULT, metavar="DIR",
                     help="A checkout of llama.cpp: its converter names and orders the tensors, for models that ingot "
                          "does not know. Its code is run."),
        click.option("--split-size", cls=Option, group=RESULT, metavar="SIZE",
                     help="Cut a GGUF into files of at most this many bytes of tensors: 4G, 500M."),
        click.option("--accept-quality-loss", cls=Option, group=RESULT, is_flag=True,
                     help="Write Q2, Q3 and IQ1 to IQ3 types, which lose much of what an adapter has learnt."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def gguf_request(options: dict[str, Any]) -> tuple[GgufOptions | None, Path | None, Path | None]:
    """What `gguf_options` were given, taken out of `options`: for the plan, the importance matrix, and llama.cpp.

    Raises:
        UsageError: an unknown format, or options that belong to none that was asked for.
    """
    file_types = _file_types(options.pop("to"))
    imatrix, pre, split = options.pop("imatrix"), options.pop("pre"), options.pop("split_size")
    llama_cpp = options.pop("llama_cpp")
    accepts_loss = options.pop("accept_quality_loss")
    if not file_types:
        given = {"--imatrix": imatrix, "--pre": pre, "--split-size": split, "--llama-cpp": llama_cpp}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} belongs to a GGUF", hint="Add --to gguf:Q4_K_M, for example.")
        return None, None, None
    poor = [name for name in file_types if _POOR.match(name)]
    if poor and not accepts_loss:
        raise UsageError(
            f"{', '.join(poor)}: at three bits and less the error of each weight is larger than what a usual adapter "
            "changes, so much of the fine-tuning is lost",
            hint="Use gguf:Q4_K_M or more; or pass --accept-quality-loss, and validate the result.",
        )
    from ingot.plan.model import GgufOptions

    digest = code = None
    if llama_cpp is not None:
        from ingot.quantize.gguf.bridge.checkout import Checkout

        code = Checkout.open(Path(llama_cpp)).digest
    if imatrix is not None:
        from ingot.quantize.gguf.run import digest_of

        digest = digest_of(Path(imatrix))
    asked = GgufOptions(file_types, pre, _nbytes(split) if split is not None else 0, digest, code)
    return asked, _path(imatrix), _path(llama_cpp)


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _file_types(formats: tuple[str, ...]) -> tuple[str, ...]:
    """`gguf:` types in llama.cpp's spelling, each once; none for safetensors."""
    names = [part.strip() for text in formats for part in text.split(",") if part.strip()]
    if not names or names == ["safetensors"]:
        return ()
    from ingot.quantize.gguf.types import FILE_TYPES

    found = []
    for name in names:
        kind, _, file_type = name.partition(":")
        if kind.lower() == "gguf" and file_type.upper() in FILE_TYPES:
            found.append(file_type.upper())
        elif kind.lower() == "gguf":
            raise UsageError("no such GGUF type", found=repr(file_type), expected=", ".join(FILE_TYPES))
        elif kind.lower() == "safetensors":
            raise UsageError("safetensors and GGUF are two artifacts", hint="Run the command once for each.")
        else:
            later = " (int4 and FP8 formats come in a later version)" if kind.lower() in _LATER else ""
            raise UsageError(f"no such format{later}", found=repr(name), expected="safetensors or gguf:TYPE")
    return tuple(dict.fromkeys(found))


def _nbytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    number = float(match[1]) * _UNITS[match[2].lower()] if match else 0
    if number < 1:
        raise UsageError("--split-size is no size", found=repr(text), expected="a number of bytes such as 4G or 500M")
    return int(number)
