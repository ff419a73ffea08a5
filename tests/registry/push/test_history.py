from __future__ import annotations

from pathlib import Path

from ingot.registry.push import Pushed, note, pushes
from ingot.registry.push.history import PUSHES_NAME
from ingot.storage import PosixDisk

DONE = Pushed("hf://acme/support", "https://hub/acme/support/tree/1", "1" * 40, "a" * 64, True, True, True, (), (), 5)


def test_pushes_are_remembered_in_their_order(tmp_path: Path) -> None:
    assert pushes(tmp_path) == ()
    for commit in ("1", "2"):
        note(PosixDisk(), tmp_path, Pushed(**{**vars(DONE), "commit": commit * 40}))
    found = pushes(tmp_path)
    assert [one["commit"] for one in found] == ["1" * 40, "2" * 40]
    assert found[0].keys() == {"at", "target", "url", "commit", "changed"}


def test_a_torn_line_is_left_out_and_written_over(tmp_path: Path) -> None:
    note(PosixDisk(), tmp_path, DONE)
    with open(tmp_path / PUSHES_NAME, "ab") as file:
        file.write(b'{"check":"')
    assert len(pushes(tmp_path)) == 1
    note(PosixDisk(), tmp_path, DONE)
    assert len(pushes(tmp_path)) == 2
