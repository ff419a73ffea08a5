"""A recipe that was read: its paths resolved, its values checked, and what is derived from them.

recipe = read_recipe(Path("release.yaml"))
for form in recipe.formats:
    prepare(recipe.base.model, recipe.weighted, recipe.options_for(form), imatrix=..., target=...)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import UsageError
from ingot.kernels.spelling import DTYPES
from ingot.plan.model import GgufOptions, Options
from ingot.quantize.gguf import asked
from ingot.release import names
from ingot.release.form import AdapterForm, BaseForm, FormatForm, MergeForm, PublishForm, RecipeForm, ValidateForm
from ingot.storage.inputs import InputFile

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
            Hub ids as `org/name@revision`; `merge.take` are numbers. `validate` None: the recipe has no such part.
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
        return "+".join([self.base.model, *(f"{name}={weight!r}" for name, weight in self.weighted)])

    def artifact_name(self, form: FormatForm) -> str:
        """The name under which this format is published; unique in the recipe. See `names`."""
        return names.artifact_name(self.base, self.adapters, form.format, name=self.name, version=self.version)

    def filled(self, template: str, form: FormatForm) -> str:
        """One of `publish.tags` or `publish.push` for this artifact, its placeholders filled in."""
        name = self.artifact_name(form)
        return names.filled(template, name=name, format_name=form.format, version=self.version)

    def options_for(self, form: FormatForm) -> Options:
        """What changes this artifact's bytes. Reads the importance matrix and the converter for their digests.

        Raises:
            UsageError: one of them cannot be read.
        """
        merge = self.merge
        return Options(
            dtype=DTYPES[merge.dtype] if merge.dtype else None,
            rounding=str(merge.rounding), assume_peft_version=merge.assume_peft_version,
            accept_nonfinite_base=merge.accept_nonfinite_base, accept_missing=merge.accept_missing, seed=merge.seed,
            method=str(merge.method), density=merge.density, lambda_=merge.lambda_,
            majority_sign=str(merge.majority_sign), gamma=merge.gamma, epsilon=merge.epsilon,
            take=tuple(int(number) for number in merge.take), component=merge.component,
            expert_layout=merge.expert_layout, base_as=merge.base_as, gguf=_gguf(form),
        )  # fmt: skip

    def limits_for(self, form: FormatForm) -> Limits:
        """The gates of this artifact: its own, else the general ones, else the defaults."""
        from ingot.validate.gates import Limits

        general = self.validate.gates if self.validate is not None else None
        given: dict[str, float] = {}
        for gates in (general, form.gates):
            said = {} if gates is None else {name: getattr(gates, name) for name in gates.__struct_fields__}
            given |= {name: float(value) for name, value in said.items() if value is not None}
        return Limits(**given)

    def release_of(self, form: FormatForm) -> Release:
        """What this artifact's record says of the release; names in the place of paths, no user and no token."""
        from ingot.record.form import AdapterLabel, Release
        from ingot.release.publicly import public_run

        labels = tuple(
            AdapterLabel(entry.version, None if entry.training_run is None else public_run(entry.training_run))
            for entry in self.adapters
        )
        return Release(
            name=names.series_of(self.base, self.adapters, self.name), version=self.version, format=form.format,
            base_version=self.base.version, adapters=labels, recipe=public_tree(self), recipe_sha256=self.sha256,
        )  # fmt: skip

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, such as a name that says nothing."""
        better = names.suggest(self.name, self.base, self.adapters) if self.name else None
        if better is None:
            return ()
        return (f"the name {self.name} says nothing of what is in it; {better} would, and so does leaving it out",)


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file `path`. Nothing that it names need be there yet, but what decides is checked.

    Raises:
        UsageError: the file cannot be read, is no strict YAML, or says what no recipe says; `where` has file, line and
            the path of the key.
    """
    from ingot.release import strict_yaml
    from ingot.release.checking import checked
    from ingot.release.resolving import resolved

    path = path.expanduser().absolute()
    if not path.is_file():
        what = "the recipe is a directory" if path.is_dir() else "the recipe does not exist"
        raise UsageError(what, where=path, hint="Write one with `ingot init BASE ADAPTER -o RECIPE.yaml`.")
    with InputFile.open(path.parent, path.name, error=UsageError) as file:
        data = file.read(0, min(file.nbytes, strict_yaml.MAX_NBYTES + 1))
    document = strict_yaml.loads(data, name=path.name)
    form = resolved(document, checked(document, RecipeForm), path.parent)
    return Recipe(
        path, hashlib.sha256(data).hexdigest(), document.value, form.name, form.version, _base(form.base),
        tuple(entry for entry in form.adapters if isinstance(entry, AdapterForm)), form.merge,
        tuple(entry for entry in form.formats if isinstance(entry, FormatForm)), form.validate, form.publish,
    )  # fmt: skip


def public_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, with public names in the place of every path and place (`record.form.Release`)."""
    from ingot.release.publicly import public

    return public(recipe)


def _base(base: str | BaseForm) -> BaseForm:
    return base if isinstance(base, BaseForm) else BaseForm(base)


def _gguf(form: FormatForm) -> GgufOptions | None:
    types = asked.file_types([form.format])
    if not types:
        return None
    size = form.split_size
    split = 0 if size is None else asked.split_nbytes(str(size), "split_size")
    imatrix, llama_cpp = (None if text is None else Path(text) for text in (form.imatrix, form.llama_cpp))
    return asked.gguf_options(types, pre=form.pre, split=split, imatrix=imatrix, llama_cpp=llama_cpp)
