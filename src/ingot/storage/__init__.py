"""The only code that creates, syncs, renames and locks files, and the door through which inputs come in.

    disk            the port: twelve calls that change a file system; PosixDisk, the real one
    staging         the commit protocol: an output is whole or absent, an interrupted run resumes
      claims        whose work directory it is;  workdir: where it lies;  journal, lines: what in it is believed
    log             a file of entries that only grows, bound to what the work depends on
    amend           small files that may change: a published output's record, reports
    replica         a folder of input files, copied: whole or absent, proven, read-only
    removing        whole folders of ours
    inputs          input files: regular, inside their folder, unchanged
      assembled     a folder of links to inputs that lie elsewhere, under the names that they need
    digest_memory   sha256 of big inputs, remembered from run to run
    copying, write_behind, lock, kernel, os_errors, names: what the above stand on

Knows nothing of tensors. Raises OutputError, ResourceError, UnsafeInputError, InputChangedError, and the class that
the opener of an input names; no OSError leaves this room.
"""

from __future__ import annotations

from ingot.storage.amend import replace_file
from ingot.storage.assembled import assembled
from ingot.storage.copying import CopyMethod
from ingot.storage.digest_memory import DigestMemory, cache_directory
from ingot.storage.disk import DIRECT_ALIGNMENT, Disk, Lock, OutputFile, PosixDisk, round_up
from ingot.storage.inputs import FileIdentity, InputFile
from ingot.storage.journal import Finished
from ingot.storage.log import Log
from ingot.storage.names import name_fault
from ingot.storage.removing import remove_tree
from ingot.storage.replica import replicate
from ingot.storage.staged_file import StagedFile
from ingot.storage.staging import RECORD_NAME, Staging, discard, sweep

__all__ = [
    "DIRECT_ALIGNMENT",
    "RECORD_NAME",
    "CopyMethod",
    "DigestMemory",
    "Disk",
    "FileIdentity",
    "Finished",
    "InputFile",
    "Lock",
    "Log",
    "OutputFile",
    "PosixDisk",
    "StagedFile",
    "Staging",
    "assembled",
    "cache_directory",
    "discard",
    "name_fault",
    "remove_tree",
    "replace_file",
    "replicate",
    "round_up",
    "sweep",
]
