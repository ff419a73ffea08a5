"""The journal is believed as far as it is exactly what was written, and no further."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.storage import Finished, PosixDisk, Staging
from ingot.storage.journal import Journal, parse_journal, read_journal
from tests.storage.faulty_disk import FaultyDisk
from tests.storage.toy import content_of, make, read_output

IDENTITY = {"plan": "plan", "tool": "1"}
ENTRIES = {"a": Finished(3, "aa", {"t": [1, 2.5, None, "é"]}), "b": Finished(4, "bb"), "c": Finished(5, "cc")}


def written(path: Path) -> bytes:
    journal = Journal.begin(PosixDisk(), path, IDENTITY)
    for name, entry in ENTRIES.items():
        journal.append(name, entry)
    journal.close()
    return path.read_bytes()


def believed(data: bytes) -> dict[str, Finished] | None:
    """What is believed of a journal with content `data`; a prefix of the truth, with the true identity, or nothing."""
    text = parse_journal(data)
    if text is None:
        return None
    assert text.identity == IDENTITY
    assert list(text.finished.items()) == list(ENTRIES.items())[: len(text.finished)]
    assert data[: text.nbytes].count(b"\n") == 1 + len(text.finished)
    return dict(text.finished)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert believed(written(path)) == ENTRIES
    assert read_journal(path) == parse_journal(path.read_bytes())
    assert read_journal(tmp_path / "none") is None


def test_a_flip_of_any_bit_ends_the_trusted_part_at_its_line(tmp_path: Path) -> None:
    data = written(tmp_path / "j")
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        line = data[: bit // 8].count(b"\n")
        found = believed(bytes(flipped))
        assert found is None if line == 0 else len(found or ()) == line - 1, bit


def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    data = written(tmp_path / "j")
    for end in range(len(data)):
        found = believed(data[:end])
        lines = data[:end].count(b"\n")
        assert found is None if lines == 0 else len(found or ()) == lines - 1


def test_lines_lost_repeated_or_moved_are_not_believed(tmp_path: Path) -> None:
    identity, a, b, c = written(tmp_path / "j").splitlines(keepends=True)
    for lines, count in (
        ([identity, b, c], 0), ([identity, a, c], 1), ([identity, a, a], 1), ([identity, b, a], 0),
        ([identity, a, b"\n", b], 1), ([identity, a, b, b"\0" * 4096], 2), ([identity, a, b" " + b], 1),
    ):  # fmt: skip
        assert len(believed(b"".join(lines)) or ()) == count
    assert believed(a + b) is None


def test_a_torn_tail_is_cut_before_the_next_line_is_added(tmp_path: Path) -> None:
    path = tmp_path / "j"
    identity, a, b, _ = written(path).splitlines(keepends=True)
    path.write_bytes(identity + a + b[:-5])
    text = read_journal(path)
    assert text is not None
    journal = Journal.resume(PosixDisk(), path, text)
    journal.append("b", ENTRIES["b"])
    journal.close()
    assert path.read_bytes() == identity + a + b


def test_a_name_that_is_a_path_is_not_believed(tmp_path: Path) -> None:
    journal = Journal.begin(PosixDisk(), tmp_path / "j", IDENTITY)
    journal.append("../../x", ENTRIES["a"])
    journal.close()
    text = read_journal(tmp_path / "j")
    assert text is not None
    assert text.finished == {}


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flip_of_a_journal_bit_ever_leads_to_wrong_bytes(tmp_path: Path, step: int) -> None:
    """The whole way: an interrupted run, one bit of its journal flipped, one staged file stale, the same command."""
    content = content_of("plan")
    graveyard, target = tmp_path / "graveyard", tmp_path / "x" / "out"
    graveyard.mkdir()
    (tmp_path / "x").mkdir()
    with Staging.open(FaultyDisk(graveyard), target, IDENTITY) as staging:
        staging.write("config.json", content["config.json"])
    (work,) = target.parent.iterdir()
    journal = (work / "journal.jsonl").read_bytes()
    target.parent.rename(tmp_path / "moved")
    for bit in range(0, len(journal) * 8, step):
        work.mkdir(parents=True)
        (work / "files").mkdir()
        stale = bit // step % 2 == 0
        (work / "files" / "config.json").write_bytes(b"wrong" if stale else content["config.json"])
        flipped = bytearray(journal)
        flipped[bit // 8] ^= 1 << bit % 8
        (work / "journal.jsonl").write_bytes(flipped)
        make(FaultyDisk(graveyard), target)
        assert read_output(target) == content
        target.parent.rename(tmp_path / f"done{bit}")
