"""A finished artifact to where others find it.

target        `hf://org/name[@branch]`, `mlflow:...`: what is typed
parcel        the artifact's files with the digests of its record: what is pushed
hub           `look` and `push`: the Hub's store first, then one commit
  hub_upload  files on their way, hashed as they go
  hub_client  huggingface_hub with timeouts and without its own bars
  hub_errors  its errors, as ours
pushed        what was done, as data
history       the log of pushes beside a record

Importing this imports no huggingface_hub; `hub` does.
"""

from __future__ import annotations

from ingot.registry.push.history import note, pushes
from ingot.registry.push.parcel import Parcel, ParcelFile, parcel_of
from ingot.registry.push.pushed import Pushed
from ingot.registry.push.target import HubTarget, MlflowTarget, parse_target

__all__ = [
    "HubTarget",
    "MlflowTarget",
    "Parcel",
    "ParcelFile",
    "Pushed",
    "note",
    "parcel_of",
    "parse_target",
    "pushes",
]
