"""`ingot release` at the command line: what is shown, JSON Lines, exit codes, and mistakes found before the work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingot.demo import assets
from tests.cli.toys import ingot, json_lines, make_adapter, make_base, run_here, snapshot

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
TASK = assets.tasks()[1]
Capture = pytest.CaptureFixture[str]


class Shop:
    """A directory with a recipe, and its registry in `registry`."""

    def __init__(self, path: Path, base: str, adapter: str) -> None:
        self.path = path
        self.recipe: dict[str, Any] = {
            "ingot": 1, "name": "toy", "version": "1.0", "base": base, "adapters": [adapter],
            "formats": ["safetensors"], "publish": {"registry": "registry"},
        }  # fmt: skip

    def release(self, options: str = "") -> int:
        """The exit code."""
        (self.path / "release.yaml").write_text(yaml.safe_dump(self.recipe))
        return run_here(f"release release.yaml {options}", self.path)

    @property
    def registry(self) -> Path:
        return self.path / "registry"

    def published(self) -> list[str]:
        return sorted(path.name for path in (self.registry / "artifacts").iterdir())


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INGOT_REGISTRY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ingot.registry.push.hub_look.get_token", lambda: None)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    return Shop(tmp_path, "base", "lora")


@pytest.fixture
def demo(tmp_path: Path) -> Shop:
    """Its base can become a GGUF."""
    return Shop(tmp_path, str(assets.base()), str(TASK.adapter))


def lines_of(capfd: Capture) -> list[dict[str, Any]]:
    return json_lines(capfd.readouterr().out.encode("ascii"))


def error_of(capfd: Capture) -> str:
    """What stderr ends with; one error and one hint."""
    said = capfd.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith(("error:", "hint:"))]
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    return "\n".join(lines)


# -- what is shown ------------------------------------------------------------------------------------------------


def test_a_release_shows_the_bill_first_and_what_it_published_last(shop: Shop, capfd: Capture) -> None:
    shop.recipe["publish"]["tags"] = ["champion"]
    assert shop.release() == 0
    data, talk = capfd.readouterr()
    bill = [line.split() for line in talk.splitlines()]
    assert ["Artifacts", "toy-v1.0", "safetensors", "12.3", "kB"] in bill
    assert any(words[:1] == ["Writes"] and words[-1] == str(shop.registry) for words in bill)
    assert ["Validates", "nothing:", "the", "recipe", "has", "no", "`validate`"] in bill
    assert ["Tags", "champion"] in bill
    assert "published without validation" in talk
    shown = data.splitlines()
    assert shown[0].startswith("Published")
    assert "toy-v1.0  " in shown[0]
    assert shown[0].endswith("[champion]")
    assert shown[-1].split() == ["Registry", str(shop.registry)]
    assert "ingot registry trace toy-v1.0" in talk


def test_what_was_published_before_is_called_unchanged(shop: Shop, capfd: Capture) -> None:
    shop.release()
    capfd.readouterr()
    assert shop.release() == 0
    data, talk = capfd.readouterr()
    assert data.startswith("Unchanged")
    assert "nothing: everything is published" in talk


def test_a_validated_release_shows_the_table_and_the_record_keeps_what_was_found(shop: Shop, capfd: Capture) -> None:
    shop.recipe["validate"] = {}
    assert shop.release() == 0
    data, talk = capfd.readouterr()
    assert "1 of 1 artifact by their weights, before anything is published" in talk
    assert data.index("survival") < data.index("Published")
    assert "passed" in data


def test_quiet_is_one_line_an_artifact_with_name_and_identity(shop: Shop, capfd: Capture) -> None:
    assert shop.release("--quiet") == 0
    (said,) = capfd.readouterr().out.splitlines()
    name, identity = said.split()
    assert name == "toy-v1.0"
    assert json.loads((shop.registry / "artifacts/toy-v1.0/ingot.json").read_text())["predicate"]["runDetails"][
        "metadata"
    ]["ingot_identity"] == identity  # fmt: skip


def test_every_line_of_json_is_an_event_and_the_last_one_is_the_result(shop: Shop, capfd: Capture) -> None:
    shop.recipe |= {"validate": {}}
    assert shop.release("--json") == 0
    lines = [line for line in lines_of(capfd) if line["type"] != "progress"]
    kinds = [line["type"] for line in lines]
    assert kinds == ["plan", "made", "evaluation", "adapter_kept", "published", "result"]
    plan, made, _, kept, published, result = lines
    (artifact,) = plan["artifacts"]
    assert (artifact["name"], artifact["state"], artifact["validated"]) == ("toy-v1.0", "new", True)
    assert (made["name"], made["before"]) == ("toy-v1.0", False)
    assert made["identity"] == published["identity"] == result["published"][0]["identity"]
    assert Path(kept["path"]).is_dir()
    assert (published["state"], published["before"]) == ("here", False)
    assert (result["verb"], result["kept_out"], result["registry"]) == ("release", {}, str(shop.registry))


def test_json_tells_of_what_is_kept_out_and_ends_in_the_error(shop: Shop, capfd: Capture) -> None:
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}  # nothing survives to more than all of it
    assert shop.release("--json") == 1
    lines = lines_of(capfd)
    assert [line["type"] for line in lines][-3:] == ["adapter_kept", "release", "error"]
    (kept_out,) = [line for line in lines if line["type"] == "kept_out"]
    assert (kept_out["name"], kept_out["exit_code"]) == ("toy-v1.0", 1)
    assert list(lines[-2]["kept_out"]) == ["toy-v1.0"]
    assert lines[-1]["exit_code"] == 1
    assert "validate.gates.min_survival" in lines[-1]["message"]


def test_json_tells_of_each_push(shop: Shop, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.recipe["publish"]["push"] = ["hf://acme/{name}"]
    monkeypatch.setattr("ingot.registry.push.hub_look.get_token", lambda: "a token")
    monkeypatch.setattr("ingot.release.run.push", lambda *_: {"commit": "c0ffee"})
    assert shop.release("--json") == 0
    (pushed,) = [line for line in lines_of(capfd) if line["type"] == "pushed"]
    assert (pushed["name"], pushed["push"]) == ("toy-v1.0", {"commit": "c0ffee"})


# -- dry run, place, restart --------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_of_the_plan_and_writes_nothing(shop: Shop, capfd: Capture) -> None:
    shop.release("--dry-run")
    before = snapshot(shop.path)
    capfd.readouterr()
    assert shop.release("--dry-run --json") == 0
    *_, result = lines_of(capfd)
    assert (result["type"], result["dry_run"], result["artifacts"][0]["name"]) == ("result", True, "toy-v1.0")
    assert result["write_nbytes"] > 0
    after = snapshot(shop.path)
    assert {name for name in after if before.get(name) != after[name]} == {"release.yaml"}  # written by this test
    assert not shop.registry.exists()


def test_the_option_names_the_registry_before_the_recipe_and_the_recipe_before_the_environment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_REGISTRY", str(shop.path / "of the environment"))
    assert shop.release(f"--registry '{shop.path}/of the option'") == 0
    assert not shop.registry.exists()
    assert shop.release() == 0
    assert shop.published() == ["toy-v1.0"]
    assert not (shop.path / "of the environment").exists()
    shop.recipe["publish"] = {}
    assert shop.release() == 0
    assert (shop.path / "of the environment/artifacts/toy-v1.0").is_dir()
    assert (shop.path / "of the option/artifacts/toy-v1.0").is_dir()


def test_restart_makes_anew_what_waits(shop: Shop, capfd: Capture) -> None:
    shop.recipe["validate"] = {"gates": {"min_survival": 1.5}}
    shop.release()
    capfd.readouterr()
    shop.release("--json")
    assert [line["before"] for line in lines_of(capfd) if line["type"] == "made"] == [True]
    shop.release("--restart --json")
    assert [line["before"] for line in lines_of(capfd) if line["type"] == "made"] == [False]


# -- exit codes ---------------------------------------------------------------------------------------------------


def test_one_format_that_fails_its_gate_is_exit_1_and_the_other_is_published(demo: Shop, capfd: Capture) -> None:
    samples = [json.dumps({"prompt": one.prompt, "expected": one.expected}) for one in TASK.samples[:2]]
    (demo.path / "dates.jsonl").write_text("\n".join(samples))
    demo.recipe |= {
        "formats": ["safetensors", {"format": "gguf:Q4_0", "gates": {"max_kl": 0.0}}],
        "validate": {"samples": ["dates.jsonl"], "new_tokens": 4, "logit_tokens": 16, "gates": {"max_kl": 9.0}},
    }  # fmt: skip
    assert demo.release() == 1
    data, talk = capfd.readouterr()
    published = [line.split()[1] for line in data.splitlines() if line.startswith("Published")]
    assert published == ["toy-v1.0"] == demo.published()
    assert "Kept out   toy-v1.0-q4_0: a gate failed: `validate.gates.max_kl`" in data
    assert "1 of 2 artifacts kept out of the registry" in talk


def test_a_format_that_cannot_hold_a_value_is_exit_13_and_the_other_is_published(
    tmp_path: Path, capfd: Capture
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(assets.base(), tmp_path / "base")
    file = base / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name][0, 0] = torch.tensor(1e6, dtype=tensors[name].dtype)  # beyond float16, within bfloat16
    save_file(tensors, file, {"format": "pt"})
    shop = Shop(tmp_path, "base", str(TASK.adapter))
    shop.recipe["formats"] = ["safetensors", "gguf:F16"]
    assert shop.release() == 13
    assert shop.published() == ["toy-v1.0"]
    assert "toy-v1.0-f16" in capfd.readouterr().out


def test_a_name_that_has_other_bytes_is_exit_15_with_the_way_out(shop: Shop, capfd: Capture) -> None:
    shop.release()
    capfd.readouterr()
    shop.recipe["adapters"] = [{"adapter": "lora", "weight": 0.5}]
    assert shop.release() == 15
    assert "another name or version" in error_of(capfd)


def test_too_little_room_is_exit_14_before_anything_is_made(
    shop: Shop, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingot.plan.budget.free_nbytes", lambda _: 1000)
    assert shop.release() == 14
    assert "--registry" in error_of(capfd)
    assert not shop.registry.exists()


# -- mistakes -----------------------------------------------------------------------------------------------------


def _adapter_of_another_model(shop: Shop) -> None:
    tensors = make_adapter(shop.path / "other")
    wide = {name: tensor.repeat(3, axis=1 if "lora_A" in name else 0) for name, tensor in tensors.items()}
    make_adapter(shop.path / "wide", wide)
    shop.recipe["adapters"] = ["wide"]


def _no_tokenizer(shop: Shop) -> None:
    (shop.path / "samples.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    shop.recipe["validate"] = {"samples": ["samples.jsonl"]}


def _no_chat_template(shop: Shop) -> None:
    shutil.copytree(assets.base(), shop.path / "chatless")
    (shop.path / "chatless/chat_template.jinja").unlink()
    (shop.path / "samples.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    shop.recipe |= {
        "base": "chatless", "adapters": [str(TASK.adapter)], "validate": {"samples": ["samples.jsonl"], "chat": True}
    }  # fmt: skip


def _samples_that_are_no_samples(shop: Shop) -> None:
    (shop.path / "notes.jsonl").write_text("dear diary")
    shop.recipe["validate"] = {"samples": ["notes.jsonl"]}


def _changed(**keys: object) -> Callable[[Shop], None]:
    return lambda shop: shop.recipe.update(keys)


def _published(**keys: object) -> Callable[[Shop], None]:
    return lambda shop: shop.recipe["publish"].update(keys)


def _format(**keys: object) -> Callable[[Shop], None]:
    def change(shop: Shop) -> None:
        (shop.path / "notes.txt").write_text("hello")
        shop.recipe |= {"base": str(assets.base()), "adapters": [str(TASK.adapter)], "formats": [keys]}

    return change


MISTAKES: dict[str, tuple[Callable[[Shop], None], int, str]] = {
    "another version of the recipe": (_changed(ingot=2), 2, "pip install -U"),
    "an unknown key": (_changed(adaptors=["lora"]), 2, "`adapters`"),
    "no format": (_changed(formats=[]), 2, "at least one"),
    "a format that there is not": (_changed(formats=["gguf:Q9_X"]), 2, "$.formats[0]"),
    "a format twice": (_changed(formats=["safetensors", "safetensors"]), 2, "one name"),
    "a base that is not there": (_changed(base="./nowhere"), 10, "nowhere"),
    "an adapter that is not there": (_changed(adapters=["./nowhere"]), 11, "nowhere"),
    "an adapter of another model": (_adapter_of_another_model, 12, "q_proj"),
    "a base that makes no GGUF": (_changed(formats=["gguf:Q8_0"]), 10, "`formats[].llama_cpp`"),
    "an imatrix that is none": (_format(format="gguf:Q8_0", imatrix="notes.txt"), 2, "ingot imatrix"),
    "a converter that is none": (_format(format="gguf:Q8_0", llama_cpp="lora"), 2, "`formats[].llama_cpp`"),
    "samples that are none": (_samples_that_are_no_samples, 2, "notes.jsonl:1"),
    "a metric that there is not": (_changed(validate={"samples": ["notes.jsonl"], "metric": "same"}), 2, "notes.jsonl"),
    "no tokenizer": (_no_tokenizer, 10, "cannot be asked anything"),
    "no chat template": (_no_chat_template, 2, "`validate.chat`"),
    "a tag that is none": (_published(tags=["a b"]), 2, "$.publish.tags[0]"),
    "a push to nowhere": (_published(push=["s3://bucket/{name}"]), 2, "hf://org/name"),
    "a push without a token": (_published(push=["hf://acme/{name}"]), 15, "hf auth login"),
    "a registry that is a file": (_published(registry="lora/adapter_config.json"), 2, "--registry"),
    "a registry below a file": (_published(registry="lora/adapter_config.json/x"), 2, "--registry"),
    "a registry that is something else": (_published(registry="lora"), 2, "something else"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_a_hint_before_anything_is_made(
    shop: Shop, capfd: Capture, mistake: str
) -> None:
    make, code, said = MISTAKES[mistake]
    make(shop)
    before = set(os.listdir(shop.path / "lora"))
    assert shop.release() == code
    message = error_of(capfd)
    assert said in message
    assert "`ingot --help`" not in message
    assert not shop.registry.exists()
    assert set(os.listdir(shop.path / "lora")) == before


@pytest.mark.parametrize(("name", "text"), [("missing", None), ("empty", ""), ("a directory", None), ("blank", "\n")])
def test_what_is_no_recipe_is_exit_2_and_init_writes_one(
    tmp_path: Path, capfd: Capture, name: str, text: str | None
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    elif name != "missing":
        (tmp_path / name).mkdir()
    assert run_here(f"release '{name}'", tmp_path) == 2
    assert "ingot init" in error_of(capfd)


def test_a_push_to_mlflow_without_a_server_is_found_before_the_merge(shop: Shop, capfd: Capture) -> None:
    shop.recipe["publish"]["push"] = ["mlflow:toy"]
    assert shop.release() == 2
    assert "MLFLOW_TRACKING_URI" in error_of(capfd)
    assert not shop.registry.exists()


def test_a_push_that_fails_says_that_all_is_published(
    shop: Shop, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.errors import ResourceError

    def fail(*_: object) -> dict[str, object]:
        raise ResourceError("the Hub cannot be reached", hint="Later.")

    shop.recipe["publish"]["push"] = ["hf://acme/{name}"]
    monkeypatch.setattr("ingot.registry.push.hub_look.get_token", lambda: "a token")
    monkeypatch.setattr("ingot.release.run.push", fail)
    assert shop.release() == 14
    assert "all is published" in error_of(capfd)
    assert shop.published() == ["toy-v1.0"]


def test_a_second_run_of_the_same_release_is_refused_while_the_first_is_at_it(shop: Shop, capfd: Capture) -> None:
    from ingot.registry.store import Registry
    from ingot.storage.disk import PosixDisk

    registry = Registry.open(shop.registry, create=True)
    lock = PosixDisk().lock(registry.layout.work / ".toy-v1.0.release-lock")
    try:
        assert shop.release() == 15
        assert "another release makes this artifact" in error_of(capfd)
    finally:
        lock.release()
    assert shop.release() == 0


# -- stopped ------------------------------------------------------------------------------------------------------

_STOPPED = """
import os, signal, sys
import {module}
inner = {module}.{function}
def stopped(*given, **named):
    os.kill(os.getpid(), signal.SIGINT)
    return inner(*given, **named)
{module}.{function} = stopped
from ingot.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "function"),
    [("ingot.release.recipe", "read_recipe"), ("ingot.release.planning", "prepare_formats"),
     ("ingot.release.run", "_make"), ("ingot.release.run", "_validate"), ("ingot.release.run", "_keep_adapters")],
)  # fmt: skip
def test_ctrl_c_ends_any_phase_and_the_same_command_goes_on(shop: Shop, module: str, function: str) -> None:
    shop.recipe["validate"] = {}
    (shop.path / "release.yaml").write_text(yaml.safe_dump(shop.recipe))
    script = _STOPPED.format(module=module, function=function)
    ended = ingot("release", "release.yaml", cwd=shop.path, script=script)
    assert ended.returncode == 130, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr
    assert b"hint: " in ended.stderr
    assert shop.release() == 0
    assert shop.published() == ["toy-v1.0"]
    assert [name for name in os.listdir(shop.registry / "work") if name != "evaluations"] == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom ingot.cli import main\nmain(['release', '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'mlflow', 'sqlite3')))"
    )
    shown = ingot(cwd=tmp_path, script=script)
    assert shown.returncode == 0
    assert shown.stdout.index(b"Examples") < shown.stdout.index(b"Arguments")
