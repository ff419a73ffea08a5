"""The boundary: argv in, exit code out. Every exception is shown once, here, and none passes."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence

import click

from ingot.cli.output import Mode, Output
from ingot.cli.signals import Stopper
from ingot.errors import EXIT_BUG, IngotError, Interrupted, ResourceError

_COMPLETION = "_INGOT_COMPLETE"
_REPORT = (
    "This is a bug in ingot, not in what you typed. Please report it with the lines above, your command, "
    "and what `ingot doctor` prints."
)


class Session:
    """What a verb gets from the command line around it."""

    def __init__(self, output: Output, stopper: Stopper) -> None:
        self.output = output
        self.stopper = stopper


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; raises nothing."""
    from ingot.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    _never_fail_on_encoding()
    output = _output(arguments)
    stopper = Stopper()
    try:
        with stopper.listening():
            _run(app, arguments, Session(output, stopper))
        code = 0
    except BaseException as error:
        code = _report(error, output, stopper)
    try:
        output.close()
    except IngotError as error:
        code = code or error.exit_code
    return code


def _run(app: click.Group, arguments: list[str], session: Session) -> None:
    """Without click's own handling of exceptions, except where it is a shell that asks for completions."""
    if _COMPLETION in os.environ:
        app.main(arguments, prog_name="ingot", complete_var=_COMPLETION)
    with app.make_context("ingot", arguments, obj=session) as context:
        app.invoke(context)


def _output(arguments: Sequence[str]) -> Output:
    """Read from the raw arguments, so that errors in the others are shown in the mode that was asked for."""
    flags = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    quiet = "--quiet" in flags or any(re.fullmatch(r"-v*q[qv]*", flag) for flag in flags)
    mode: Mode = "json" if "--json" in flags else "quiet" if quiet else "human"
    return Output(mode, color="--no-color" not in flags, debug="--debug" in flags)


def _never_fail_on_encoding() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _report(error: BaseException, output: Output, stopper: Stopper) -> int:
    """Show what ended the command; returns its exit code."""
    if isinstance(error, BrokenPipeError) and output.has_lost_its_reader():  # click prints help by itself
        return 0
    if isinstance(error, SystemExit | click.exceptions.Exit):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else 0 if code is None else EXIT_BUG
    known = _known(error)
    if output.debug or known is None:
        output.raw_error("".join(traceback.format_exception(error)))
    if known is None:
        known = _bug(error)
    code = stopper.exit_code if isinstance(known, Interrupted) else known.exit_code
    try:
        output.error(known, code)
    except IngotError as unwritable:
        return unwritable.exit_code
    return code


def _known(error: BaseException) -> IngotError | None:
    """The error as one of ours, or None for a bug."""
    if isinstance(error, IngotError):
        return error
    if isinstance(error, click.ClickException):
        from ingot.cli.framework import as_usage_error

        return as_usage_error(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Interrupted("stopped", hint="Run the same command again.")
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return ResourceError("memory does not suffice", hint="Close other programs, or lower --jobs.")
    if isinstance(error, OSError):
        where = getattr(error, "filename", None)
        return ResourceError(f"the system refused ({(error.strerror or str(error)).lower()})", where=where, hint="")
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """torch raises RuntimeErrors: a subclass for devices, a plain one for the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate" in str(error)


def _bug(error: BaseException) -> IngotError:
    return IngotError(f"unexpected {type(error).__name__}: {error}", hint=_REPORT)
