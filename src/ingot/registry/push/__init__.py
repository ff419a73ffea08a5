"""A finished artifact to where others find it.

target        `hf://org/name[@branch]`, `mlflow:...`: what is typed
parcel        the artifact's files with the digests of its record: what is pushed
hub           `push`: the Hub's store first, then one commit
  hub_look    `look`: what is there, and what a push would do
  hub_upload  files on their way, hashed as they go
  hub_client  huggingface_hub with timeouts and without its own bars
  hub_errors  its errors, as ours
pushed        what was done, as data
history       the log of pushes beside a record
mlflow        a version in MLflow's registry: the record in brief, and no bytes

Importing this imports neither huggingface_hub nor mlflow; `hub` and `mlflow` do.
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
