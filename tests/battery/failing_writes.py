"""The n-th operation fails, for every n: a full disk, a used up quota, a broken disk; a write after half its bytes."""

from __future__ import annotations

import errno
from functools import partial

from ingot.errors import IngotError, ResourceError
from tests.battery.crash_points import CHUNK_NBYTES, finish, operations
from tests.battery.figure import Figure, Report, counted, thinned
from tests.battery.processes import parallel
from tests.battery.workshop import Content, Workshop, chunks_of, difference, scratch, workshop
from tests.storage.faulty_disk import FaultyDisk

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def run(scale: float, report: Report) -> Figure:
    with workshop() as shop:
        expected, number = shop.reference(), operations(shop)
        tries = thinned([(n, code) for n in range(number) for code in ERRORS], scale, 5)
        faults = parallel(partial(_fail, shop, expected), tries)
        what = f"failing operations ({number} × ENOSPC, EIO, EDQUOT): exit 14, never half an output, then identical"
        return Figure([counted(what, len(tries), faults, report)])


def _fail(shop: Workshop, expected: Content, point: tuple[int, int]) -> str | None:
    number, code = point
    with scratch(shop.root / "tries") as folder, chunks_of(CHUNK_NBYTES):
        out, grave = folder / "out", folder / "grave"
        grave.mkdir()
        disk = FaultyDisk(grave, fail_at=number, fail_errno=code)
        try:
            shop.merge(out, disk=disk)
        except ResourceError:
            pass
        except IngotError as error:
            return f"operation {disk.operations[number]}, {errno.errorcode[code]}: {error!r}"
        else:  # what fails after the output has its name is cleaning up, and the next run's business
            if not out.exists():
                return f"operation {disk.operations[number]}, {errno.errorcode[code]}: swallowed"
        fault = difference(out, expected, absent_is_well=True) or finish(shop, out, FaultyDisk(grave), expected)
        return f"operation {disk.operations[number]}, {errno.errorcode[code]}: {fault}" if fault else None
