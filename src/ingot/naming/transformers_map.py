"""The model class of a checkpoint, asked from transformers: the only file of the package that imports transformers.

The class is built on torch's meta device from the configuration alone: no weight is allocated, no code that came with
the model is run, and nothing is fetched. Then the checkpoint's tensor names are put through the renames and converters
that transformers applies when it loads (`transformers.core_model_loading`), with `Layout`s in place of tensors. Those
calls are not a stable interface; tested with transformers 5.15.0, 5.17.0 and 5.23.0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata, util
from typing import Any

from ingot.adapters.module import Module
from ingot.errors import MissingComponent
from ingot.naming.classes import class_name
from ingot.naming.kinds import describe
from ingot.naming.layout import Layout, NotPlaceable
from ingot.naming.table import Part, Table, stored_twice, tied_aliases

OLDEST = (5, 15)
INSTALL = "pip install 'transformers>=5.15'"

#: Keys of config.json that choose kernels, quantizers or remote code: they do not change names or shapes.
IRRELEVANT = ("quantization_config", "auto_map", "attn_implementation", "_attn_implementation", "torch_dtype", "dtype")


class UnknownModel(Exception):
    """The installed transformers cannot build this model; the message says why."""


def is_available() -> bool:
    """Whether a transformers that this file can work with is installed; answers without importing it."""
    if util.find_spec("transformers") is None:
        return False
    major, minor = metadata.version("transformers").split(".")[:2]
    return (int(major), int(minor)) >= OLDEST


def table(
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, object],
    *,
    task: str | None,
    auto_class: str | None,
    num_labels: int | None,
) -> Table:
    """The table of the model class that `config` and the adapter's task call for.

    Raises:
        UnknownModel: transformers has no such class or cannot build it from this configuration.
        MissingComponent: transformers is not installed.
    """
    if not is_available():
        raise MissingComponent("transformers is needed to map these names", expected=">= 5.15", hint=INSTALL)
    model = _build(config, task=task, auto_class=auto_class, num_labels=num_labels)
    modules = {path: describe(path, module) for path, module in model.named_modules(remove_duplicate=False)}
    return _Conversion(model, shapes).table(modules)


def _build(config: Mapping[str, object], *, task: str | None, auto_class: str | None, num_labels: int | None) -> Any:
    """The model on the meta device."""
    import transformers

    name = class_name(config, task=task, auto_class=auto_class, auto_names=_auto_names, exists=_is_model_class)
    if name is None:
        raise UnknownModel(f"transformers {transformers.__version__} has no model type {config.get('model_type')!r}")
    cls = getattr(transformers, name)
    settings = copy.deepcopy({key: value for key, value in config.items() if key not in IRRELEVANT})
    try:
        with _on_meta():
            return cls(_parsed(cls, settings, num_labels))
    except Exception as error:  # any class of transformers' may fail in its own way on an unusual configuration
        raise UnknownModel(f"transformers cannot build {name} from this config.json: {error}") from error


def _parsed(cls: Any, settings: dict[str, Any], num_labels: int | None) -> Any:
    """The configuration object that the class takes; of a composite one, its text part where the class takes that."""
    from transformers import CONFIG_MAPPING

    model_type = str(settings.get("model_type"))
    config_class: Any = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else cls.config_class  # noqa: SIM401
    parsed = config_class.from_dict(settings)
    if not isinstance(parsed, cls.config_class) and isinstance(parsed.get_text_config(), cls.config_class):
        parsed = parsed.get_text_config()
    if num_labels is not None:
        parsed.num_labels = num_labels
    return parsed


@contextmanager
def _on_meta() -> Iterator[None]:
    """Construction without memory, initialisation, tying (every parameter keeps its own name) or network."""
    import torch
    from huggingface_hub import constants
    from transformers import initialization

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with ExitStack() as stack:
            stack.enter_context(initialization.no_init_weights())
            stack.enter_context(initialization.no_tie_weights())
            stack.enter_context(initialization.meta_device_safe_creation_ops())
            stack.enter_context(torch.device("meta"))
            yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _auto_names(mapping: str, model_type: str) -> tuple[str, ...]:
    """Class names in `MODEL_FOR_..._MAPPING_NAMES` for a model type."""
    from transformers.models.auto import modeling_auto

    names = getattr(modeling_auto, mapping, {}).get(model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)


def _is_model_class(name: str) -> bool:
    import transformers

    found = getattr(transformers, name, None)
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def _left_dense(model: Any) -> tuple[str, ...]:
    """What the quantizer of bitsandbytes skips unless it is told otherwise."""
    from transformers.quantizers.base import HfQuantizer

    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return tuple(sorted(skipped))


def _shared_parameters(model: Any) -> dict[str, str]:
    """Names under which the same parameter object hangs a second time, to its first name."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            shared[name] = first[id(parameter)]
    return shared


