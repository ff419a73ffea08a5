"""`verify_signature`: is model.sig a signature of this very record, by whom we trust?

It says nothing of the files themselves: that they are as the record says is for `record.verify` to tell.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from ingot.errors import CheckFailed, IngotError, UnsafeInputError
from ingot.record import Check
from ingot.record.artifact import SIGNATURE_NAME, Reading, list_names, open_record
from ingot.record.checks import told
from ingot.registry.signing import oms
from ingot.registry.signing.keys import TrustedCertificates, TrustedKey
from ingot.registry.signing.sign import digests_of
from ingot.storage.inputs import InputFile
from ingot.storage.staging import RECORD_NAME

_NAME = "signature"
_MAX_NBYTES = 64 << 20
_NAMED_FILES = 3


def verify_signature(artifact: Path, trusted: TrustedKey | TrustedCertificates) -> tuple[Check, ...]:
    """One check: a signature that is wrong is an answer, not an exception.

    Raises:
        UsageError: no such directory, or a key or certificate that cannot be used.
        MissingComponent: the library is not installed.
        InputChangedError.
    """
    list_names(artifact)
    verifier = oms.Verifier(trusted)
    try:
        digests = digests_of(open_record(artifact, Reading(lambda _: None, threading.Event())))
        signed, by = verifier.verify(_read(artifact))
        fault = _difference(signed, digests)
    except (CheckFailed, UnsafeInputError) as error:
        return (Check(_NAME, False, told(error)),)
    return (Check(_NAME, fault is None, fault or f"of {len(digests)} files, {by}"),)


def _read(artifact: Path) -> bytes:
    if not os.path.lexists(artifact / SIGNATURE_NAME):
        raise CheckFailed("there is no signature", where=SIGNATURE_NAME,
                          hint=f"`ingot registry sign {artifact} --private-key KEY.pem` makes one.")  # fmt: skip
    try:
        with InputFile.open(artifact, SIGNATURE_NAME, error=CheckFailed) as file:
            if file.nbytes > _MAX_NBYTES:
                raise CheckFailed("the signature is too large to be one", where=SIGNATURE_NAME,
                                  expected=f"at most {_MAX_NBYTES} bytes", found=file.nbytes)  # fmt: skip
            return file.read(0, file.nbytes)
    except CheckFailed:
        raise
    except IngotError as error:
        raise CheckFailed(error.message, where=SIGNATURE_NAME) from error


def _difference(signed: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """Why this is no signature of this artifact; None when it is."""
    odd = sorted(name for name in signed.keys() | here.keys() if signed.get(name) != here.get(name))
    if not odd:
        return None
    if odd == [RECORD_NAME] and RECORD_NAME in signed:
        return "the record was changed after signing (was an evaluation added?); sign again"
    others = [name for name in odd if name != RECORD_NAME]
    more = f" and {len(others) - _NAMED_FILES} more" if len(others) > _NAMED_FILES else ""
    return f"this is the signature of another artifact: {', '.join(others[:_NAMED_FILES])}{more} differ"
