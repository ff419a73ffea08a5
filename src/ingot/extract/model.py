"""The nouns of an extraction: what is asked for, a parameter in two checkpoints, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import UsageError
from ingot.naming import Placement

#: PEFT's names.
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
#: safetensors' spelling of a dtype -> torch's.
DTYPE_WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
#: The energy that a module's rank must reach where the user names neither a rank nor an energy.
DEFAULT_ENERGY = 0.99
#: The largest rank that an energy may lead to, unless the user says otherwise. Servers take no more.
DEFAULT_MAX_RANK = 256

Progress = Callable[[int], None]
#: Opens a bar: what is done, of how many units, which unit; what it yields is told of units done.
Bar = Callable[[str, int, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Budget:
    """How the rank of a module is found: `rank` for all of them, or the smallest one that holds `energy`.

    Attributes:
        energy: share of ‖Δ‖² in (0, 1]; None where `rank` is given.
        max_rank: no module gets a larger one.
    """

    rank: int | None = None
    energy: float | None = DEFAULT_ENERGY
    max_rank: int = DEFAULT_MAX_RANK

    @classmethod
    def of(cls, rank: int | None, energy: float | None, max_rank: int | None) -> Budget:
        """Raises UsageError: both are given, one is out of range, or `max_rank` stands beside a fixed rank."""
        if rank is not None and energy is not None:
            raise UsageError("--rank and --energy exclude each other", hint="Give the one that you want to hold.")
        if rank is not None and max_rank is not None:
            raise UsageError("--max-rank has no meaning beside --rank", hint="Give --energy with it, or leave it out.")
        for name, value in (("--rank", rank), ("--max-rank", max_rank)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1", found=value)
        if energy is not None and not 0 < energy <= 1:
            raise UsageError("--energy is a share", expected="more than 0, at most 1", found=energy)
        if rank is not None:
            return cls(rank, None, rank)
        return cls(None, DEFAULT_ENERGY if energy is None else energy, max_rank or DEFAULT_MAX_RANK)

    def cap(self, rows: int, columns: int) -> int:
        """The largest rank that a matrix[rows, columns] may get."""
        return min(self.max_rank, rows, columns)


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        base, tuned: a directory or a Hub id.
        target: the directory to be made.
        dtype: of the factors, as a safetensors header spells it; whole tensors keep TUNED's.
        save: modules that are saved whole, by the end of their path.
    """

    base: str
    tuned: str
    target: Path
    budget: Budget
    dtype: str = "F32"
    save: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """One parameter in one checkpoint.

    Attributes:
        shape: in the model's memory.
        placements: the blocks on disk that it is made of.
        dtype: as stored.
    """

    shape: tuple[int, ...]
    placements: tuple[Placement, ...]
    dtype: str


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model in both checkpoints.

    Attributes:
        path, name: of its module, and within it.
        view: TUNED's as a stack of matrices (N, rows, columns).
        base: None where BASE has no such tensor.
        shared: BASE stores it together with another one (tied embeddings), so no update can be added to it alone.
    """

    path: str
    name: str
    view: tuple[int, int, int]
    base: Held | None
    tuned: Held
    shared: bool = False

    @property
    def full(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def resized(self) -> bool:
        """Whether BASE has another number of rows."""
        return self.base is not None and self.base.shape != self.tuned.shape

    @property
    def dtypes(self) -> frozenset[str]:
        return frozenset(held.dtype for held in (self.base, self.tuned) if held is not None)
