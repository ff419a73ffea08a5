"""A reference on disk: what another library made of a base and an adapter, and how to make those two again.

    <case>.safetensors   the tensors that the library's merge changed, in float32
        metadata spec    {"base": {name: shape}, "adapter": {name: shape}, "numbers": {name: [dtype, value]},
                          "base_files": {file: JSON}, "adapter_files": {file: JSON}, "adapter_name": file,
                          "metadata": {key: text}, "options": {...}, "by": "the library and what was called"}

All values of base and adapter but `numbers` are drawn from the tensors' names: see `drawn`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.reference.drawn import draw, draw_adapter

DATA = Path(__file__).parent / "data"


@dataclass
class Spec:
    """What a reference was made of."""

    by: str
    base: dict[str, list[int]]
    adapter: dict[str, list[int]]
    adapter_name: str
    base_name: str = "model.safetensors"
    numbers: dict[str, list[Any]] = field(default_factory=dict)
    base_files: dict[str, Any] = field(default_factory=dict)
    adapter_files: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def base_tensors(self) -> dict[str, NDArray[np.float32]]:
        return {name: draw(name, shape) for name, shape in self.base.items()}

    def adapter_tensors(self) -> dict[str, NDArray[Any]]:
        drawn = {name: draw_adapter(name, shape) for name, shape in self.adapter.items() if name not in self.numbers}
        numbers = {name: np.full(self.adapter[name], value, dtype) for name, (dtype, value) in self.numbers.items()}
        return {**drawn, **numbers}

    def write(self, root: Path) -> tuple[Path, Path]:
        """The base's directory and the adapter's file, made again under `root`."""
        base, adapter = root / "base", root / "adapter"
        for directory, files in ((base, self.base_files), (adapter, self.adapter_files)):
            directory.mkdir(parents=True)
            for name, content in files.items():
                (directory / name).write_text(json.dumps(content))
        save_file(self.base_tensors(), base / self.base_name, {"format": "pt"})
        save_file(self.adapter_tensors(), adapter / self.adapter_name, self.metadata or None)
        return base, adapter / self.adapter_name


def keep(case: str, spec: Spec, merged: dict[str, NDArray[Any]]) -> None:
    """Store what a library made, of the tensors that it changed."""
    base = spec.base_tensors()
    changed = {
        name: np.ascontiguousarray(value, np.float32)
        for name, value in merged.items()
        if not np.array_equal(np.asarray(value, np.float32), base[name])
    }
    assert merged.keys() == base.keys(), sorted(merged.keys() ^ base.keys())
    save_file(changed, DATA / f"{case}.safetensors", {"spec": json.dumps(asdict(spec), sort_keys=True)})
    print(f"{case}: {len(changed)} of {len(base)} tensors changed")


def cases() -> list[str]:
    return sorted(path.stem for path in DATA.glob("*.safetensors"))


def kept(case: str) -> tuple[Spec, dict[str, NDArray[np.float32]]]:
    """The spec of a reference, and the changed tensors."""
    path = DATA / f"{case}.safetensors"
    with safe_open(path, "np") as file:
        spec = Spec(**json.loads(file.metadata()["spec"]))
    return spec, load_file(path)
