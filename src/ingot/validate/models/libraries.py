"""Loading with transformers and PEFT: what they lack is an error of ours, and they write nothing to the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any

from ingot.errors import IngotError, MissingComponent
from ingot.validate.model import Unsupported

INSTALL = "Run `pip install 'ingot-merge[validate]'`."


def need(*libraries: str) -> None:
    """Raises MissingComponent unless all of these can be imported."""
    missing = [name for name in libraries if util.find_spec(name) is None]
    if missing:
        raise MissingComponent(f"{' and '.join(missing)} is not installed", hint=INSTALL)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Load `what` without progress bars and advice, its failures told in one line.

    Raises:
        MissingComponent: a library that the files ask for is not installed.
        Unsupported: the library cannot load it.
    """
    import transformers

    talk: Any = transformers.utils.logging
    verbosity, bar = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    other = logging.getLogger("bitsandbytes")  # PEFT imports it; it advises on kernels that nothing here runs
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (IngotError, Unsupported):
        raise
    except ImportError as error:
        raise MissingComponent("a library that this model needs is not installed", where=what, found=first_line(error),
                               hint="Install the library that is named.") from error  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # model classes, quantizers and tokenizers fail each in their own way
        raise Unsupported(f"{what} cannot be loaded: {first_line(error)}") from error
    finally:
        other.setLevel(level)
        talk.set_verbosity(verbosity)
        if bar:
            talk.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
