"""click, with help that shows examples first and options in groups, and with near matches for what was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import click

from ingot.errors import UsageError

RESULT = "What changes the result"
COMBINE = "How several adapters become one"
RUN = "How it runs"
OUTPUT = "Output"
_GROUPS = (RESULT, COMBINE, RUN, OUTPUT)
_MOST_COLUMNS = 100


class Option(click.Option):
    """An option that says under which heading the help lists it."""

    def __init__(self, *args: Any, group: str = RUN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Verb(click.Command):
    """A command with examples.

    Args:
        examples: (command line, what it does) each.
        arguments_help: (argument, what it is) each.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[tuple[str, str]] = (),
        arguments_help: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", {"max_content_width": _MOST_COLUMNS})
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.arguments_help = arguments_help

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        write_examples(formatter, self.examples)
        self.format_help_text(ctx, formatter)
        if self.arguments_help:
            with formatter.section("Arguments"):
                formatter.write_dl(list(self.arguments_help))
        for group in _GROUPS:
            records = [
                record
                for option in self.get_params(ctx)
                if isinstance(option, click.Option)
                and getattr(option, "group", OUTPUT) == group
                and (record := option.get_help_record(ctx))
            ]
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


class Verbs(click.Group):
    """The group of all verbs, listed in the order in which they were added."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"max_content_width": _MOST_COLUMNS})
        super().__init__(*args, **kwargs)
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        write_examples(formatter, self.examples)
        self.format_help_text(ctx, formatter)
        self.format_commands(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise UsageError(f"no such verb: {name}", hint=_suggestion(name, list(self.commands)))
        return super().resolve_command(ctx, args)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]]) -> None:
    """A command line, and under it what it does."""
    if not examples:
        return
    with formatter.section("Examples"):
        for command, meaning in examples:
            formatter.write(f"{'':{formatter.current_indent}}{command}\n")
            formatter.write(f"{'':{formatter.current_indent + 4}}{meaning}\n")


def _suggestion(word: str, known: Sequence[str]) -> str | None:
    """A hint with the names that look like `word`; None where none does."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else None


def as_usage_error(error: click.ClickException) -> UsageError:
    """What click found wrong, in our words, with near matches."""
    ctx = getattr(error, "ctx", None)
    verb = ctx.command_path if ctx is not None else "ingot"
    default = f"Run `{verb} --help` for examples and options."
    if isinstance(error, click.NoSuchOption):
        parameters = ctx.command.params if ctx is not None else []
        options = [name for parameter in parameters if isinstance(parameter, click.Option) for name in parameter.opts]
        near = _suggestion(error.option_name, [*options, "--help"])
        return UsageError(f"no such option: {error.option_name}", hint=near or default)
    if isinstance(error, click.MissingParameter) and error.param is not None and error.param.metavar:
        name = error.param.metavar.removesuffix("...")
        short = f"{error.param.opts[0]} " if isinstance(error.param, click.Option) else ""
        return UsageError(f"{short}{name} is missing", hint=default)
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        return UsageError(f"{error.param.opts[-1]}: {error.message.rstrip('.')}", hint=default)
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=default)
