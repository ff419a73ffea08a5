"""How many millions of weights a core quantizes in a second, by type: `python -m benchmarks.quantizers`.

CPU time of one thread, best of several runs over a matrix of the size that the sink takes at a time: numpy, and ggml's
own code where a library is installed, the latter also with an importance matrix.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from ingot.errors import MissingComponent, UsageError
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.native import Found, find
from ingot.quantize.gguf.quantizer import Array, Quantizer
from ingot.quantize.gguf.types import TYPES

ROWS, COLUMNS = 256, 4096
SECONDS = 1.0


def speed(quantizer: Quantizer, rows: Array, importance: Array | None) -> float:
    """Millions of weights a CPU second, of the best run."""
    quantizer.quantize(rows[:1], importance)
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        begun = time.thread_time()
        quantizer.quantize(rows, importance)
        taken = time.thread_time() - begun
        best, spent = min(best, taken), spent + taken
    return rows.size / best / 1e6


def measured(name: str, rows: Array, importance: Array) -> Iterator[str]:
    """The cells of a type: numpy, ggml, ggml with an importance matrix; a dash where there is none."""
    for found, given in ((Found(None, ()), None), (find(), None), (find(), importance)):
        try:
            quantizer = quantizer_for(name, weighted=given is not None, native=found)
        except (MissingComponent, UsageError):
            yield "–"
            continue
        native = quantizer.backend != "numpy"
        yield f"{speed(quantizer, rows, given):.1f}" if native == (found.library is not None) else "–"


def main() -> None:
    random = np.random.default_rng(0)
    rows = (random.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    importance = random.gamma(0.5, size=COLUMNS).astype(np.float32)
    print("\n".join(f"<!-- {line} -->" for line in find().lines()))
    print("| type | numpy | ggml | ggml, importance matrix |\n|---|---|---|---|")
    for name in TYPES:
        print(f"| {name} | {' | '.join(measured(name, rows, importance))} |", flush=True)


if __name__ == "__main__":
    main()
