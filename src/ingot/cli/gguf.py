"""The options of a GGUF: `--to`, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingot.cli.framework import RESULT, Option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.plan.model import GgufOptions


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
    from ingot.quantize.gguf import asked

    types = asked.file_types(options.pop("to"))
    imatrix, pre, split = options.pop("imatrix"), options.pop("pre"), options.pop("split_size")
    llama_cpp = options.pop("llama_cpp")
    accepts_loss = options.pop("accept_quality_loss")
    if not types:
        given = {"--imatrix": imatrix, "--pre": pre, "--split-size": split, "--llama-cpp": llama_cpp}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} belongs to a GGUF", hint="Add --to gguf:Q4_K_M, for example.")
        return None, None, None
    if not accepts_loss:
        asked.refuse_poor(types, "pass --accept-quality-loss")
    nbytes = asked.split_nbytes(split, "--split-size") if split is not None else 0
    matrix, code = _path(imatrix), _path(llama_cpp)
    return asked.gguf_options(types, pre=pre, split=nbytes, imatrix=matrix, llama_cpp=code), matrix, code


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)
