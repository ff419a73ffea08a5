"""The form as the file has it -> with every path absolute and every string an object; and what no type can check."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

from msgspec.structs import replace

from ingot.checkpoint.named import number_of
from ingot.combine.parameters import combination
from ingot.errors import UsageError
from ingot.quantize.gguf import asked
from ingot.release import names
from ingot.release.checking import Fault, refuse
from ingot.release.form import AdapterForm, BaseForm, FormatForm, MergeForm, PublishForm, RecipeForm, ValidateForm
from ingot.release.strict_yaml import Document, Path

Value = TypeVar("Value")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_TARGET = re.compile(r"[a-z][a-z0-9+.-]*:.+", re.IGNORECASE)
_LOGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*@", re.IGNORECASE)
_FOR_GGUF = ("imatrix", "pre", "split_size", "llama_cpp", "accept_quality_loss")


def resolved(document: Document, form: RecipeForm, directory: FilePath) -> RecipeForm:
    """`form` against `directory`, the recipe's. Raises UsageError with every fault."""
    at = _Resolving(document, directory)
    base = form.base if isinstance(form.base, BaseForm) else BaseForm(form.base)
    adapters = tuple(one if isinstance(one, AdapterForm) else AdapterForm(one) for one in form.adapters)
    formats = tuple(one if isinstance(one, FormatForm) else FormatForm(one) for one in form.formats)
    whole = replace(
        form,
        base=at.base(base),
        adapters=tuple(at.adapter(one, number) for number, one in enumerate(adapters)),
        merge=at.merge(form.merge, adapters),
        formats=tuple(at.format(one, number) for number, one in enumerate(formats)),
        validate=None if form.validate is None else at.validate(form.validate),
        publish=at.publish(form.publish, form.version),
    )
    if not at.faults:
        at.distinct(whole)
    if at.faults:
        refuse(document, at.faults)
    return whole


