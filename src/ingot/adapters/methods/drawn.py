"""What PEFT draws at random from a seed and does not save: drawn by PEFT's own code, once a run.

A copy of that code would be right for one release of PEFT only, and silently wrong for the next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from importlib import util
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ingot.adapters.methods.owner import ALONE
from ingot.adapters.terms import Load
from ingot.errors import MissingComponent

if TYPE_CHECKING:
    import torch

INSTALL = "Run `pip install 'ingot-merge[validate]'`."
#: Drawn tensors that a run keeps for the next layer; the last ones always.
KEPT_NBYTES = 16 << 20
#: What importing PEFT takes, and with it transformers and bitsandbytes (measured: 235 to 290 MiB).
PEFT_NBYTES = 320 << 20

Drawn = tuple["torch.Tensor", ...]


def need_peft() -> None:
    """Raise MissingComponent where PEFT is not installed: for the plan, before anything is drawn."""
    if util.find_spec("peft") is None:
        what = "the adapter leaves out what PEFT draws from a seed, and PEFT, to draw it again, is not installed"
        raise MissingComponent(what, hint=INSTALL)


class Once:
    """Tensors that layers share, drawn once a run: kept for the run's own `load`, and let go with it."""

    def __init__(self) -> None:
        self._runs: WeakKeyDictionary[Load, OrderedDict[Hashable, Drawn]] = WeakKeyDictionary()
        self._lock = threading.RLock()

    def __call__(self, load: Load, key: Hashable, draw: Callable[[], Drawn]) -> Drawn:
        """What `draw` gives for this key, in a run that reads by `load`; one thread draws, the others wait.

        Raises:
            MissingComponent: PEFT is not installed, or not in a release that has what `draw` calls.
        """
        with self._lock:
            kept = self._runs.setdefault(load, OrderedDict())
            if key not in kept:
                with _peft():
                    kept[key] = draw()
            kept.move_to_end(key)
            while len(kept) > 1 and sum(part.nbytes for drawn in kept.values() for part in drawn) > KEPT_NBYTES:
                kept.popitem(last=False)
            return kept[key]


@contextmanager
def _peft() -> Iterator[None]:
    """PEFT draws from torch's global generator too: the caller's state is kept."""
    import torch

    need_peft()
    try:
        with ALONE, torch.random.fork_rng(devices=[]):
            yield
    except (ImportError, AttributeError, TypeError) as error:
        what = "the installed release of PEFT does not draw what this adapter leaves out in the way that is known"
        raise MissingComponent(what, expected="peft>=0.21,<0.22", found=error, hint=INSTALL) from error


once = Once()


def bare(cls: Any, **attributes: object) -> Any:
    """An instance of a module class of PEFT's that no constructor has run for, with these attributes."""
    import torch

    module = cls.__new__(cls)
    torch.nn.Module.__init__(module)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module
