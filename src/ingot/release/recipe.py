"""A recipe that was read: its paths resolved, its values checked, and what is derived from them.

recipe = read_recipe(Path("release.yaml"))
for form in recipe.formats:
    prepare(recipe.base.model, recipe.weighted, recipe.options_for(form), imatrix=..., target=...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.plan.model import Options
from ingot.release.form import AdapterForm, BaseForm, FormatForm, MergeForm, PublishForm, ValidateForm

if TYPE_CHECKING:
    from ingot.record.form import Release
    from ingot.validate.gates import Limits


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Attributes:
        path: its file, absolute.
        sha256: of the file's bytes.
        written: the document as plain values, as it stands in the file.
        name, version: as written; None where left out.
        base, adapters, merge, formats, validate, publish: with every path absolute, strings made objects, and
            Hub ids as `org/name@revision`. `validate` None: the recipe has no such part.
    """

    path: Path
    sha256: str
    written: Mapping[str, Any]
    name: str | None
    version: str | None
    base: BaseForm
    adapters: tuple[AdapterForm, ...]
    merge: MergeForm
    formats: tuple[FormatForm, ...]
    validate: ValidateForm | None
    publish: PublishForm

    @property
    def weighted(self) -> tuple[tuple[str, float], ...]:
        """Each adapter and its weight, as `merge.prepare` takes them."""
        return tuple((entry.adapter, entry.weight) for entry in self.adapters)

    @property
    def reference(self) -> str:
        """Base and adapters as one spec for `validate.request.Request.reference`: BASE+ADAPTER=0.7+OTHER=0.3."""
        raise NotImplementedError

    def artifact_name(self, form: FormatForm) -> str:
        """The name under which this format is published; unique in the recipe. See `names`."""
        raise NotImplementedError

    def options_for(self, form: FormatForm) -> Options:
        """What changes this artifact's bytes. Reads the importance matrix and the converter for their digests.

        Raises:
            UsageError: one of them cannot be read.
        """
        raise NotImplementedError

    def limits_for(self, form: FormatForm) -> Limits:
        """The gates of this artifact: its own, else the general ones, else the defaults."""
        raise NotImplementedError

    def release_of(self, form: FormatForm) -> Release:
        """What this artifact's record says of the release; names in the place of paths, no user and no token."""
        raise NotImplementedError

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, such as a name that says nothing."""
        raise NotImplementedError


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file `path`. Nothing that it names need be there yet, but what decides is checked.

    Raises:
        UsageError: the file cannot be read, is no strict YAML, or says what no recipe says; `where` has file, line and
            the path of the key.
    """
    raise NotImplementedError


def public_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, with public names in the place of every path and place (`record.form.Release`)."""
    raise NotImplementedError
