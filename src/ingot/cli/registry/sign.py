"""`ingot registry sign`: a signature that any tool for OpenSSF Model Signing verifies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import output_flags
from ingot.cli.framework import RUN, Option, Verb
from ingot.cli.registry.common import REF, checked_ref, found, line, opened, registry_option
from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output

_VARIABLE = "INGOT_KEY_PASSWORD"
_EXAMPLES = (
    ("ingot registry sign champion --private-key key.pem", "With a key alone: who has its public key can verify."),
    ("ingot registry sign ./out --private-key key.pem --certificate cert.pem --chain ca.pem",
     "With a certificate, which says who signed; a path needs no registry."),
    ("ingot verify ./out --signature --public-key public.pem", "Every byte, and who signed it."),
    ("model_signing verify key ./out --signature ./out/model.sig --public_key public.pem", "The same without ingot."),
)  # fmt: skip


@click.command(cls=Verb, short_help="A signature that others verify.", examples=_EXAMPLES, arguments_help=[REF])
@click.argument("ref", metavar="REF")
@click.option("--private-key", cls=Option, group=RUN, metavar="PEM", required=True, type=click.Path(path_type=Path),
              help="Of an elliptic curve: P-256, P-384 or P-521.")  # fmt: skip
@click.option("--certificate", cls=Option, group=RUN, metavar="PEM", type=click.Path(path_type=Path),
              help="Of that key: its names tell who signed.")  # fmt: skip
@click.option("--chain", cls=Option, group=RUN, metavar="PEM", multiple=True, type=click.Path(path_type=Path),
              help="Certificates between that one and the root that others trust.")  # fmt: skip
@click.option("--password-file", cls=Option, group=RUN, metavar="FILE", type=click.Path(path_type=Path),
              help=f"Holds the key's password; else ${_VARIABLE}, else the terminal is asked.")  # fmt: skip
@click.option("--read", cls=Option, group=RUN, is_flag=True,
              help="Read every byte before signing, not names, sizes and headers alone.")  # fmt: skip
@registry_option
@output_flags
@click.pass_obj
def sign(
    session: Session,
    /,
    ref: str,
    private_key: Path,
    certificate: Path | None,
    chain: tuple[Path, ...],
    password_file: Path | None,
    read: bool,
    place: Path | None,
) -> None:
    """Sign an artifact: model.sig beside its record covers every file, by the digests in the record.

    An evaluation that is added later changes the record; sign again then."""
    if chain and certificate is None:
        raise UsageError("--chain belongs to --certificate", hint="Pass the signer's own certificate, too.")
    artifact = _artifact(session.output, ref, place)
    from ingot.cli.progress import Progress
    from ingot.record.artifact import SIGNATURE_NAME
    from ingot.registry.signing import SigningKey, unlocked
    from ingot.registry.signing import sign as sign_artifact

    signer = unlocked(SigningKey(private_key, certificate, chain, _asker(private_key, password_file)))
    again = (artifact / SIGNATURE_NAME).exists()
    total = sum(one.stat().st_size for one in artifact.iterdir() if one.is_file()) if read else 0
    with session.stopper.watched() as stop, Progress(session.output, total, "reading") as progress:
        path = sign_artifact(artifact, signer, read=read, progress=progress, stop=stop)
    session.output.lines([line("Signed", str(path)) + (" (the older signature is replaced)" if again else "")])
    session.output.essence(str(path))
    session.output.result(verb="registry sign", artifact=str(artifact), signature=str(path), read=read)


def _artifact(output: Output, ref: str, place: Path | None) -> Path:
    """The directory that `ref` means. A path to an artifact needs no registry."""
    from ingot.storage.staging import RECORD_NAME

    checked_ref(ref)
    path = Path(ref).expanduser()
    is_artifact = (path / RECORD_NAME).is_file()
    if is_artifact and (os.sep in ref or ref in (os.curdir, os.pardir)):
        return path
    try:
        registry = opened(place)
    except UsageError:
        if is_artifact:
            return path
        raise
    entry = found(output, registry, ref)
    if entry.place is None:
        raise UsageError("the artifact's files were freed, so there is nothing to sign", where=entry.name,
                         hint=f"`ingot registry rebuild {ref}` makes them again.")  # fmt: skip
    return Path(entry.place)


def _asker(private_key: Path, password_file: Path | None) -> Callable[[], bytes | None]:
    """Where the password comes from, never from the command line: others see that."""

    def ask() -> bytes | None:
        if password_file is not None:
            from ingot.registry.signing.keys import read

            return read(password_file, "the password file").rstrip(b"\r\n")
        if os.environ.get(_VARIABLE):
            return os.environb[_VARIABLE.encode()]
        if not sys.stdin.isatty():
            return None
        from getpass import getpass

        return getpass(f"Password of {private_key}: ", sys.stderr).encode()

    return ask
