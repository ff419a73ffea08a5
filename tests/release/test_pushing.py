"""What a recipe sends to the Hub is what was published, once; over real HTTP to a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import UsageError
from ingot.registry.push import pushes
from tests.cli.toys import make_adapter, make_base
from tests.registry.push.conftest import _client, hub  # noqa: F401 - fixtures
from tests.registry.push.hub_server import Hub
from tests.release.test_run import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    shop = Shop(tmp_path)
    shop.recipe["publish"]["push"] = ["hf://acme/{name}"]
    return shop


def test_a_published_artifact_is_pushed_and_the_second_run_sends_nothing(shop: Shop, hub: Hub) -> None:  # noqa: F811
    (entry,) = shop.release().published
    assert ("pushed", "hf://acme/toy-v1.0") in shop.listener.said
    folder = Path(str(entry.place))
    there = hub.repositories["acme/toy-v1.0"].head().files
    sent = {name: hub.store[blob.sha256] if blob.sha256 else blob.data for name, blob in there.items()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.items() <= sent.items()
    shop.release()
    history = pushes(shop.path / "registry/records" / entry.identity)
    assert [one["changed"] for one in history] == [True, False]


def test_two_artifacts_for_one_repository_are_refused_before_anything_is_written(shop: Shop) -> None:
    shop.recipe |= {"formats": ["safetensors", "gguf:Q8_0"]}
    shop.recipe["publish"]["push"] = ["hf://acme/toy"]
    with pytest.raises(UsageError, match="one repository"):
        shop.release()
    assert shop.published() == []


def test_a_target_that_is_none_is_refused_before_anything_is_written(shop: Shop) -> None:
    shop.recipe["publish"]["push"] = ["ftp://acme/toy"]
    with pytest.raises(UsageError):
        shop.release()
    assert not (shop.path / "registry/artifacts").is_dir() or shop.published() == []
