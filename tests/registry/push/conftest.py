"""A stand-in hub, and an artifact that the command line made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot.record import read_record
from ingot.registry.push import Parcel, parcel_of
from tests.cli import toys
from tests.registry.push.hub_server import TOKEN, Hub, serving


@pytest.fixture(autouse=True)
def _client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub online, without hf_xet (the stand-in has no chunks), and never waiting."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("INGOT_REGISTRY", str(tmp_path / "registry"))
    assert get_token() == TOKEN


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter and their merge `out`. Do not change it."""
    root = tmp_path_factory.mktemp("pushed")
    toys.make_base(root / "base")
    toys.make_adapter(root / "lora")
    assert toys.run_here("merge base lora -o out -q", root) == 0
    return root


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    """The merge, to do with as one likes."""
    return Path(shutil.copytree(made / "out", tmp_path / "support"))


@pytest.fixture
def parcel(artifact: Path) -> Parcel:
    return packed(artifact)


def packed(path: Path) -> Parcel:
    record = read_record((path / "ingot.json").read_bytes())
    return parcel_of(path, record.identity, record.subjects.values())
