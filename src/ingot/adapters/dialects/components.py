"""Which component of a pipeline is meant, where one adapter changes several: a base is one component's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ingot.errors import AdapterError, UsageError
from ingot.formats.tensor_ref import TensorRef

#: kohya's files say `lora_unet_` of whatever takes the UNet's place.
_DENOISERS = ("unet", "transformer")


def choose(names: Iterable[str], wanted: str | None) -> str:
    """The component to merge.

    Raises:
        AdapterError: there are several and the user named none.
        UsageError: the user named one that the adapter does not change.
    """
    found = sorted(names)
    if wanted is None:
        if len(found) > 1:
            raise AdapterError(
                "the adapter changes several components, and a base is one of them",
                found=", ".join(found),
                hint=f"Say which one BASE is: `--component {found[-1]}`. Merge the others into theirs, one by one.",
            )
        return found[0]
    if wanted in found:
        return wanted
    if wanted in _DENOISERS:
        other = next((name for name in _DENOISERS if name in found), None)
        if other is not None:
            return other
    raise UsageError("the adapter does not change this component", expected=", ".join(found), found=wanted)


def of_others(tensors: Mapping[str, Iterable[TensorRef]], chosen: str) -> dict[str, str]:
    """Why the tensors of other components have no part in a merge, by name."""
    return {
        ref.name: f"belongs to {name}, another component than {chosen}"
        for name, refs in tensors.items()
        if name != chosen
        for ref in refs
    }
