"""huggingface_hub for the length of a push: patient but not for ever, and silent but for what it must say.

By itself it waits without an end, draws its own progress bars, and logs every retry with the URL, which may be signed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import httpx
from huggingface_hub import constants, get_session
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented there, and marked for no type checker
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from ingot.registry.push.hub_errors import without_secrets

_LOGGER = "huggingface_hub"
#: Seconds. The answer to a commit of thousands of files takes a while.
_TIMEOUT = httpx.Timeout(300.0, connect=30.0)


def sends_chunks() -> bool:
    """Whether huggingface_hub will send large files through hf_xet, in chunks, and not as whole files."""
    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


@contextmanager
def well_behaved(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, requests time out, no bar is drawn, and what is logged is told to `say` without secrets."""
    logger = logging.getLogger(_LOGGER)
    handlers, propagate = logger.handlers, logger.propagate
    had_bars = not are_progress_bars_disabled()
    session = get_session()
    timeout = session.timeout
    try:
        logger.handlers, logger.propagate = [_Teller(say)], False
        session.timeout = _TIMEOUT
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if had_bars:
                disable_progress_bars()
            try:
                yield
            finally:
                if had_bars:
                    enable_progress_bars()
                for warning in caught:
                    if issubclass(warning.category, UserWarning):
                        say(without_secrets(str(warning.message)))
    finally:
        session.timeout = timeout
        logger.handlers, logger.propagate = handlers, propagate


class _Teller(logging.Handler):
    """Warnings of the library, as talk."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"the Hub: {without_secrets(record.getMessage())}")
