"""Files of a model that others wrote and that have no schema: what does not have the expected form is their fault."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ingot.errors import BaseError

#: What code that takes a form for granted meets where there is another: its own, and the `gguf` library's.
_OTHER_FORM = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error)


@contextmanager
def read_as(what: str, *, where: str) -> Iterator[None]:
    """Read `what`, which stands in the file `where`.

    Raises:
        BaseError: it has not the form that is read here.
    """
    try:
        yield
    except _OTHER_FORM as error:
        missing = f"no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise BaseError(f"{what} has a form that is not read here", where=where, found=missing,
                        hint="Get the file again from where the model was published.") from error  # fmt: skip
