"""Which file names may stand in an artifact or be asked of an input folder: one path component without controls."""

from __future__ import annotations

import unicodedata

#: NAME_MAX of Linux and macOS file systems, in bytes.
MAX_NAME_NBYTES = 255


def name_fault(name: str) -> str | None:
    """Why `name` cannot be a single path component that is safe to create, open and print; None when it can.

    Backslash and drive colons are refused too: the artifact will be copied to machines where they are separators.
    """
    if name in ("", ".", ".."):
        return "it is empty or a dot name"
    if any(c in name for c in "/\\") or name[1:2] == ":":
        return "it is a path, not a name"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return "it holds a control character, or bytes that are not UTF-8"
    if len(name.encode("utf-8")) > MAX_NAME_NBYTES:
        return f"it is longer than {MAX_NAME_NBYTES} bytes"
    return None
