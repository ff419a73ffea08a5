"""From a recipe to all that a release will do: planned before the first byte is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ingot.combine.parameters import Method
from ingot.errors import CheckFailed, OutputError, UsageError
from ingot.kernels.spelling import DTYPES, TORCH
from ingot.merge import Job, Wanted, cores, prepare_formats
from ingot.merge.made import made_before
from ingot.merge.running import check_room, checked_device
from ingot.record import verify
from ingot.record.form import Release
from ingot.registry.entry import Entry, State
from ingot.registry.places import Places, places_of
from ingot.registry.store import Registry
from ingot.registry.tags import check_tag
from ingot.release.form import FormatForm
from ingot.release.pushing import check_targets
from ingot.release.recipe import Recipe
from ingot.release.wording import recipe_words
from ingot.validate.gates import Limits
from ingot.validate.models.llama_process import runtime
from ingot.validate.reading import check_reading
from ingot.validate.request import Checked, Request, check


@dataclass(frozen=True)
class Artifact:
    """One artifact of a release.

    Attributes:
        path: where it is made, in the registry's work/.
        made: a former run has finished it there.
        published: what the registry has of it already.
    """

    form: FormatForm
    name: str
    job: Job
    release: Release
    limits: Limits
    path: Path
    made: bool
    published: Entry | None

    @property
    def is_gguf(self) -> bool:
        return self.job.document is not None

    @property
    def report(self) -> Path:
        """Where its report page waits for the artifact to be published."""
        return self.path.with_name(f"{self.name}.html")

    @property
    def candidate(self) -> str:
        """What `validate` is given."""
        if self.job.document is None:
            return str(self.path)
        return str(self.path / self.job.document.formats[0].files[0].name)

    @property
    def places(self) -> Places:
        """Where its inputs are now."""
        return places_of(self.job, self.name, _path(self.form.imatrix), _path(self.form.llama_cpp))


@dataclass(frozen=True)
class ReleasePlan:
    """All of it. `request` None: nothing is validated."""

    recipe: Recipe
    registry: Registry
    artifacts: tuple[Artifact, ...]
    request: Request | None

    @property
    def to_make(self) -> tuple[Artifact, ...]:
        return tuple(one for one in self.artifacts if not one.made and one.published is None)

    @property
    def nbytes(self) -> int:
        """Bytes that will be written."""
        return sum(one.job.nbytes for one in self.to_make)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before it begins."""
        plans = dict.fromkeys(warning for one in self.artifacts for warning in one.job.plan.warnings)
        unchecked = [one.name for one in self.artifacts if one.published is None and not self.is_checked(one)]
        said = [f"{', '.join(unchecked)}: published without validation: {self.why_unchecked}"] if unchecked else []
        return (*self.recipe.warnings, *plans, *said)

    def is_checked(self, artifact: Artifact) -> bool:
        """Whether there is something to hold this artifact against the reference by."""
        if self.request is None or (self.is_reference(artifact)):
            return False
        return bool(self.request.samples or self.request.harness) or not artifact.is_gguf

    def is_reference(self, artifact: Artifact) -> bool:
        """Whether the others are held against this one, because no adapter-on-base is what the method makes."""
        return not artifact.is_gguf and not _is_sum(self.recipe)

    @property
    def why_unchecked(self) -> str:
        if self.request is None:
            return "the recipe has no `validate`"
        if not _is_sum(self.recipe):
            return f"with method {self.recipe.merge.method} base and adapters as a sum are no reference"
        return "without `samples` or `tasks` a GGUF has nothing to be compared by"


@contextmanager
def planned(
    recipe: Recipe, registry: Registry, *, device: str = "cpu", jobs: int | None = None
) -> Iterator[ReleasePlan]:
    """Plan a release: open base and adapters, plan every artifact, read the samples. Writes nothing.

    Raises:
        UsageError: the recipe asks for what does not fit together, or samples are at fault.
        OutputError: the registry has another artifact of a name.
        ResourceError: all of it does not fit on the disk.
        MissingComponent: a library is not installed.
        BaseError, AdapterError, MismatchError, UnsafeInputError: what a merge raises before it begins.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(recipe_words())
        _check_tags(recipe)
        checked_device(device)
        check_targets(recipe)
        request = _request(recipe, registry, device, jobs)
        names = [recipe.artifact_name(form) for form in recipe.formats]
        paths = [registry.layout.work / name for name in names]
        options = recipe.options_for(recipe.formats[0])
        wanted = [
            Wanted(path, recipe.options_for(form).gguf, _path(form.imatrix), _path(form.llama_cpp))
            for form, path in zip(recipe.formats, paths, strict=True)
        ]
        opened = prepare_formats(recipe.base.model, recipe.weighted, options, wanted, jobs=jobs)
        for job in opened:
            stack.callback(job.close)
        artifacts = tuple(
            _artifact(recipe, registry, form, name, job)
            for form, name, job in zip(recipe.formats, names, opened, strict=True)
        )
        plan = ReleasePlan(recipe, registry, artifacts, request)
        check_room([one.job for one in plan.to_make])
        _check_reading(plan)
        yield plan


def looked_again(plan: ReleasePlan) -> ReleasePlan:
    """The plan with what the registry has of it by now. Raises OutputError: another artifact has a name of it."""
    again = (_artifact(plan.recipe, plan.registry, one.form, one.name, one.job) for one in plan.artifacts)
    return replace(plan, artifacts=tuple(again))


def checked(plan: ReleasePlan, artifacts: Sequence[Artifact]) -> Checked:
    """The evaluation of these artifacts. Raises what `validate.request.check` raises."""
    assert plan.request is not None
    reference = next((one for one in plan.artifacts if plan.is_reference(one)), None)
    request = plan.request
    if reference is not None:
        place = reference.published.place if reference.published else None
        request = replace(request, reference=place or str(reference.path))
    return check(replace(request, candidates=tuple(one.candidate for one in artifacts)))


def _artifact(recipe: Recipe, registry: Registry, form: FormatForm, name: str, job: Job) -> Artifact:
    release, path = recipe.release_of(form), registry.layout.work / name
    return Artifact(
        form, name, job, release, recipe.limits_for(form), path, _is_made(job, path, release),
        _published(registry, name, job, release),
    )  # fmt: skip


def _is_made(job: Job, path: Path, release: Release) -> bool:
    """Whether the very files lie at `path`, made by a former run: the recipe's text may have changed since."""
    record = made_before(job, path)
    own = record.recipe.release if record is not None else None
    return own is not None and own.labels == release.labels


