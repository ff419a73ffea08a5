"""`ingot registry keep`: an adapter, for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import SHOWN, line, opened, registry_option
from ingot.errors import UsageError
from ingot.plan.figures import counted, nbytes_text

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot registry keep ./support-lora", "A copy in the registry, by content, that ingot never removes."),
    ("ingot registry keep ./style ./facts", "Several at once."),
)


@click.command(
    cls=Verb, short_help="Keep an adapter for ever, so that its artifacts can be made again.", examples=_EXAMPLES,
    arguments_help=[("ADAPTER...", "Directories of adapters, weights files of other tools, or Hub ids.")],
)  # fmt: skip
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True)
@click.option("--large", cls=Option, group=RUN, is_flag=True, help="Also where it is larger than 1 GiB.")
@click.option("--assume-peft-version", cls=Option, group=RUN, metavar="VERSION",
              help="The PEFT release that trained it, where the file does not say.")  # fmt: skip
@registry_option
@output_flags
@click.pass_obj
def keep(
    session: Session, /, adapters: tuple[str, ...], large: bool, assume_peft_version: str | None, place: Path | None
) -> None:
    """Copy the files of adapters that a merge uses into the registry: read-only, proven, each content once.

    The copy is a PEFT adapter that can be loaded as it is. `rebuild` finds it by its digests.
    """
    from ingot.registry.keeping import keep as keep_adapter

    for adapter in adapters:
        if not adapter.strip() or "\0" in adapter:
            raise UsageError("ADAPTER is empty", found=repr(adapter))
    output, registry = session.output, opened(place, create=True)
    for adapter in adapters:
        kept = keep_adapter(
            adapter, registry.layout.adapters, registry.disk, large=large,
            assume_peft_version=assume_peft_version,
        )  # fmt: skip
        what = "Kept" if kept.is_new else "Unchanged"
        files = f"{counted(len(kept.files), 'file')}, {nbytes_text(kept.nbytes)}"
        output.lines([line(what, f"{adapter}: {files}, as {kept.digest[:SHOWN]}")])
        output.event("kept", adapter=adapter, digest=kept.digest, path=str(kept.path), nbytes=kept.nbytes,
                     is_new=kept.is_new)  # fmt: skip
        output.essence(kept.digest)
    output.result(verb="registry keep", registry=str(registry.layout.root), adapters=len(adapters))
