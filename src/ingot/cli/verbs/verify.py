"""`ingot verify`: is an artifact what its record says?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingot.cli.arguments import jobs_option, output_flags
from ingot.cli.framework import RESULT, Option, Verb
from ingot.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from ingot.cli.boundary import Session
    from ingot.cli.output import Output
    from ingot.record import Verification
    from ingot.registry.signing import TrustedCertificates, TrustedKey

_EXAMPLES = (
    ("ingot verify ./out", "Names, sizes, headers and config against the record, in a moment."),
    ("ingot verify ./out --read", "Every byte, at the disk's speed."),
    ("ingot verify ./out --against-inputs --base ./base --adapter ./lora", "Compute every byte anew, and compare."),
    ("ingot verify ./out --signature --public-key public.pem", "Every byte, and who signed it."),
)


@click.command(
    cls=Verb,
    short_help="An artifact against its record.",
    examples=_EXAMPLES,
    arguments_help=[("OUT", "A directory that `ingot merge` or `ingot extract` made: it holds ingot.json.")],
)
@click.argument("path", metavar="OUT")
@click.option("--read", "read", cls=Option, group=RESULT, is_flag=True, help="Read every byte.")
@click.option("--against-inputs", cls=Option, group=RESULT, is_flag=True,
              help="Read every byte, and compute the weights again from base and adapters.")  # fmt: skip
@click.option("--base", cls=Option, group=RESULT, metavar="BASE",
              help="Where the base is now; from the Hub if left out.")  # fmt: skip
@click.option("--adapter", "adapters", cls=Option, group=RESULT, metavar="ADAPTER", multiple=True,
              help="Where an adapter is now; once for each, in the order of the merge.")  # fmt: skip
@click.option("--imatrix", cls=Option, group=RESULT, metavar="FILE",
              help="Where the importance matrix of a GGUF is now.")  # fmt: skip
@click.option("--llama-cpp", cls=Option, group=RESULT, metavar="DIR",
              help="Where the checkout of llama.cpp is now whose converter made a GGUF.")  # fmt: skip
@click.option("--signature", cls=Option, group=RESULT, is_flag=True,
              help="Read every byte, and check that model.sig was made by whom you trust.")  # fmt: skip
@click.option("--public-key", cls=Option, group=RESULT, metavar="PEM",
              help="Trust whoever has the private key of this one.")  # fmt: skip
@click.option("--certificate-chain", "roots", cls=Option, group=RESULT, metavar="PEM", multiple=True,
              help="Trust those for whom these certificates vouch.")  # fmt: skip
@click.option("--identity", cls=Option, group=RESULT, metavar="NAME",
              help="A name that the signer's certificate must have: common name, e-mail, URI, host.")  # fmt: skip
@jobs_option
@output_flags
@click.pass_obj
def verify(
    session: Session,
    /,
    path: str,
    read: bool,
    against_inputs: bool,
    base: str | None,
    adapters: tuple[str, ...],
    imatrix: str | None,
    llama_cpp: str | None,
    signature: bool,
    public_key: str | None,
    roots: tuple[str, ...],
    identity: str | None,
    jobs: int | None,
) -> None:
    """Check an artifact against its record: its form, every byte, or every byte computed anew.

    Exits with 1 where it differs.
    """
    if read and against_inputs:
        raise UsageError("--read and --against-inputs exclude each other", hint="--against-inputs reads all, too.")
    if (base or adapters or imatrix or llama_cpp) and not against_inputs:
        what = "--base, --adapter, --imatrix and --llama-cpp belong to --against-inputs"
        raise UsageError(what, hint="Add --against-inputs.")
    if not path.strip() or "\0" in path:
        raise UsageError("OUT is empty", found=repr(path))
    trusted = _trusted(signature, public_key, roots, identity)
    from ingot.cli.progress import Progress
    from ingot.extract.verify import verify as verify_extraction
    from ingot.record import Depth
    from ingot.record import verify as verify_artifact

    # A signature is of the record; that the bytes are the record's must be known, too, before anybody says "signed".
    depth = Depth.AGAINST_INPUTS if against_inputs else Depth.READ if read or trusted else Depth.STRUCTURE
    total = _nbytes(Path(path), depth)
    with session.stopper.watched() as stop, Progress(session.output, total, "verifying") as progress:
        found = verify_extraction(Path(path), read=depth is not Depth.STRUCTURE, progress=progress, stop=stop)
        if found is None:
            found = verify_artifact(
                Path(path), depth=depth, base=base, adapters=adapters or None, progress=progress, stop=stop, jobs=jobs,
                imatrix=Path(imatrix) if imatrix else None, llama_cpp=Path(llama_cpp) if llama_cpp else None,
            )  # fmt: skip
        elif against_inputs:
            raise UsageError("an extracted adapter cannot be computed anew here", hint="Run `ingot extract` again.")
        elif trusted:
            raise UsageError("extracted adapters are not signed by ingot", hint="Try `model_signing verify`.")
        if trusted and found.identity is not None:
            from ingot.registry.signing import verify_signature

            found = replace(found, checks=(*found.checks, *verify_signature(Path(path), trusted)))
    _show(session.output, found)


def _trusted(
    signature: bool, public_key: str | None, roots: tuple[str, ...], identity: str | None
) -> TrustedKey | TrustedCertificates | None:
    if not signature:
        if public_key or roots or identity:
            what = "--public-key, --certificate-chain and --identity belong to --signature"
            raise UsageError(what, hint="Add --signature.")
        return None
    if bool(public_key) == bool(roots):
        what = "--signature needs somebody to trust: --public-key PEM, or --certificate-chain PEM"
        raise UsageError(what, hint="A signature by nobody in particular proves nothing.")
    if identity and not roots:
        raise UsageError("a public key has no name to compare --identity with", hint="Leave --identity out.")
    from ingot.registry.signing import TrustedCertificates, TrustedKey

    if public_key:
        return TrustedKey(Path(public_key))
    return TrustedCertificates(tuple(map(Path, roots)), identity)


def _nbytes(path: Path, depth: str) -> int:
    """About how many bytes will be read: the files once, and for a recomputation the base too."""
    if not path.is_dir():
        return 0
    files = sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
    return 0 if depth == "structure" else files * 2 if depth == "against-inputs" else files


def _show(output: Output, found: Verification) -> None:
    for check in found.checks:
        output.event("check", name=check.name, ok=check.ok, detail=check.detail)
    rows = [("ok" if check.ok else "FAILED", check.name, check.detail) for check in found.checks]
    output.lines(f"{word:<8}{name:<14}  {detail}" for word, name, detail in rows)
    if {check.name for check in found.failures} == {"signature"}:
        hint = "Every byte is as recorded; who made it is not proven."
        raise CheckFailed(f"the signature does not hold: {found.failures[0].detail}", hint=hint)
    found.raise_failure()
    output.lines(["", found.verdict])
    output.essence("ok")
    output.result(verb="verify", **found.as_json())
