"""`ingot registry push`: an artifact to the Hub, whole and compared; or into MLflow's registry, without its bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import jobs_option, output_flags
from ingot.cli.framework import RESULT, Option, Verb
from ingot.cli.registry.common import REF, checked_ref, found, line, opened, registry_option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.registry.push import HubTarget, Parcel, Pushed
    from ingot.registry.push.hub import Prospect
    from ingot.registry.store import Registry

_EXAMPLES = (
    ("ingot registry push support-v3 hf://acme/llama-3-8b-support", "An artifact of the registry; private if new."),
    ("ingot registry push ./out hf://acme/llama-3-8b-support@v3", "A directory, to a branch of its own."),
    ("ingot registry push ./out hf://acme/llama-3-8b-support --dry-run", "What would be sent and deleted."),
    (
        "ingot registry push support-v3 mlflow:support@champion --tracking-uri http://mlflow:5000",
        "A version in MLflow's registry, which holds the record in brief and no weights.",
    ),
)


@click.command(
    cls=Verb,
    short_help="An artifact to the Hub, or into MLflow's registry.",
    examples=_EXAMPLES,
    arguments_help=[
        REF,
        ("TARGET", "hf://org/name, hf://org/name@branch, mlflow:NAME or mlflow:NAME@alias."),
    ],
)
@click.argument("ref", metavar="REF")
@click.argument("target", metavar="TARGET")
@click.option("--branch", cls=Option, group=RESULT, metavar="BRANCH", help="The branch; default: main.")
@click.option("--private/--public", cls=Option, group=RESULT, default=None,
              help="What a new repository is, and an old one must be; default: a new one is private.")  # fmt: skip
@click.option("--create/--no-create", cls=Option, group=RESULT, default=True, show_default=True,
              help="Make the repository or branch where it is missing.")  # fmt: skip
@click.option("--delete-others", cls=Option, group=RESULT, is_flag=True,
              help="Delete what the repository holds beside the artifact, in the same commit.")  # fmt: skip
@click.option("--message", cls=Option, group=RESULT, metavar="TEXT", help="The commit's message.")
@click.option("-n", "--dry-run", cls=Option, is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--verify/--no-verify", cls=Option, default=True, show_default=True,
              help="Read every byte before the first is sent. Else a damaged file is found on its way.")  # fmt: skip
@click.option("--read-back", cls=Option, is_flag=True,
              help="Download everything again and compare, not only the Hub's digests.")  # fmt: skip
@click.option("--tracking-uri", cls=Option, metavar="URI", help="Of MLflow's server; default: $MLFLOW_TRACKING_URI.")
@click.option("--source", cls=Option, metavar="URI",
              help="Where others find the files, for MLflow, such as hf://org/name; default: their path.")  # fmt: skip
@registry_option
@jobs_option
@output_flags
@click.pass_obj
def push(
    session: Session,
    /,
    ref: str,
    target: str,
    branch: str | None,
    private: bool | None,
    create: bool,
    delete_others: bool,
    message: str | None,
    dry_run: bool,
    verify: bool,
    read_back: bool,
    tracking_uri: str | None,
    source: str | None,
    place: Path | None,
    jobs: int | None,
) -> None:
    """Send an artifact to the Hub: its large files first, then all of it in one commit, then compare every digest.

    A reader sees what was there before, or all of it. The same command goes on after a break, and sends nothing that is
    there already.
    """
    from ingot.registry.push import HubTarget, parse_target

    where = parse_target(target, branch)
    if not isinstance(where, HubTarget):
        _refuse_given({
            "--private": private is not None, "--no-create": not create, "--delete-others": delete_others,
            "--message": message is not None, "--dry-run": dry_run, "--read-back": read_back,
        }, target)  # fmt: skip
        _to_mlflow(session, _located(session.output, ref, place)[0], target, tracking_uri, source)
        return
    if tracking_uri is not None or source is not None:
        raise UsageError("--tracking-uri and --source belong to a push to MLflow", found=target)
    if message is not None and not message.strip():
        raise UsageError("--message is empty")
    path, registry = _located(session.output, ref, place)
    parcel = _parcel(path)

    from ingot.cli.progress import Progress
    from ingot.registry.push import hub

    output = session.output
    prospect = hub.look(parcel, where, private=private, create=create, delete_others=delete_others, say=output.say)
    if dry_run:
        _show_prospect(output, prospect)
        return
    if prospect.send:
        _check(session, path, verify, jobs)
    _say_prospect(output, prospect, where)
    total = prospect.nbytes + (parcel.nbytes if read_back else 0)
    with session.stopper.watched() as stop, Progress(output, total, "pushing") as progress:
        pushed = hub.push(
            prospect, message=message, delete_others=delete_others, read_back=read_back, progress=progress, stop=stop,
            say=output.say,
        )  # fmt: skip
    if registry is not None:
        _remember(registry, pushed)
    _show(output, pushed)


def _refuse_given(of_the_hub: dict[str, bool], target: str) -> None:
    """Raises UsageError: an option that only the Hub has was given for another target."""
    for name in (name for name, given in of_the_hub.items() if given):
        raise UsageError(f"{name} belongs to a push to the Hub", found=target)


def _to_mlflow(session: Session, path: Path, target: str, tracking_uri: str | None, source: str | None) -> None:
    from ingot.registry.push.mlflow import push_to_mlflow

    with session.stopper.watched() as stop:
        made = push_to_mlflow(path, target, tracking_uri=tracking_uri, source=source, stop=stop)
    session.output.lines([line("Registered", f"{made['target']}: version {made['version']}, {made['source']}")])
    session.output.essence(str(made["version"]))
    session.output.result(verb="registry push", **made)


def _located(output: Output, ref: str, place: Path | None) -> tuple[Path, Registry | None]:
    """Where the artifact lies, and the registry, where there is one. A path needs none."""
    from ingot.storage import RECORD_NAME

    checked_ref(ref)
    path = Path(ref).expanduser()
    is_artifact = (path / RECORD_NAME).is_file()
    try:
        registry = opened(place)
    except UsageError:
        if is_artifact and place is None:
            return path, None
        raise
    if is_artifact and (os.sep in ref or ref in (os.curdir, os.pardir)):
        return path, registry
    entry = found(output, registry, ref)
    if entry.place is None:
        raise UsageError("the artifact's files were freed, so there is nothing to push", where=entry.name,
                         hint=f"`ingot registry rebuild {ref}` makes them again.")  # fmt: skip
    return Path(entry.place), registry


def _parcel(path: Path) -> Parcel:
    """Raises CheckFailed, UnsafeInputError: it is no artifact."""
    from ingot.errors import CheckFailed
    from ingot.extract.statement import read_record as read_extraction
    from ingot.record import read_record
    from ingot.record.statement import MAX_RECORD_NBYTES
    from ingot.registry.push import parcel_of
    from ingot.storage import RECORD_NAME, InputFile

    with InputFile.open(path, RECORD_NAME, error=CheckFailed) as file:
        data = file.read(0, min(file.nbytes, MAX_RECORD_NBYTES + 1))
    extraction = read_extraction(data)
    if extraction is not None:
        return parcel_of(path, extraction.predicate.run.metadata.ingot_identity, extraction.subject)
    record = read_record(data)
    return parcel_of(path, record.identity, record.subjects.values())


def _check(session: Session, path: Path, every_byte: bool, jobs: int | None) -> None:
    """Raises CheckFailed: the artifact is not what its record says."""
    from ingot.cli.progress import Progress
    from ingot.extract.verify import verify as verify_extraction
    from ingot.record import Depth
    from ingot.record import verify as verify_artifact

    total = sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file()) if every_byte else 0
    with session.stopper.watched() as stop, Progress(session.output, total, "verifying") as progress:
        found = verify_extraction(path, read=every_byte, progress=progress, stop=stop) or verify_artifact(
            path, depth=Depth.READ if every_byte else Depth.STRUCTURE, progress=progress, stop=stop, jobs=jobs
        )
    found.raise_failure()


def _remember(registry: Registry, pushed: Pushed) -> None:
    """Note it beside the record, where the registry has one."""
    from ingot.registry.push import note

    folder = registry.layout.records / pushed.identity
    if folder.is_dir():
        note(registry.disk, folder, pushed)


def _say_prospect(output: Output, prospect: Prospect, target: HubTarget) -> None:
    from ingot.plan.figures import nbytes_text

    if not prospect.exists:
        output.say(f"making the {'private' if prospect.private else 'public'} repository {target.repository}")
    if prospect.delete:
        output.say(f"deleting with the commit: {', '.join(prospect.delete)}")
    if prospect.send:
        output.say(
            f"sending {len(prospect.send)} of {len(prospect.parcel.files)} files, {nbytes_text(prospect.nbytes)}"
        )


def _show_prospect(output: Output, prospect: Prospect) -> None:
    from ingot.plan.figures import nbytes_text

    visibility = {True: "private", False: "public", None: "of unknown visibility"}[prospect.private]
    output.lines([line("Target", f"{prospect.target}: {'there' if prospect.exists else 'to be made'}, {visibility}")])
    for file in prospect.parcel.files:
        word = "send" if file in prospect.send else "there"
        output.lines([line(word, f"{file.name}  {nbytes_text(file.nbytes)}")])
    output.lines(line("delete", name) for name in prospect.delete)
    output.essence(str(prospect.nbytes))
    output.result(verb="registry push", dry_run=True, **prospect.as_json())


def _show(output: Output, pushed: Pushed) -> None:
    from ingot.plan.figures import nbytes_text

    width = max(len(file.name) for file in pushed.files)
    output.lines(
        f"{file.state:<14} {file.name:<{width}}  {nbytes_text(file.nbytes):>10}  {file.sha256[:12]}  by {file.proof}"
        for file in pushed.files
    )
    output.lines(f"{'deleted':<14} {name}" for name in pushed.deleted)
    verdict = f"{nbytes_text(pushed.nbytes_sent)} sent" if pushed.changed else "all of it was already there"
    output.lines(["", line("Pushed", f"{pushed.target}: {verdict}"), line("Commit", pushed.commit),
                  line("Page", pushed.url)])  # fmt: skip
    output.essence(pushed.commit)
    output.result(verb="registry push", dry_run=False, **pushed.as_json())
