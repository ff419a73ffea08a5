"""A model without weights, on torch's meta device, whose modules are filled from the checkpoint's files and emptied.

Where a parameter stands in the files is `naming`'s to say: what a merge patches there is what is read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ingot.errors import IngotError
from ingot.kernels.dtypes import TORCH_DTYPE
from ingot.naming import Site
from ingot.validate.model import Unsupported
from ingot.validate.models.libraries import loading, need
from ingot.validate.models.sources import Sources, model_class, model_config

if TYPE_CHECKING:
    import torch


def build(sources: Sources, dtype: str | None) -> Any:
    """The checkpoint's model class with parameters on the meta device; buffers hold what the class computes.

    Raises:
        Unsupported: it is quantized, or transformers cannot build it.
    """
    need("transformers", "accelerate")
    if sources.quantized is not None:
        raise Unsupported(
            f"{sources.located.name} is quantized ({sources.quantized}), and such layers are not streamed"
        )
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    cls, config = model_class(sources), model_config(sources, dtype)
    with loading(sources.located.base.name), init_empty_weights(include_buffers=False):
        return cls._from_config(config).eval()


class Filling:
    """Fills modules of one model. Made before adapters wrap its modules: the modules stay, their paths do not."""

    def __init__(self, model: Any, sources: Sources, device: str) -> None:
        import torch

        self._sources = sources
        self._device = device
        self._paths: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), path)
        dtype = getattr(torch, str(model.config.dtype).removeprefix("torch."))
        kept: dict[str, torch.dtype] = model._get_dtype_plan(dtype)
        #: Parameters that transformers keeps in float32, whatever the dtype of the model.
        self._kept = [(re.compile(pattern.replace("*", r".*")), wide) for pattern, wide in kept.items()]
        self._emptied: dict[int, list[tuple[Any, str, torch.Tensor]]] = {}

    def fill(self, module: Any) -> None:
        """Give every parameter of `module` and of what is in it its values; does nothing where they have them.

        Raises:
            Unsupported: a parameter does not stand in blocks in the files, or is not there.
        """
        if id(module) in self._emptied:
            return
        read: dict[str, torch.Tensor] = {}
        undo: list[tuple[Any, str, torch.Tensor]] = []
        self._emptied[id(module)] = undo
        for part in module.modules():
            if id(part) in self._paths:
                for place, leaf, tensor in _slots(part):
                    values = self._values(_join(self._paths[id(part)], leaf), tensor, read)
                    if values is not None:
                        undo.append((place, leaf, tensor))
                        place[leaf] = values

    def empty(self, module: Any | None = None) -> None:
        """Take the values away again, of one module or of all that are filled."""
        for key in [id(module)] if module is not None else list(self._emptied):
            for place, leaf, tensor in self._emptied.pop(key, ()):
                place[leaf] = tensor

    def _values(self, name: str, like: torch.Tensor, read: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """What the files hold for a parameter; None for a buffer that is not in them."""
        import torch

        try:
            site, leaf = self._sources.names.parameter(name)
            if leaf in site.aliases:
                site, leaf = self._sources.names.parameter(site.aliases[leaf])
        except IngotError as error:
            if not like.is_meta:
                return None
            raise Unsupported(f"`{name}` cannot be read on its own: {error.what}") from error
        if not site.placements.get(leaf):
            if not like.is_meta:
                return None
            raise Unsupported(f"`{name}` is not in the files of {self._sources.located.base.name}")
        if site.module.parameters[leaf] != tuple(like.shape):
            raise Unsupported(f"`{name}` has the shape {list(site.module.parameters[leaf])} in the files and "
                              f"{list(like.shape)} in the model")  # fmt: skip
        dtype = next((wide for pattern, wide in self._kept if pattern.search(name)), like.dtype)
        values = self._assemble(site, leaf, read).to(self._device, dtype if dtype.is_floating_point else None)
        return torch.nn.Parameter(values, requires_grad=False) if isinstance(like, torch.nn.Parameter) else values

    def _assemble(self, site: Site, leaf: str, read: dict[str, torch.Tensor]) -> torch.Tensor:
        """The parameter from its blocks on disk. `read`: disk tensors of this filling, each read once."""
        import torch

        shape, places = site.module.parameters[leaf], site.placements[leaf]
        for place in places:
            if place.tensor not in read:
                read[place.tensor] = self._read(place.tensor)
        first = read[places[0].tensor]
        if len(places) == 1 and first.numel() == math.prod(shape) and not places[0].transposed:
            return first.view(shape)
        whole = torch.empty(shape, dtype=first.dtype)
        stack = whole.view(site.module.view(leaf))
        for place in places:
            row, column, height, width = place.disk_row, place.disk_column, *place.block[2:]
            block = read[place.tensor].view(place.view)[place.disk_index, row : row + height, column : column + width]
            rows, columns = slice(*place.rows), slice(*place.columns)
            stack[place.index, rows, columns] = block.T if place.transposed else block
        return whole

    def _read(self, name: str) -> torch.Tensor:
        """One tensor of the files, in its own dtype."""
        import torch

        ref = self._sources.base.stored[name]
        dtype = TORCH_DTYPE.get(ref.dtype) or {"I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}.get(
            ref.dtype
        )
        if dtype is None:
            raise Unsupported(f"`{name}` is stored as {ref.dtype}, which is not streamed")
        tensor = torch.empty(ref.shape, dtype=dtype)
        if ref.nbytes:
            bytes_of = memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy()))
            self._sources.base.inputs[ref.file].read_into(bytes_of, ref.begin)
        return tensor


def _slots(module: Any) -> Iterator[tuple[Any, str, torch.Tensor]]:
    """(where it hangs, name, tensor) of the module's own parameters without values and of its persistent buffers."""
    for leaf, tensor in list(module._parameters.items()):
        if tensor is not None and tensor.is_meta:
            yield module._parameters, leaf, tensor
    for leaf, tensor in list(module._buffers.items()):
        if tensor is not None and leaf not in module._non_persistent_buffers_set:
            yield module._buffers, leaf, tensor


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