def _published(registry: Registry, name: str, job: Job, release: Release) -> Entry | None:
    """The published artifact that this one would be. Raises OutputError where the name means something else."""
    if not registry.layout.marker.is_file():
        return None  # it is to be made, and not even its index is by now
    target = registry.layout.artifacts / name
    entry = next((e for e in registry.entries() if e.name == name and e.state is State.HERE), None)
    if entry is None:
        if os.path.lexists(target):
            raise OutputError("what has this name in the registry is no artifact that can be read", where=target,
                              hint="Look at it, and remove it; then run the same command again.")  # fmt: skip
        return None
    if not _is_made(job, target, release):
        _check_whole(target)
        registry.check_free(name, None)
    return entry


def _check_whole(artifact: Path) -> None:
    """Raises OutputError: it is damaged, which is another thing than being of another recipe."""
    try:
        verify(artifact).raise_failure()
    except CheckFailed as error:
        raise OutputError(f"the registry's artifact of this name is damaged: {error.what}", where=artifact,
                          hint="Remove its directory; then the same command makes it anew.") from error  # fmt: skip


def _request(recipe: Recipe, registry: Registry, device: str, jobs: int | None) -> Request | None:
    """What `validate` asks for; samples, tasks and the reference are looked at now, and not after the merge.

    Raises what `check` raises.
    """
    asked = recipe.validate
    if asked is None:
        return None
    if not _is_sum(recipe):
        _check_reference(recipe)
    request = Request(
        recipe.reference if _is_sum(recipe) else recipe.base.model, (), asked.samples, asked.metric, asked.chat,
        asked.new_tokens, harness=asked.tasks, harness_dir=_path(asked.tasks_dir), harness_limit=asked.tasks_limit,
        logit_tokens=asked.logit_tokens, dtype=TORCH[DTYPES[asked.dtype]] if asked.dtype else None,
        device=device, jobs=jobs or cores(), seed=asked.seed,
        work=registry.layout.work / "evaluations",
    )  # fmt: skip
    check(request)
    if any(form.format != "safetensors" for form in recipe.formats) and (asked.samples or asked.tasks):
        runtime()
    return request


def _check_reading(plan: ReleasePlan) -> None:
    """Raises BaseError, UsageError: what is to be validated reads no prompts, which would be found after the merge."""
    request = plan.request
    asks = request is not None and (request.samples or request.harness)
    if request is not None and asks and any(one.published is None for one in plan.artifacts):
        check_reading(request.reference, chat=request.chat and _is_sum(plan.recipe))


def _is_sum(recipe: Recipe) -> bool:
    """Whether base + adapters, each with its weight, is what the merge makes."""
    return recipe.merge.method is Method.LINEAR and recipe.merge.lambda_ == 1.0


def _check_reference(recipe: Recipe) -> None:
    if not any(form.format == "safetensors" for form in recipe.formats):
        raise UsageError(
            "with this method base and adapters as a sum are no reference to validate by", where="$.merge.method",
            found=str(recipe.merge.method),
            hint="Add safetensors to `formats`: the GGUF files are held against it. Or leave `validate` out.",
        )  # fmt: skip


def _check_tags(recipe: Recipe) -> None:
    """Raises UsageError: no name for a tag, or one tag for two artifacts."""
    for template in recipe.publish.tags:
        filled = [recipe.filled(template, form) for form in recipe.formats]
        for tag in filled:
            check_tag(tag)
        if len(set(filled)) < len(filled):
            raise UsageError("several artifacts would get one tag, which can be on one only", where="$.publish.tags",
                             found=template, hint="Put {format} in it.")  # fmt: skip


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
