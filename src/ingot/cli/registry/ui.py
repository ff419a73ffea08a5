"""`ingot registry ui`: the registry in a browser."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import line, opened, registry_option

if TYPE_CHECKING:
    from ingot.cli.boundary import Session

_EXAMPLES = (
    ("ingot registry ui --open", "Artifacts, lineage and comparisons, in the browser of this machine."),
    ("ingot registry ui --port 9000", "At a port of your choice, as for `ssh -L 9000:127.0.0.1:9000 HOST`."),
)


@click.command(cls=Verb, short_help="The registry in a browser, to look at.", examples=_EXAMPLES)
@click.option("--port", cls=Option, group=RUN, type=click.IntRange(0, 65535), metavar="N",
              help="Default: 8765, or a free one where that is taken; 0: a free one.")  # fmt: skip
@click.option("--open", "shown", cls=Option, group=RUN, is_flag=True, help="Open it in the browser.")
@registry_option
@output_flags
@click.pass_obj
def ui(session: Session, /, port: int | None, shown: bool, place: Path | None) -> None:
    """Serve the registry as web pages at 127.0.0.1, until Ctrl-C. Nothing can be changed there.

    Every user of this machine can look at it; nobody on the network can."""
    from ingot.pages.server import open_server

    output = session.output
    registry = opened(place)
    with open_server(registry.layout, port, output.warn) as server:
        output.lines([line("Page", server.url)])
        output.event("serving", url=server.url, registry=str(registry.layout.root))
        output.essence(server.url)
        output.say("Ctrl-C ends it.")
        if shown:
            _open(server.url)
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            server.serve_forever()
    output.result(verb="registry ui", url=server.url, registry=str(registry.layout.root))


def _open(url: str) -> None:
    """In a thread of its own: a browser in the terminal may return only when it is left."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
