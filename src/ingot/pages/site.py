"""What one page is made from: the registry as it is at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ingot.errors import CheckFailed
from ingot.pages.graph import Family
from ingot.registry.entry import Entry
from ingot.registry.layout import REPORT_NAME, Layout
from ingot.registry.store import Registry
from ingot.registry.tags import Tags
from ingot.storage.inputs import InputFile

_MOST_NBYTES = 64 << 20


@dataclass
class Site:
    """One look at the registry. It is made anew for each answer, so that threads share nothing."""

    registry: Registry

    @classmethod
    def at(cls, layout: Layout) -> Site:
        return cls(Registry(layout))

    @cached_property
    def entries(self) -> list[Entry]:
        """Every artifact, the newest first."""
        return self.registry.entries()

    @cached_property
    def by_identity(self) -> dict[str, Entry]:
        return {entry.identity: entry for entry in self.entries}

    @cached_property
    def family(self) -> Family:
        return Family(self.entries)

    @cached_property
    def tags(self) -> Tags:
        return self.registry.tags()

    @property
    def faults(self) -> list[str]:
        """What is missing from `entries`, and why."""
        assert self.entries is not None  # the look that finds them
        found = [f"{path}: left out: {why}" for path, why in sorted(self.registry.faults.items())]
        if self.tags.damaged:
            number = self.tags.damaged[0]
            found.append(f"{self.registry.layout.tags}: line {number} is damaged, so a tag may be missing")
        return found

    def has_report(self, entry: Entry) -> bool:
        return (self.registry.layout.records / entry.identity / REPORT_NAME).is_file()

    def report(self, entry: Entry) -> bytes:
        """The page of the artifact's evaluation. Raises CheckFailed, UnsafeInputError."""
        folder = self.registry.layout.records / entry.identity
        with InputFile.open(folder, REPORT_NAME, error=CheckFailed) as file:
            if file.nbytes > _MOST_NBYTES:
                raise CheckFailed("the report is too large for a page", where=REPORT_NAME, found=file.nbytes)
            return file.read(0, file.nbytes)
