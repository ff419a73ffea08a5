"""What a recipe's `publish.push` asks for: each published artifact to the Hub, or into MLflow's registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ingot.errors import UsageError
from ingot.record import Depth, verify
from ingot.record.artifact import record_in
from ingot.registry.entry import Entry
from ingot.registry.push import HubTarget, note, parcel_of, parse_target
from ingot.registry.store import Registry
from ingot.release.recipe import Recipe
from ingot.validate.request import Bar


def check_targets(recipe: Recipe) -> None:
    """What can be known of the targets before anything is made; asks no server.

    Raises:
        UsageError: a target is none, two artifacts would go to one place of the Hub, or no MLflow server is told.
        OutputError: there is no token for the Hub.
        MissingComponent: the mlflow library is not installed.
    """
    for template in recipe.publish.push:
        targets = [parse_target(recipe.filled(template, form)) for form in recipe.formats]
        if isinstance(targets[0], HubTarget):
            from ingot.registry.push.hub_look import need_token

            need_token(targets[0])
        else:
            from ingot.registry.push.mlflow import check_mlflow

            for target in targets:
                check_mlflow(str(target))
        if len(set(targets)) < len(targets) and isinstance(targets[0], HubTarget):
            raise UsageError("several artifacts would go to one repository, which holds one", where="$.publish.push",
                             found=template, hint="Put {name} or {format} in it.")  # fmt: skip


def push(
    registry: Registry, entry: Entry, target: str, bar: Bar, stop: threading.Event, say: Callable[[str], None]
) -> dict[str, object]:
    """Send a published artifact; what is there already is not sent again. Returns what was done, as JSON values.

    Raises:
        CheckFailed: the artifact is damaged, or what arrived is not what was sent.
        OutputError, ResourceError, Interrupted: see `registry.push.hub`; the same call goes on.
        MissingComponent: mlflow is not installed.
    """
    path, where = Path(str(entry.place)), parse_target(target)
    if not isinstance(where, HubTarget):
        from ingot.registry.push.mlflow import push_to_mlflow

        return dict(push_to_mlflow(path, target, stop=stop))
    from ingot.registry.push import hub

    record = record_in(path)
    prospect = hub.look(parcel_of(path, record.identity, record.subjects.values()), where, say=say)
    if prospect.send:
        verify(path, depth=Depth.STRUCTURE, stop=stop).raise_failure()  # every byte is hashed on its way
    with bar(f"pushing {entry.name}", prospect.nbytes, "bytes") as progress:
        pushed = hub.push(prospect, progress=progress, stop=stop, say=say)
    note(registry.disk, registry.layout.records / entry.identity, pushed)
    return pushed.as_json()


def targets_of(recipe: Recipe, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Every published artifact with every place that it goes to."""
    by_name = {entry.name: entry for entry in entries}
    return [
        (by_name[name], recipe.filled(template, form))
        for template in recipe.publish.push
        for form in recipe.formats
        if (name := recipe.artifact_name(form)) in by_name
    ]
