"""Which quantizer makes a type: ggml's own code where an installed library has passed its test, else numpy.

Both are tested on the machine that they run on: the bytes are the promised ones, or there are none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ingot.errors import MissingComponent, UsageError
from ingot.quantize.gguf import selftest
from ingot.quantize.gguf.blocks.affine_k import q4_k, q5_k
from ingot.quantize.gguf.blocks.block import BlockQuantizer
from ingot.quantize.gguf.blocks.floats import FLOATS, FloatQuantizer
from ingot.quantize.gguf.blocks.legacy import LEGACY, legacy
from ingot.quantize.gguf.blocks.symmetric_k import q6_k
from ingot.quantize.gguf.native import NEED_IMPORTANCE, Found, find
from ingot.quantize.gguf.quantizer import Quantizer
from ingot.quantize.gguf.types import INSTALL, ggml_type

_NUMPY_K: dict[str, Callable[[], BlockQuantizer]] = {"Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


def quantizer_for(name: str, *, weighted: bool = False, native: Found | None = None) -> Quantizer:
    """The quantizer of a type.

    Args:
        weighted: some rows will come with an importance matrix.
        native: what was found on this machine; asked for if None.

    Raises:
        UsageError: no such type, or one that no one can make without an importance matrix.
        MissingComponent: only ggml's own code makes it, and no library passed the test.
    """
    of = ggml_type(name)
    if name in NEED_IMPORTANCE and not weighted:
        raise UsageError(f"{name} needs an importance matrix", hint="Pass one with --imatrix FILE.")
    if name in FLOATS:
        return FloatQuantizer(of)
    found = find() if native is None else native
    reasons = [f"{refusal.name}: {refusal.reason}" for refusal in found.refused]
    if found.library is not None:
        cases = (False, True) if weighted else (False,)
        refusals = [found.library.refuses(of, weighted=case) for case in cases]
        if not any(refusals):
            return found.library.quantizer(of)
        reasons += [f"{found.library.name}: {refusal}" for refusal in refusals if refusal]
    ours = _by_numpy(name)
    if ours is not None and not (weighted and ours.weighted):
        if selftest.digest(ours.quantize, weighted=False) == selftest.DIGESTS[name][0]:
            return ours
        reasons.append(f"numpy {np.__version__}: its sums are taken in another order here")
    what = f"{name}{' with an importance matrix' if weighted else ''} needs ggml's own code"
    raise MissingComponent(what, found="; ".join(reasons) or "no library that has it", hint=INSTALL)


def _by_numpy(name: str) -> BlockQuantizer | None:
    if name in LEGACY:
        return legacy(name)
    return _NUMPY_K[name]() if name in _NUMPY_K else None