@dataclass
class _Resolving:
    """Takes the parts one by one, and notes what is wrong with them."""

    document: Document
    directory: FilePath
    faults: list[Fault] = field(default_factory=list)

    def base(self, base: BaseForm) -> BaseForm:
        path: Path = ("base", "model") if isinstance(self.document.value["base"], dict) else ("base",)
        model = self._model(base.model, path)
        if base.revision is None:
            return replace(base, model=model)
        if os.path.isabs(model):
            self._fault(("base", "revision"), "a directory has no revision", found=base.model,
                        hint="Leave it out, or give a Hub id such as org/name.")  # fmt: skip
        elif "@" in model:
            self._fault(("base", "revision"), "there are two revisions", found=f"{base.model} and {base.revision}")
        return replace(base, model=f"{model}@{base.revision}", revision=None)

    def adapter(self, entry: AdapterForm, number: int) -> AdapterForm:
        path: Path = ("adapters", number)
        if not math.isfinite(entry.weight) or entry.weight == 0:
            self._fault((*path, "weight"), "a weight is a finite number other than 0", found=f"{entry.weight:g}",
                        hint="Leave the adapter out, or give it a weight.")  # fmt: skip
        return replace(entry, adapter=self._model(entry.adapter, path))

    def merge(self, merge: MergeForm, adapters: tuple[AdapterForm, ...]) -> MergeForm:
        path: Path = ("merge",)
        self._ask(path, lambda: combination(
            merge.method, [entry.weight for entry in adapters], density=merge.density, scale=merge.lambda_,
            majority=merge.majority_sign, gamma=merge.gamma, epsilon=merge.epsilon,
        ))  # fmt: skip
        specs = [entry.adapter for entry in adapters]
        taken = [self._ask((*path, "take"), partial(number_of, str(one), specs)) for one in merge.take]
        return replace(merge, take=tuple(number for number in taken if number is not None))

    def format(self, entry: FormatForm, number: int) -> FormatForm:
        path: Path = ("formats", number)
        types = self._ask(path, lambda: asked.file_types([entry.format]))
        if types is None:
            return entry
        if len(types) > 1 or not entry.format.strip(" ,"):
            self._fault(path, "one format at a time", found=repr(entry.format), hint="Write a list item for each.")
            return entry
        if not types:
            for key in _FOR_GGUF:
                if getattr(entry, key):
                    self._fault((*path, key), f"`{key}` belongs to a GGUF", found=entry.format)
            return entry
        if not entry.accept_quality_loss:
            self._ask(path, lambda: asked.refuse_poor(types, "set accept_quality_loss: true"))
        if entry.split_size is not None:
            size = str(entry.split_size)
            self._ask((*path, "split_size"), lambda: asked.split_nbytes(size, "split_size"))
        return replace(
            entry, format=f"gguf:{types[0]}", imatrix=self._optional(entry.imatrix),
            llama_cpp=self._optional(entry.llama_cpp),
        )  # fmt: skip

    def validate(self, entry: ValidateForm) -> ValidateForm:
        return replace(
            entry, samples=tuple(self._samples(spec) for spec in entry.samples), metric=self._metric(entry.metric),
            tasks_dir=self._optional(entry.tasks_dir),
        )  # fmt: skip

    def publish(self, entry: PublishForm, version: str | None) -> PublishForm:
        fill = partial(names.filled, name="n", format_name="gguf:F16", version=version)
        for key, templates in (("tags", entry.tags), ("push", entry.push)):
            for number, template in enumerate(templates):
                path: Path = ("publish", key, number)
                self._ask(path, partial(fill, template))
                if key == "push" and not _TARGET.fullmatch(template):
                    self._fault(path, "this is no place to push to", found=repr(template), hint=_PUSH_HINT)
                elif key == "push" and _LOGIN.match(template):
                    self._fault(path, "a recipe holds no user and no password",
                                hint="Leave it out of the URL; log in where the recipe is run.")  # fmt: skip
        return replace(entry, registry=self._optional(entry.registry))

    def distinct(self, form: RecipeForm) -> None:
        """Every artifact has a name of its own, and tags that the registry takes."""
        from ingot.registry.tags import check_tag

        assert isinstance(form.base, BaseForm)
        adapters = [entry for entry in form.adapters if isinstance(entry, AdapterForm)]
        seen: dict[str, int] = {}
        for number, entry in enumerate(form.formats):
            of = entry.format if isinstance(entry, FormatForm) else entry
            name = names.artifact_name(form.base, adapters, of, name=form.name, version=form.version)
            if name in seen:
                self._fault(("formats", number), "two formats would have one name", found=name,
                            hint="Write a recipe for each of them.")  # fmt: skip
            seen[name] = number
            for place, template in enumerate(form.publish.tags):
                tag = names.filled(template, name=name, format_name=of, version=form.version)
                self._ask(("publish", "tags", place), partial(check_tag, tag))

    def _model(self, spec: str, path: Path) -> str:
        """A base or adapter: an absolute path, or a Hub id; what exists wins over a Hub id of the same spelling."""
        if not spec.strip() or "\0" in spec:
            self._fault(path, "the name is empty", found=repr(spec))
        if "://" in spec or (_HUB_ID.fullmatch(spec) and not os.path.lexists(self.directory / spec)):
            return spec
        return self._absolute(spec)

    def _absolute(self, text: str) -> str:
        return os.path.normpath(self.directory / FilePath(text).expanduser())

    def _optional(self, text: str | None) -> str | None:
        return None if text is None else self._absolute(text)

    def _samples(self, spec: str) -> str:
        """[NAME=]FILE.jsonl[:METRIC] with an absolute file, by the rules of `validate.answers.samples`."""
        before, equals, after = spec.partition("=")
        cut = equals and "/" not in before and before and not (self.directory / spec).exists()
        name, rest = (f"{before}=", after) if cut else ("", spec)
        stem, found, metric = rest.partition(".jsonl:")
        if not found or (self.directory / rest).exists():
            return name + self._absolute(rest)
        return f"{name}{self._absolute(stem + '.jsonl')}:{self._metric(metric)}"

    def _metric(self, metric: str | None) -> str | None:
        """A metric's name as it is; of FILE.py:FUNCTION the file made absolute."""
        file, found, function = (metric or "").rpartition(".py:")
        return f"{self._absolute(file + '.py')}:{function}" if found else metric

    def _ask(self, path: Path, question: Callable[[], Value]) -> Value | None:
        """The answer; None, and a fault noted, where it is a UsageError."""
        try:
            return question()
        except UsageError as error:
            what = re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), error.what)
            own = None if error.hint == UsageError.default_hint else error.hint
            hint = own and re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), own)
            self.faults.append(Fault(path, what, error.expected, error.found, hint))
            return None

    def _fault(self, path: Path, what: str, **more: Any) -> None:
        self.faults.append(Fault(path, what, **more))


_PUSH_HINT = "Write hf://org/{name}, for example."
