"""`ingot registry tag`: a name that stays while versions go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import REF, SHOWN, found, line, opened, registry_option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot registry tag llama-3-8b-support-v4 champion", "From now on `champion` means this artifact."),
    ("ingot registry tag champion --remove old-tag", "Take a tag away."),
    ("ingot registry tag --list", "What every tag means, and meant."),
)


@click.command(
    cls=Verb, short_help="A name that stays while versions go.", examples=_EXAMPLES,
    arguments_help=[REF, ("TAG...", "Names such as champion, prod/eu, or v4.")],
)  # fmt: skip
@click.argument("ref", metavar="REF", required=False)
@click.argument("tags", metavar="TAG...", nargs=-1)
@click.option("--remove", cls=Option, group=RUN, multiple=True, metavar="TAG", help="Take this tag away.")
@click.option("--list", "listed", cls=Option, group=RUN, is_flag=True, help="Show all tags with their history.")
@registry_option
@output_flags
@click.pass_obj
def tag(
    session: Session,
    /,
    ref: str | None,
    tags: tuple[str, ...],
    remove: tuple[str, ...],
    listed: bool,
    place: Path | None,
) -> None:
    """Give tags to an artifact, or take them away. A tag is on one artifact at a time; what it meant before is kept.

    `ingot registry gc` never frees an artifact that has one."""
    output = session.output
    registry = opened(place)
    if not listed:
        if ref is None or not (tags or remove):
            raise UsageError("REF and TAG are missing", hint="Type `ingot registry tag REF TAG`, or `--list`.")
        entry = found(output, registry, ref)
        current = registry.tags().current
        for name in remove:
            if current.get(name) != entry.identity:
                raise UsageError("the artifact does not have this tag", where=entry.name, found=name,
                                 expected=", ".join(entry.tags) or "none")  # fmt: skip
        registry.tag([*((name, None) for name in remove), *((name, entry.identity) for name in tags)])
    elif ref is not None or remove:
        raise UsageError("--list stands alone")
    names = {entry.identity: entry.name for entry in registry.entries()}
    now = registry.tags()
    shown = [(name, identity) for name, identity in sorted(now.current.items()) if listed or name in tags]
    output.lines(f"{name:<24} {names.get(identity, 'unknown')}  {identity[:SHOWN]}" for name, identity in shown)
    if listed and now.history:
        output.lines(["", *(line("History" if number == 0 else "", f"{one.time}  {one.tag} -> "
                            f"{names.get(one.identity, one.identity[:SHOWN]) if one.identity else 'nothing'}")
                            for number, one in enumerate(now.history))])  # fmt: skip
    output.essence("ok")
    output.result(
        verb="registry tag", tags=now.current,
        history=[{"tag": one.tag, "identity": one.identity, "time": one.time} for one in now.history],
    )  # fmt: skip
