"""A tiny model of each architecture, saved by transformers: the truth that naming is held against."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ingot.naming import Names, Site
from tests.tiny_models import MODELS


@dataclass(frozen=True)
class Saved:
    """A model in memory, and the names, tensors and config.json that `save_pretrained` made of it."""

    state: Mapping[str, torch.Tensor]
    disk: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]

    def names(self, **adapter: Any) -> Names:
        return Names.of(self.disk, self.config, **adapter)


Saver = Callable[..., Saved]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saver:
    """saved(name, original_format=True) -> Saved; each is made once a session."""

    @cache
    def save(name: str, original_format: bool = True) -> Saved:
        directory = tmp_path_factory.mktemp(name)
        model = MODELS[name]()
        model.save_pretrained(directory, save_original_format=original_format)
        config = json.loads((directory / "config.json").read_text())
        return Saved(model.state_dict(), load_file(directory / "model.safetensors"), config)

    return save


def assemble(site: Site, parameter: str, disk: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The parameter put together from the tensors on disk, block by block; fails where it is not covered once."""
    module = site.module
    shape = module.parameters[parameter]
    view = module.view(parameter)
    memory = torch.zeros(view)
    count = torch.zeros(view, dtype=torch.int)
    for place in site.placements[parameter]:
        row, column, height, width = place.block
        tensor = disk[place.tensor].reshape(place.view)
        block = tensor.reshape(-1, place.view[2])[row : row + height, column : column + width]
        # A block must not run over the end of its own matrix into the next one of the stack.
        assert place.disk_row + height <= place.view[1]
        where = (place.index, slice(*place.rows), slice(*place.columns))
        memory[where] = block.T if place.transposed else block
        count[where] += 1
    assert bool((count == 1).all()), f"{module.path}.{parameter} is not covered exactly once"
    return memory.reshape(shape)


def disk_coverage(sites: list[Site], disk: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How often the placements of these sites, of own parameters only, cover each element on disk."""
    counts = {name: torch.zeros(tensor.shape, dtype=torch.int) for name, tensor in disk.items()}
    for site in sites:
        for parameter, places in site.placements.items():
            if "." in parameter:  # what a MULTIHEAD shows of its submodule is that submodule's own
                continue
            for place in places:
                row, column, height, width = place.block
                rows = counts[place.tensor].reshape(-1, place.view[2])
                rows[row : row + height, column : column + width] += 1
    return counts
