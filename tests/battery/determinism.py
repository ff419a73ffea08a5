"""The same bytes, whatever the number of workers and the size of the chunks."""

from __future__ import annotations

import shutil

from tests.battery.figure import Figure, Report, count, thinned
from tests.battery.workshop import chunks_of, difference, workshop

JOBS = range(1, 9)
CHUNKS = (4_096, 12_288, 65_536, 1 << 20, 8 << 20)


def run(scale: float, report: Report) -> Figure:
    with workshop() as shop:
        expected = shop.reference()

        def same(how: tuple[int, int]) -> str | None:
            jobs, nbytes = how
            out = shop.root / "out"
            with chunks_of(nbytes):
                shop.merge(out, jobs=jobs)
            fault = difference(out, expected)
            shutil.rmtree(out)
            return f"{jobs} jobs, chunks of {nbytes} bytes: {fault}" if fault else None

        tries = thinned([(jobs, nbytes) for jobs in JOBS for nbytes in CHUNKS], scale, 3)
        return Figure(
            [
                count(
                    f"runs (1 to {JOBS[-1]} workers × {len(CHUNKS)} chunk sizes) give the same bytes",
                    tries,
                    same,
                    report,
                )
            ]
        )
