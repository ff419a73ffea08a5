"""The directory of a zip file whose members are stored, not compressed: where in the file each member's bytes are.

    file = members | central directory | [zip64 end record | zip64 locator] | end record (22 bytes, no comment)

Stricter than `zipfile`, which searches for an end record, takes what it claims, and unpacks: here the records stand at
the one place where they may stand, whatever is told twice must agree, and members may not overlap.
Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.6 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from ingot.errors import IngotError, UnsafeInputError
from ingot.formats.names import has_control
from ingot.formats.raw_bytes import file_nbytes, read_exactly

MAX_NMEMBERS = 1_000_000
MAX_DIRECTORY_NBYTES = 128 * 2**20

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_SIZES_FOLLOW = 1 << 3
_PLAIN_FLAGS = _SIZES_FOLLOW | 1 << 11  # and: the name is UTF-8


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: its local header is at `begin`, its data ends by `limit`, where the next thing begins."""

    name: str
    nbytes: int
    crc32: int
    begin: int
    limit: int


class _Entry(NamedTuple):
    name: str
    nbytes: int
    crc32: int
    begin: int


class StoredZip:
    """The members of an open zip file, by name."""

    def __init__(self, fd: int, *, file: str, incomplete: type[IngotError]) -> None:
        """Read the central directory.

        Raises:
            incomplete: the file does not end as a zip file ends, so it was cut off, or it cannot be read.
            UnsafeInputError: a compressed or encrypted member, an unsafe or repeated name, members that overlap, or
                records that contradict each other.
        """
        self._fd, self._file, self._incomplete = fd, file, incomplete
        begin, end, count = self._find_directory(file_nbytes(fd, file=file))
        entries = self._entries(self.read(begin, end), count)
        self.members = {entry.name: entry for entry in self._with_limits(entries, begin)}
        if len(self.members) != len(entries):
            self._refuse("two members of the zip have one name")

    def read(self, begin: int, end: int) -> bytes:
        """file[begin, end)."""
        return read_exactly(self._fd, begin, end, file=self._file, incomplete=self._incomplete)

    def data_range(self, member: Member) -> tuple[int, int]:
        """The `[begin, end)` of the member's bytes in the file; its local header must say what the directory says."""
        if member.begin + _LOCAL.size > member.limit:
            self._refuse("zip members overlap", member.name)
        fields = _LOCAL.unpack(self.read(member.begin, member.begin + _LOCAL.size))
        signature, _, flags, method, _, _, crc, packed, unpacked, name_nbytes, extra_nbytes = fields
        begin = member.begin + _LOCAL.size + name_nbytes + extra_nbytes
        if signature != b"PK\x03\x04" or method != 0 or flags & ~_PLAIN_FLAGS:
            self._refuse("zip directory points at something else than a stored member", member.name)
        if begin + member.nbytes > member.limit:
            self._refuse("zip members overlap", member.name)
        name = self.read(member.begin + _LOCAL.size, member.begin + _LOCAL.size + name_nbytes)
        unset = {0} if flags & _SIZES_FOLLOW else set()
        agree = (
            name == member.name.encode("utf-8")
            and {packed, unpacked} <= {member.nbytes, _MAX32} | unset
            and crc in {member.crc32} | unset
        )
        if not agree:
            self._refuse("zip member and zip directory disagree", member.name)
        return begin, begin + member.nbytes

    def content(self, member: Member, *, max_nbytes: int) -> bytes:
        """The bytes of a small member, checksum proven."""
        begin, end = self.data_range(member)
        if end - begin > max_nbytes:
            self._refuse(f"member is larger than {max_nbytes} bytes", member.name)
        data = self.read(begin, end)
        if zlib.crc32(data) != member.crc32:
            raise self._incomplete("checksum differs, the file is damaged", where=f"{member.name} in {self._file}")
        return data

    def _find_directory(self, size: int) -> tuple[int, int, int]:
        """Begin and end of the central directory, and its number of entries."""
        tail_begin = max(0, size - _END.size - _LOCATOR64.size - _END64.size)
        tail = self.read(tail_begin, size)
        if tail[-_END.size :][:4] != b"PK\x05\x06" or len(tail) < _END.size:
            what = "zip file has no end record, or a comment after it"
            raise self._incomplete(what, where=self._file, hint="It may be cut off: get the file again.")
        _, disk, directory_disk, here, total, nbytes, begin, comment = _END.unpack(tail[-_END.size :])
        end = size - _END.size
        small = (here, total, nbytes, begin)
        if tail[-_END.size - _LOCATOR64.size :][:4] == b"PK\x06\x07":
            end, large = self._find_directory64(tail[: -_END.size], end)
            if any(
                a not in (b, limit) for a, b, limit in zip(small, large, (_MAX16,) * 2 + (_MAX32,) * 2, strict=True)
            ):
                self._refuse("the two end records of the zip disagree")
            here, total, nbytes, begin = large
        if disk or directory_disk or comment or here != total or begin + nbytes != end:
            self._refuse("the end record of the zip is wrong")
        if total > MAX_NMEMBERS or nbytes > MAX_DIRECTORY_NBYTES:
            self._refuse("the zip has too many members")
        return begin, end, total

    def _find_directory64(self, tail: bytes, end: int) -> tuple[int, tuple[int, int, int, int]]:
        """Where the zip64 end record begins, and its (entries here, entries, nbytes, begin)."""
        begin = end - _LOCATOR64.size - _END64.size
        _, locator_disk, offset, disks = _LOCATOR64.unpack(tail[-_LOCATOR64.size :])
        if begin < 0 or offset != begin or locator_disk or disks != 1:
            self._refuse("the zip64 locator is wrong")
        fields = _END64.unpack(tail[-_LOCATOR64.size - _END64.size : -_LOCATOR64.size])
        signature, record_nbytes, _, _, disk, directory_disk, *large = fields
        if signature != b"PK\x06\x06" or record_nbytes != _END64.size - 12 or disk or directory_disk:
            self._refuse("the zip64 end record is wrong")
        here, total, nbytes, directory_begin = large
        return begin, (here, total, nbytes, directory_begin)

    def _entries(self, directory: bytes, count: int) -> list[_Entry]:
        entries: list[_Entry] = []
        pos = 0
        while pos < len(directory):
            if pos + _CENTRAL.size > len(directory) or len(entries) == count:
                self._refuse("the zip directory is malformed")
            entry, pos = self._entry(directory, pos)
            entries.append(entry)
        if len(entries) != count:
            self._refuse("the zip directory is malformed")
        return entries

    def _entry(self, directory: bytes, pos: int) -> tuple[_Entry, int]:
        fields = _CENTRAL.unpack_from(directory, pos)
        signature, _, _, flags, method, _, _, crc, packed, unpacked = fields[:10]
        name_nbytes, extra_nbytes, comment_nbytes, disk, _, _, begin = fields[10:]
        pos += _CENTRAL.size
        end = pos + name_nbytes + extra_nbytes
        if signature != b"PK\x01\x02" or end > len(directory) or disk or comment_nbytes:
            self._refuse("the zip directory is malformed")
        name = self._name(directory[pos : pos + name_nbytes])
        if flags & ~_PLAIN_FLAGS:
            self._refuse("zip member is encrypted or of an unknown kind", name)
        if method != 0:
            self._refuse("zip member is compressed, which torch.save never does", name)
        values = [unpacked, packed, begin]
        if _MAX32 in values:
            values = self._zip64(directory[pos + name_nbytes : end], values, name)
        if values[0] != values[1]:
            self._refuse("zip member has two sizes", name)
        return _Entry(name, values[0], crc, values[2]), end

    def _zip64(self, extra: bytes, values: list[int], name: str) -> list[int]:
        """`values` with each one that did not fit 32 bits taken from the extra field of tag 1, in order."""
        pos, tag, field = 0, 0, b""
        while tag != 1 and pos + 4 <= len(extra):
            tag, nbytes = struct.unpack_from("<HH", extra, pos)
            field = extra[pos + 4 : pos + 4 + nbytes]
            pos += 4 + nbytes
        if tag != 1 or len(field) < 8 * values.count(_MAX32):
            self._refuse("zip member lacks its 64-bit sizes", name)
        wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
        return [next(wide) if value == _MAX32 else value for value in values]

    def _name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._refuse("name of a zip member is not UTF-8", repr(raw))
        parts = name.split("/")
        if has_control(name) or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
            self._refuse("name of a zip member leaves the archive", repr(name))
        return name

    def _with_limits(self, entries: list[_Entry], directory_begin: int) -> list[Member]:
        """Entries in file order, each with the offset at which the next one, or the directory, begins."""
        ordered = sorted(entries, key=lambda entry: entry.begin)
        limits = [entry.begin for entry in ordered[1:]] + [directory_begin]
        members = [Member(*entry, limit) for entry, limit in zip(ordered, limits, strict=True)]
        for member in members:
            if member.begin + _LOCAL.size + member.nbytes > member.limit:
                self._refuse("zip members overlap", member.name)
        return members

    def _refuse(self, what: str, name: str | None = None) -> NoReturn:
        raise UnsafeInputError(what, where=self._file if name is None else f"{name} in {self._file}")
