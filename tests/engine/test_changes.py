"""Terms that must see their matrix first see it with every earlier term applied."""

from __future__ import annotations

import pytest
import torch

from ingot.adapters.dora import Dora
from ingot.adapters.factor import Factor
from ingot.adapters.terms import LowRank, Replace
from ingot.engine.changes import Changes
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.tile import apply_changes
from ingot.plan.model import Op, PlacedTerm
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