class _Conversion:
    """A model's renames and converters, applied to one checkpoint's names in the order in which transformers loads."""

    def __init__(self, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(model)
        self.model = model
        self.shapes = shapes
        self.state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.prefix: str = model.base_model_prefix or ""
        self.renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        self.converters = [one for one in transforms if isinstance(one, WeightConverter)]
        self.by_pattern = {pattern: one for one in self.converters for pattern in one.source_patterns}
        self.owners: dict[str, str] = {}
        self.layouts: dict[str, Layout] = {}
        self.scattered: dict[str, str] = {}
        self.reversed: dict[str, dict[str, Layout]] = {}

    def table(self, modules: Mapping[str, Module]) -> Table:
        self._place()
        pairs = {**_shared_parameters(self.model), **(getattr(self.model, "all_tied_weights_keys", None) or {})}
        held = self.layouts.keys() | self.scattered.keys()
        return Table(
            model_class=type(self.model).__name__,
            modules=modules,
            shapes=self.shapes,
            layouts=self.layouts,
            scattered=self.scattered,
            owners=self.owners,
            tied=tied_aliases(pairs, held.__contains__),
            stored_twice=stored_twice(pairs, held.__contains__),
            prefix=self.prefix if self.prefix in modules else "",
            translate=self.translate,
            disk_name=self.disk_name,
            dense=_left_dense(self.model),
        )

    def rename(self, name: str) -> tuple[str, str | None] | None:
        """In-memory name and the converter's pattern that a tensor name on disk stands for; None for no parameter."""
        from transformers.core_model_loading import rename_source_key

        renamed, pattern = rename_source_key(name, self.renamings, self.converters, self.prefix, self.state)
        if renamed not in self.state and name in self.state:
            renamed, pattern = rename_source_key(name, [], [], self.prefix, self.state)
        return (renamed, pattern) if renamed in self.state else None

    def _place(self) -> None:
        """Fill `owners`, `layouts` and `scattered` from the names and shapes on disk."""
        from transformers.core_model_loading import dot_natural_key

        converted: dict[str, Any] = {}
        for name in sorted(self.shapes, key=dot_natural_key):
            found = self.rename(name)
            if found is None:
                continue
            parameter, pattern = found
            if parameter in self.layouts or parameter in self.scattered:
                continue  # two names for one parameter: transformers takes the first
            self.owners[name] = parameter
            layout = Layout.whole(name, self.shapes[name])
            if pattern is None:
                self._keep(parameter, layout)
            else:
                if parameter not in converted:
                    converted[parameter] = copy.deepcopy(self.by_pattern[pattern])
                converted[parameter].add_tensor(parameter, name, pattern, layout)
        for parameter, converter in converted.items():
            self._convert(parameter, converter)

    def _convert(self, parameter: str, converter: Any) -> None:
        sources = [source for names in converter.layer_targets.values() for source in names]
        try:
            made = converter.convert(parameter, model=self.model, config=self.model.config)
        except Exception as error:  # operations may object in any way; it matters if a term touches it
            reason = f"{error} in the conversion of {min(sources)}"
            for target in self._targets(parameter, converter):
                self.scattered[target] = reason
            return
        for name, layout in made.items():
            self._keep(name, layout[0] if isinstance(layout, list) else layout)

    def _keep(self, parameter: str, layout: Layout) -> None:
        expected = self.state.get(parameter)
        if layout.shape == expected:
            self.layouts[parameter] = layout
        elif expected is not None:
            shape = list(layout.shape)
            self.scattered[parameter] = f"its shape is {shape} on disk and {list(expected)} in the model"

    def _targets(self, parameter: str, converter: Any) -> list[str]:
        """Full names of all parameters that the converter makes, given that of the first."""
        first, *_ = patterns = converter.target_patterns
        return [parameter.replace(first, pattern) for pattern in patterns]

    def translate(self, name: str) -> Part | None:
        """The parameter, or the part of one, that a tensor name of any era of this model stands for."""
        found = self.rename(name)
        if found is None:
            return None
        parameter, pattern = found
        if pattern is None:
            return Part(parameter)
        plain = name
        for renaming in self.renamings:
            plain, _ = renaming.rename_source_key(plain)
        parts = self._parts(parameter, self.by_pattern[pattern])
        spellings = (plain, f"{self.prefix}.{plain}", plain.removeprefix(f"{self.prefix}."))
        return next((Part(parameter, parts[one]) for one in spellings if one in parts), None)

    def _parts(self, parameter: str, converter: Any) -> dict[str, Layout]:
        """The checkpoint's layouts of the converter's targets, taken apart again into its sources."""
        from transformers.core_model_loading import rename_source_key

        if parameter not in self.reversed:
            backwards, first = converter.reverse_transform(), ""
            try:
                for target in self._targets(parameter, converter):
                    renamed, pattern = rename_source_key(target, [], [backwards], reverse=True)
                    first = first or renamed
                    backwards.add_tensor(renamed, target, pattern, self.layouts[target])
                self.reversed[parameter] = backwards.convert(first, model=self.model, config=self.model.config)
            except (KeyError, NotPlaceable, ValueError):  # a target is absent or scattered: nothing to take apart
                self.reversed[parameter] = {}
        return self.reversed[parameter]

    def disk_name(self, parameter: str) -> str:
        """The name that follows the rule which explains the names of the parameters that are on disk."""
        rules = self._naming_rules()
        plain = [(name, one) for name, one in self.owners.items() if self.shapes[name] == self.state[one]]
        ranked = sorted(rules, key=lambda rule: -sum(rule(one) == name for name, one in plain))
        for rule in ranked:
            name = rule(parameter)
            if name not in self.shapes and self.rename(name) == (parameter, None):
                return name
        return parameter

    def _naming_rules(self) -> list[Callable[[str], str]]:
        """Ways back from in-memory names to names on disk; earlier ones win where the checkpoint does not tell."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, WeightRenaming

        own = get_model_conversion_mapping(self.model, add_legacy=False)[::-1]
        backwards = [one.reverse_transform() for one in own if isinstance(one, WeightRenaming)]

        def renamed(transforms: list[Any], strip: str) -> Callable[[str], str]:
            def rule(name: str) -> str:
                for transform in transforms:
                    name, _ = transform.rename_source_key(name)
                return name.removeprefix(strip)

            return rule

        without_prefixes = [one for one in backwards if not isinstance(one, PrefixChange)]
        strips = ("", f"{self.prefix}.") if self.prefix else ("",)
        return [renamed(chain, strip) for strip in strips for chain in (without_prefixes, backwards, [])]
