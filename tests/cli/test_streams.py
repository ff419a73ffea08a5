"""stdout is data, stderr is talk; JSON Lines; colours; broken pipes; narrow encodings; help."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ingot.cli import main
from ingot.cli.output import Mode, Output
from tests.cli.toys import MODULES, environment, ingot, json_lines, make_adapter, make_base, run_here

VERBS = ("plan", "merge", "verify", "inspect", "demo", "doctor")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    make_base(root / "base")
    make_adapter(root / "lora")
    assert run_here("merge base lora -o made", root) == 0
    return root


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same directory, as the working directory of this process."""
    monkeypatch.chdir(root)
    return root


# -- data and talk ------------------------------------------------------------------------------------------------


def test_a_merge_writes_the_formula_and_says_what_it_did(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "lora")
    assert run_here("merge base lora=0.5 -o out", tmp_path) == 0
    said, talk = capfd.readouterr()
    written = {name: t for file in (tmp_path / "out").glob("*.safetensors") for name, t in load_file(file).items()}
    assert written.keys() == base.keys()
    for name, tensor in base.items():
        expected = tensor.astype(np.float64)
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in adapter:
            a, b = (adapter[f"{prefix}.lora_{side}.weight"].astype(np.float64) for side in "AB")
            expected = expected + 0.5 * 2.0 * (b @ a)
        np.testing.assert_allclose(written[name].astype(np.float64), expected, rtol=1e-3, atol=1e-6)
    assert "8 of 8 tensors merged" in said
    assert "4 changed, 17 untouched" in said
    assert json.loads((tmp_path / "out" / "ingot.json").read_text())["predicate"]["runDetails"]["metadata"][
        "ingot_identity"
    ] in said  # fmt: skip
    assert "Cost" in talk
    assert "ingot verify out --read" in talk


def test_the_same_merge_again_says_so_and_writes_nothing(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (here / "made").iterdir()}
    assert main(["merge", "base", "lora", "-o", "made"]) == 0
    assert "already is this merge" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (here / "made").iterdir()} == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("arguments", [["base", "lora=2"], ["base", "lora", "--dtype", "fp32"]])
def test_another_merge_into_the_same_output_is_refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", *arguments, "-o", "made"]) == 15
    assert "exists" in capfd.readouterr().err


def test_an_output_of_other_weights_under_the_same_names_is_not_taken_for_this_merge(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    tensors = make_adapter(tmp_path / "lora")
    assert run_here("merge base lora -o out", tmp_path) == 0
    weights = tmp_path / "base" / "model-00001-of-00002.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # header and length stay, so the plan's digest does too
    weights.write_bytes(data)
    assert len(tensors) == 8
    assert run_here("merge base lora -o out", tmp_path) == 15


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "essence"),
    [
        (["plan", "base", "lora"], 64),
        (["merge", "base", "lora", "-o", "made"], 64),
        (["verify", "made"], 2),
        (["inspect", "base"], 10),
    ],
)
def test_quiet_leaves_one_line_of_data(arguments: list[str], essence: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert (len(out.rstrip("\n")), out.count("\n"), err) == (essence, 1, "")


@pytest.mark.usefixtures("here")
def test_quiet_may_stand_among_other_short_flags(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "base", "lora", "-o", "made", "-vq"]) == 0
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.usefixtures("here")
def test_quiet_still_says_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nowhere", "lora", "-q"]) == 10
    out, err = capfd.readouterr()
    assert out == ""
    assert "nowhere" in err


# -- JSON Lines ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "base", "lora", "lora=0.5"],
        ["merge", "base", "lora", "-o", "made"],
        ["verify", "made"],
        ["verify", "made", "--read"],
        ["verify", "made", "--against-inputs", "--base", "base", "--adapter", "lora"],
        ["inspect", "base"],
        ["inspect", "lora"],
        ["inspect", "made"],
        ["inspect", "base/model-00001-of-00002.safetensors"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_every_line_of_json_output_is_an_object_and_the_last_is_the_result(
    arguments: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*arguments, "--json"]) == 0
    lines = json_lines(capfdbinary.readouterr().out)
    assert all(isinstance(line["type"], str) for line in lines)
    assert [line["type"] for line in lines].index("result") == len(lines) - 1
    assert lines[-1]["verb"] == arguments[0]


def test_a_merge_in_json_tells_the_plan_the_progress_and_the_files(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    done = ingot("--json", "merge", "base", "lora", "-o", "out", cwd=tmp_path)
    lines = json_lines(done.stdout)
    assert list(dict.fromkeys(line["type"] for line in lines)) == ["plan", "progress", "result"]
    weights = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert lines[-2]["done"] == lines[-2]["total"] == weights
    names = {file["name"] for file in lines[-1]["files"]}
    assert names | {"ingot.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert lines[-1]["plan_digest"] == lines[0]["digest"]
    assert done.stderr == b""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["plan", "nowhere", "lora"], 10, "BaseError"),
        (["frobnicate"], 2, "UsageError"),
        (["plan", "base", "lora", "--nope"], 2, "UsageError"),
        (["verify", "base"], 1, "CheckFailed"),
    ],
)
def test_an_error_is_the_last_line_of_json_output(
    arguments: list[str], code: int, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*arguments, "--json"]) == code
    last = json_lines(capfdbinary.readouterr().out)[-1]
    assert (last["type"], last["error"], last["exit_code"]) == ("error", name, code)
    assert last["message"]


# -- terminals ----------------------------------------------------------------------------------------------------


