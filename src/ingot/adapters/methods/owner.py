"""What PEFT computes from the base weight by decompositions, clusters and random projections: its own code, called.

These functions are no public interface of PEFT's: tested with 0.21.2. A copy of them would be right for one release
only, and silently wrong for the next.
"""

from __future__ import annotations

import threading
from importlib import import_module, util
from operator import attrgetter
from typing import Any

from ingot.errors import MissingComponent

INSTALL = "Run `pip install 'ingot-merge[validate]'`."
#: What importing PEFT takes, measured; scikit-learn takes 11 MiB more.
PEFT_NBYTES = 270 << 20
#: Held while PEFT seeds torch's one generator, and so that one decomposition at a time is in memory.
ALONE = threading.RLock()


def require(method: str, *libraries: str) -> None:
    """Raise MissingComponent unless PEFT and the other libraries are installed; imports none of them."""
    missing = [name for name in ("peft", *libraries) if util.find_spec(name) is None]
    if missing:
        what = f"{method} takes the base weight apart with PEFT's own code, and {' and '.join(missing)} is missing"
        raise MissingComponent(what, hint=INSTALL)


def call(module: str, name: str, /, *arguments: Any, **options: Any) -> Any:
    """`name` of the module `peft.tuners.<module>`, called.

    Raises:
        MissingComponent: the installed release of PEFT has no such function, or one with other arguments.
    """
    try:
        return attrgetter(name)(import_module(f"peft.tuners.{module}"))(*arguments, **options)
    except (ImportError, AttributeError, TypeError) as error:
        what = "the installed release of PEFT does not take a weight apart in the way that is known"
        raise MissingComponent(what, expected="peft>=0.21,<0.22", found=error, hint=INSTALL) from error
