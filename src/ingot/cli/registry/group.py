"""`ingot registry`: its verbs."""

from __future__ import annotations

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import Verbs
from ingot.cli.registry.add import add
from ingot.cli.registry.diff import diff
from ingot.cli.registry.gc import gc
from ingot.cli.registry.keep import keep
from ingot.cli.registry.list import list_artifacts
from ingot.cli.registry.push import push
from ingot.cli.registry.rebuild import rebuild
from ingot.cli.registry.reindex import reindex
from ingot.cli.registry.show import show
from ingot.cli.registry.sign import sign
from ingot.cli.registry.tag import tag
from ingot.cli.registry.trace import trace
from ingot.cli.registry.ui import ui

_EXAMPLES = (
    ("ingot registry list", "Every artifact: size, format, scores, tags."),
    ("ingot registry trace ./model-q4_k_m.gguf", "From a served file back to its base, adapters and training runs."),
    ("ingot registry trace sha256:3fa9c1", "The same from a digest, or the beginning of one."),
    ("ingot registry diff champion candidate", "What changed between two artifacts."),
    ("ingot registry tag llama-3-8b-support-v4 champion", "A name that stays while versions go."),
)


@click.group(
    cls=Verbs, examples=_EXAMPLES, short_help="What was released: list, trace, compare, tag, free, rebuild, push.",
    subcommand_metavar="VERB ...", invoke_without_command=True,
)  # fmt: skip
@output_flags
@click.pass_context
def registry(context: click.Context) -> None:
    """The artifacts that were released, where they came from, and what can be made again."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in (list_artifacts, show, trace, diff, tag, sign, push, keep, gc, rebuild, add, reindex, ui):
    registry.add_command(_verb)
