"""MLflow's client, with its errors as ours, an end to its patience, and without its telemetry.

OutputError 15     the server refuses: no permission, a name or a source that it does not take
ResourceError 14   it cannot be reached, or fails
MissingComponent   the library is not installed, or the store needs more of it than the client
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingot.errors import IngotError, MissingComponent, OutputError, ResourceError, UsageError

INSTALL = "Run `pip install 'ingot-merge[mlflow]'`."
#: Unless the user says otherwise. MLflow's own: 7 retries, which take minutes where no server listens; 120 s.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_URL = re.compile(r"\b(\w+://)[^\s/@]*@")
_LONGEST = 300
_REFUSED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_WRONG = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST"}


@contextmanager
def opened_client(tracking_uri: str | None) -> Iterator[Any]:
    """An `MlflowClient` for the block; MLflow's errors leave it as ours.

    Raises:
        UsageError: no server is told, or it is of a kind that would copy the files.
        MissingComponent, OutputError, ResourceError.
    """
    place = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not place.strip():
        raise UsageError("no MLflow server is told", hint="Pass --tracking-uri URI, or set MLFLOW_TRACKING_URI.")
    if place.startswith("databricks"):
        raise UsageError("Databricks' registry copies the files, which is not done here", found=place,
                         hint="Upload the artifact, and register it there.")  # fmt: skip
    with _environment():
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingComponent("the mlflow library is not installed", hint=INSTALL) from error
        try:
            yield MlflowClient(tracking_uri=place)
        except IngotError:
            raise
        except MlflowException as error:
            raise _as_ours(error, place) from error
        except ImportError as error:
            raise MissingComponent("this MLflow store needs the whole of mlflow", where=shown(place),
                                   hint="Run `pip install mlflow`, or use a server.") from error  # fmt: skip
        except OSError as error:  # among them what its HTTP library raises
            raise _unreachable(error, place) from error


def shown(text: object) -> str:
    """On one line, without the names and passwords in URLs."""
    return " ".join(_URL.sub(r"\1", str(text)).split())[:_LONGEST]


def is_code(error: Exception, *codes: str) -> bool:
    """Whether it is an MLflow error with one of these codes."""
    return getattr(error, "error_code", None) in codes


def _as_ours(error: Exception, place: str) -> IngotError:
    said = shown(error)
    if is_code(error, *_REFUSED):
        return OutputError(f"the MLflow server does not let you do this: {said}", where=shown(place),
                           hint="Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD.")  # fmt: skip
    if is_code(error, *_WRONG):
        return OutputError(f"the MLflow server does not take this: {said}", where=shown(place))
    if "failed with exception" in said or "Max retries exceeded" in said:
        return _unreachable(error, place)
    return ResourceError(f"the MLflow server failed: {said}", where=shown(place),
                         hint="Run the same command again; a version that was registered is found.")  # fmt: skip


def _unreachable(error: Exception, place: str) -> ResourceError:
    kind = type(error.__cause__ or error).__name__
    return ResourceError(f"the MLflow server cannot be reached ({kind})", where=shown(place),
                         hint="Check --tracking-uri, and that the server runs.")  # fmt: skip


@contextmanager
def _environment() -> Iterator[None]:
    """The library reads its settings from the environment at every call."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
