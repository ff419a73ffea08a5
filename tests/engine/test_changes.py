"""Terms that must see their matrix first see it with every earlier term applied."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ingot.adapters.dora import Dora
from ingot.adapters.factor import Factor
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.terms import Apply, Load, LowRank, Needs, Replace
from ingot.engine.changes import Changes
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.tile import apply_changes
from ingot.naming.placed import Beside, PlacedTerm
from ingot.naming.placement import Placement
from ingot.plan.model import Op
from ingot.plan.resolve import whole

ROWS, COLUMNS = 700, 500  # two tiles


@pytest.mark.parametrize("brought", [True, False], ids=["from the adapter", "from the base"])
def test_a_norm_over_the_rows_is_taken_of_the_matrix_wherever_it_comes_from(brought: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    values = {
        name: torch.randn(shape, generator=generator)
        for name, shape in {"W": (ROWS, COLUMNS), "A": (2, ROWS), "B": (COLUMNS, 2), "m": (COLUMNS,)}.items()
    }
    W, A, B, m = (Factor(0, TensorRef(name, "F32", tuple(t.shape), "file", 0, t.nbytes)) for name, t in values.items())
    dora = whole(Dora(LowRank(B, A, 0.5).transposed(), m, axis=0))
    terms: tuple[PlacedTerm, ...] = (whole(Replace(W)), dora) if brought else (dora,)
    op = Op("e", "F32", (ROWS, COLUMNS), None if brought else W.ref, (ROWS, COLUMNS), terms)

    def read(_: TensorRef, first: int, last: int) -> memoryview:
        return memoryview(bytearray(values["W"].numpy().reshape(-1)[first:last].tobytes()))

    changes = Changes(lambda factor: factor.of(values[factor.ref.name]), read, torch.device("cpu"))
    found = torch.full((ROWS, COLUMNS), torch.nan) if brought else values["W"].clone()
    apply_changes(found, 0, changes.of(op, 0, ROWS))
    V = values["W"].double() + 0.5 * (values["B"].double() @ values["A"].double()).T
    torch.testing.assert_close(found.double(), values["m"] / V.norm(dim=0) * V, rtol=1e-5, atol=1e-6)


def test_a_term_sees_another_parameter_of_its_module_block_by_block_wherever_it_stands() -> None:
    """W[700, 500] in two tensors: rows from 300 on as they are, the others as columns of a wider, transposed one."""
    generator = torch.Generator().manual_seed(5)
    W = torch.randn(ROWS, COLUMNS, generator=generator)
    fused = torch.randn(COLUMNS + 20, 900, generator=generator)
    fused[20:, 50:350] = W[:300].T
    tensors = {"fused": fused, "rest": torch.cat([torch.randn(7, COLUMNS, generator=generator), W[300:]])}
    refs = {name: TensorRef(name, "F32", tuple(t.shape), "file", 0, t.nbytes) for name, t in tensors.items()}
    blocks = (
        (refs["fused"], Placement("fused", (1, COLUMNS + 20, 900), 0, (0, 300), (0, COLUMNS), 0, 20, 50, True)),
        (refs["rest"], Placement("rest", (1, ROWS - 293, COLUMNS), 0, (300, ROWS), (0, COLUMNS), disk_row=7)),
    )
    seen = torch.full((ROWS, COLUMNS), torch.nan)

    class Looking:
        """A rewrite that copies what stands beside it."""

        formula, shape, needs, beside = "b", (1, 3), Needs.TILE, ("weight",)

        def factors(self) -> tuple[Factor, ...]:
            return ()

        def make(self, load: Load, whole: Whole, /) -> Apply:
            for row, column, block in whole.beside("weight"):
                assert torch.isnan(seen[row : row + len(block), column : column + block.shape[1]]).all()
                seen[row : row + len(block), column : column + block.shape[1]] = block
            return lambda tile, row: None

        def flops(self) -> int:
            return 0

    op = Op("b", "F32", (3,), refs["rest"], (1, 3), (whole(Rewritten(Looking()), (Beside("weight", blocks),)),))

    def read(ref: TensorRef, first: int, last: int) -> memoryview:
        return memoryview(bytearray(tensors[ref.name].numpy().reshape(-1)[first:last].tobytes()))

    Changes(lambda factor: factor.of(W), read, torch.device("cpu")).of(op, 0, 1)
    assert torch.equal(seen, W)


def test_two_whole_matrices_are_never_looked_at_at_once() -> None:
    """The plan has room for one; other workers wait, and those that need a term that is ready do not."""
    inside, most = 0, 0
    lock = threading.Lock()

    class Decomposing:
        formula, shape, needs = "f(W)", (4, 4), Needs.WHOLE

        def factors(self) -> tuple[Factor, ...]:
            return ()

        def make(self, load: Load, whole: Whole, /) -> Apply:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1
            return lambda tile, row: None

        def flops(self) -> int:
            return 0

    ref = TensorRef("w", "F32", (4, 4), "file", 0, 64)
    terms = (whole(Rewritten(Decomposing())), whole(Rewritten(Decomposing())))
    ops = [Op(f"w{number}", "F32", (4, 4), ref, (4, 4), terms) for number in range(4)]
    changes = Changes(lambda factor: torch.zeros(0), lambda *_: memoryview(bytearray(64)), torch.device("cpu"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda op: changes.of(op, 0, 4), [*ops, *ops]))
    assert [len(each) for each in found] == [2] * 8
    assert most == 1