def on_a_terminal(arguments: list[str], cwd: Path, **env: str) -> str:
    """What the command writes when stdout and stderr are a terminal."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ingot", *arguments], cwd=cwd, env=environment(**env), stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        data = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux says EIO when the other end is closed
                break
            if not piece:
                break
            data += piece
        process.wait(60)
    os.close(master)
    return data.decode()


def test_a_terminal_gets_colours(root: Path) -> None:
    assert "\x1b[1mBase\x1b[0m" in on_a_terminal(["plan", "base", "lora"], root)


@pytest.mark.parametrize(
    ("env", "flags"), [({"NO_COLOR": "1"}, []), ({"TERM": "dumb"}, []), ({}, ["--no-color"])], ids=str
)
def test_colours_can_be_switched_off(root: Path, env: dict[str, str], flags: list[str]) -> None:
    said = on_a_terminal(["plan", "base", "nowhere", *flags], root, **env)
    assert "error: " in said
    assert "\x1b" not in said


def test_a_bar_moves_on_a_terminal(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    said = on_a_terminal(["merge", "base", "lora", "-o", "out"], tmp_path)
    assert "merging" in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor comes back
    assert (tmp_path / "out" / "ingot.json").is_file()


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("mode", "env", "moving"),
    [
        ("human", {"TERM": "xterm"}, True),
        ("human", {"TERM": "xterm", "NO_COLOR": "1"}, True),
        ("human", {"TERM": "dumb"}, False),
        ("quiet", {"TERM": "xterm"}, False),
        ("json", {"TERM": "xterm"}, False),
    ],
)
def test_a_bar_moves_for_people_on_terminals_that_can(mode: Mode, env: dict[str, str], moving: bool) -> None:
    assert Output(mode, stdout=io.StringIO(), stderr=Terminal(), environment=env).moving == moving
    assert not Output(mode, stdout=Terminal(), stderr=io.StringIO(), environment=env).moving


@pytest.mark.usefixtures("here")
def test_no_colours_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "base", "lora"]) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_control_characters_of_a_name_do_not_reach_the_terminal(root: Path) -> None:
    done = ingot("plan", "\x1b[31mevil\n", "lora", cwd=root)
    assert done.returncode == 10
    assert b"\x1b" not in done.stderr
    assert b"\\x1b[31mevil\\n" in done.stderr


def test_a_name_that_is_not_unicode_is_shown_escaped(root: Path) -> None:
    done = ingot("plan", b"caf\xe9", "lora", cwd=root)
    assert done.returncode == 10
    assert b"Traceback" not in done.stderr


def test_an_ascii_terminal_gets_ascii(root: Path) -> None:
    done = ingot("plan", "base", "lora", cwd=root, **ASCII)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode("ascii")
    assert "W + s*B@A" in said
    assert "x2" in said


def test_an_ascii_terminal_gets_errors_about_any_name(root: Path) -> None:
    done = ingot("plan", "моdel", "lora", cwd=root, **ASCII)
    assert done.returncode == 10
    assert "error: the base does not exist" in done.stderr.decode("ascii")


# -- pipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["plan", "base", "lora"], ["plan", "base", "lora", "--json"], ["--help"], ["merge", "--help"]],
    ids=str,
)
def test_a_reader_that_leaves_is_no_error(root: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ingot", *arguments],
        cwd=root, env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_merge_whose_reader_leaves_is_finished_all_the_same(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_adapter(tmp_path / "lora")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ingot", "merge", "base", "lora", "-o", "out", "--json"],
        cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ingot.json").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["plan", "base", "lora"], ["--help"]], ids=str)
def test_a_full_disk_behind_stdout_is_an_error(root: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ingot", *arguments],
            cwd=root, env=environment(), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 14
    assert b"Traceback" not in done.stderr


# -- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_first_then_options_in_groups(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    said = capfd.readouterr().out
    headings = [line.rstrip(":") for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Examples"
    assert headings[-1] == "Output"
    assert f"  ingot {verb}" in said
    order = [
        "Examples", "Arguments", "What changes the result", "How several adapters become one", "How it runs", "Output",
    ]  # fmt: skip
    assert headings == [heading for heading in order if heading in headings]
    assert all(len(line) <= 100 for line in said.splitlines())


def test_the_help_of_the_command_lists_every_verb_after_the_examples(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capfd.readouterr().out
    assert said.index("Examples:") < said.index("Commands:")
    assert all(f"\n  {verb} " in said for verb in VERBS)


HEAVY = """
import sys
from ingot.cli import main
from ingot.cli.output import Mode, Output
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "transformers", "rich", "huggingface_hub", "safetensors", "msgspec"} & set(sys.modules)
sys.exit(f"imported {sorted(heavy)}" if heavy else code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["merge", "--help"], ["mrege"]], ids=str)
def test_help_and_version_import_nothing_heavy(root: Path, arguments: list[str]) -> None:
    done = ingot(*arguments, cwd=root, script=HEAVY)
    assert done.returncode == (2 if arguments == ["mrege"] else 0), done.stderr.decode()


def test_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    from ingot.version import __version__

    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"ingot {__version__}\n"


def test_the_toys_modules_are_those_of_the_llama(root: Path) -> None:
    files = [load_file(file) for file in (root / "base").glob("*.safetensors")]
    shapes: dict[str, Any] = {name: tensor.shape for file in files for name, tensor in file.items()}
    assert all(shapes[f"model.layers.0.{module}.weight"] == shape for module, shape in MODULES.items())
