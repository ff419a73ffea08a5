"""The files of a GGUF model are found by what a user names, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from ingot.errors import BaseError, UnsafeInputError, UsageError
from ingot.validate.gguf_files import GgufFiles, GgufModel, gguf_subject, locate_gguf
from tests.validate.makers import gguf_of, save_ggufs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ggufs(tmp_path_factory.mktemp("gguf") / "made", "Q8_0", "Q4_K_M")


def touch(directory: Path, *names: str) -> list[Path]:
    for name in names:
        (directory / name).touch()
    return [directory / name for name in names]


def test_a_directory_with_one_model_means_that(tmp_path: Path) -> None:
    (file,) = touch(tmp_path, "model.gguf")
    assert locate_gguf(tmp_path) == GgufModel((file,))
    assert locate_gguf(file).name == "model.gguf"


def test_of_several_models_the_user_must_name_one(tmp_path: Path) -> None:
    touch(tmp_path, "b-Q8_0.gguf", "a-Q4_K_M.gguf", "ingot.json")
    with pytest.raises(UsageError, match=r"several GGUF models: found a-Q4_K_M\.gguf, b-Q8_0\.gguf") as refusal:
        locate_gguf(tmp_path)
    assert str(tmp_path / "a-Q4_K_M.gguf") in (refusal.value.hint or "")


def test_the_files_of_a_split_are_one_model_whichever_is_named(tmp_path: Path) -> None:
    files = touch(tmp_path, *(f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)))
    for named in (tmp_path, *files):
        assert locate_gguf(named) == GgufModel(tuple(files))
    files[1].unlink()
    with pytest.raises(BaseError, match=r"a file of a split GGUF is missing - at m-00002-of-00003\.gguf"):
        locate_gguf(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="the model does not exist"):
        locate_gguf(tmp_path / "model.gguf")


def test_what_is_no_gguf_never_reaches_llama_cpp(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello, this is a text\n")
    with pytest.raises(BaseError, match="does not begin with GGUF"):
        GgufFiles.open(locate_gguf(tmp_path / "text.gguf"))
    (tmp_path / "link.gguf").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeInputError, match="out of its folder"):
        GgufFiles.open(locate_gguf(tmp_path / "link.gguf"))


@pytest.mark.parametrize("kept", [0, 3, 20, 300_000])
def test_what_is_cut_off_is_said_with_a_way_out(kept: int, made: Path, tmp_path: Path) -> None:
    (tmp_path / "short.gguf").write_bytes(gguf_of(made, "Q4_K_M").read_bytes()[:kept])
    with pytest.raises(BaseError, match=rf"cut off: expected at least \d+ bytes, found {kept}") as refusal:
        GgufFiles.open(locate_gguf(tmp_path / "short.gguf"))
    assert "--to gguf:TYPE" in (refusal.value.hint or "")
    assert refusal.value.as_json()["error"] == "BaseError"


def gguf_with(path: Path, **keys: str | int) -> Path:
    writer = GGUFWriter(path, "llama")
    for key, value in keys.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint16
        add(key.replace("_", "."), value)  # type: ignore[arg-type]
    writer.add_tensor("a.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["adapter", "imatrix", "mmproj"])
def test_a_gguf_of_something_else_is_no_model(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=f"holds no model: expected general.type model, found {kind}"):
        GgufFiles.open(locate_gguf(gguf_with(tmp_path / "other.gguf", general_type=kind)))
    GgufFiles.open(locate_gguf(gguf_with(tmp_path / "silent.gguf"))).close()


def test_a_file_of_a_split_under_another_name_is_refused(tmp_path: Path) -> None:
    def part(name: str, number: int, count: int = 2) -> Path:
        return gguf_with(tmp_path / name, split_no=number, split_count=count)

    first, second = part("m-00001-of-00002.gguf", 0), part("m-00002-of-00002.gguf", 1)
    GgufFiles.open(locate_gguf(second)).close()
    second.rename(tmp_path / "second.gguf")
    with pytest.raises(BaseError, match=r"expected the name of file 2 of 2, NAME-00002-of-00002\.gguf - at second"):
        GgufFiles.open(locate_gguf(tmp_path / "second.gguf"))
    part("m-00002-of-00002.gguf", 0)
    with pytest.raises(BaseError, match=r"name of file 1 of 2, .* - at m-00002"):
        GgufFiles.open(locate_gguf(first))
    part("m-00002-of-00002.gguf", 1, 3)
    with pytest.raises(BaseError, match=r"name of file 2 of 3"):
        GgufFiles.open(locate_gguf(first))
    gguf_with(tmp_path / "m-00002-of-00002.gguf", split_no="one")
    with pytest.raises(UnsafeInputError, match=r"split\.\*"):
        GgufFiles.open(locate_gguf(first))


def test_the_subject_names_type_and_runtime_and_its_digest_is_of_the_bytes(made: Path, tmp_path: Path) -> None:
    def subject(path: Path) -> tuple[str, str | None, str | None]:
        files = GgufFiles.open(locate_gguf(path))
        try:
            found = gguf_subject(files)
        finally:
            files.close()
        assert found.kind == "GGUF"
        return found.name, found.dtype, found.digest

    name, dtype, digest = subject(gguf_of(made, "Q4_K_M"))
    assert name == "ingot-demo-base-dates-Q4_K_M.gguf"
    assert str(dtype).startswith("Q4_K_M, xllamacpp 20")
    assert digest != subject(gguf_of(made, "Q8_0"))[2]
    changed = bytearray(gguf_of(made, "Q4_K_M").read_bytes())
    changed[-1] ^= 1
    (tmp_path / name).write_bytes(changed)
    assert subject(tmp_path / name)[2] != digest
