"""Base and adapters -> Plan, from headers and configs, and a look at some rows for the rounding.

1. replicate     the base's layers, where the adapter was trained on repeated ones
2. resolve       each update to edits of parameters (adapters), each parameter to tensors on disk (naming)
3. ties          which tied parameters must part
4. ops           one for each output tensor: the base's, changed or not; new ones; dropped ones
   rounding      how each sum becomes its dtype
5. laws          every adapter tensor is claimed, every expected module is there
6. lay out       shards, headers, config, side files
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Replace
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.quantized.detect import QUANTIZER_FILES
from ingot.checkpoint.quantized.encoded import Source
from ingot.checkpoint.side_files import choose
from ingot.errors import BaseError, MismatchError, UsageError
from ingot.kernels.spelling import FLOATING, MERGEABLE
from ingot.naming import Names
from ingot.plan import configs
from ingot.plan.base_as import BaseAs, check_terms, round_trips
from ingot.plan.base_as import notes as base_notes
from ingot.plan.combining import Combining
from ingot.plan.describe import adapter_info, base_info
from ingot.plan.expected import missing_tensors
from ingot.plan.layout import lay_out
from ingot.plan.look import Look
from ingot.plan.model import Op, Options, Plan, ShardPlan, SideFile
from ingot.plan.notes import claims_4bit, notes_and_warnings
from ingot.plan.replicate import Replication
from ingot.plan.resolve import PlacedTensor, ResolvedEdit, Weighted, check_claims, claims_of, place, resolve, whole
from ingot.plan.rounding import decide as decide_rounding
from ingot.plan.ties import SameValues, Ties, decide
from ingot.plan.vocabulary import resized_vocabulary


def build(base: Checkpoint, adapters: Sequence[Weighted], options: Options, same: SameValues) -> Plan:
    """The plan of merging `adapters` into `base`.

    Raises:
        BaseError, AdapterError, MismatchError: whatever law of the plan does not hold; nothing has been written.
    """
    return _Builder(base, tuple(adapters), options, same).plan()


@dataclass
class _Builder:
    base: Checkpoint
    adapters: tuple[Weighted, ...]
    options: Options
    same: SameValues
    config_changes: dict[str, object] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new_parameters: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        self.combining = Combining.of(self.options, self.adapters)
        self.replication = self._replication()
        self.names = self._names()
        self.adapters = self._on_base()
        resolved = resolve(self.adapters, self.names, self.replication, self.base.tensors)
        edits, left_out = self.combining.settle(resolved, self.same)
        self._check_expected()
        ties = decide(edits, self.names, self.base.config, self.same, self._is_copy)
        absorbed = {id(item) for item in ties.absorbed}
        live = [*(item for item in edits if id(item) not in absorbed), *ties.mirrored]
        placed = place([e for e in live if e.parameter not in ties.untied], self.replication)
        self.trips = round_trips(self.base, self.names, self.replication, self.options)
        new = self._new_tensors(live, ties)
        self._check_head()
        ops = self._ops(placed, new)
        claimants = [*edits, *ties.mirrored]
        claims = claims_of(claimants, self._ops_of(claimants, new))
        explained = check_claims(self.adapters, claims, left_out)
        self._change_config(edits, ties)
        look = Look(self.base.inputs, [w.inputs for w in self.adapters])
        rounded = decide_rounding(ops, self.options, look)
        shards = lay_out(self.base, rounded.ops)
        notes, warnings = notes_and_warnings(
            self.base, self.adapters, edits, shards, ties, self.names, self.options.base_as
        )
        return Plan(
            base=base_info(self.base, self.names.model_class),
            adapters=tuple(adapter_info(w) for w in self.adapters),
            options=self.options,
            shards=shards,
            index_name=self.base.index_name,
            side_files=self._side_files(),
            config_changes=self.config_changes,
            claims=claims,
            explained=explained,
            dropped=self.dropped,
            warnings=(*warnings, *rounded.warnings),
            notes=(*notes, *rounded.notes, *self._base_notes(shards, look)),
        )

    def _base_notes(self, shards: Sequence[ShardPlan], look: Look) -> Iterator[str]:
        claimed = any(claims_4bit(w.adapter.base_model) for w in self.adapters) and not self.base.view.formats
        of_nf4 = self.options.base_as == BaseAs.NF4 or claimed
        return base_notes(self.base, (op for shard in shards for op in shard.ops), look, of_nf4=of_nf4)

    # -- what the base is ---------------------------------------------------------------------------------------

    def _replication(self) -> Replication:
        wanted = [w.adapter.config.layer_replication for w in self.adapters if w.adapter.config.layer_replication]
        if wanted and len(self.adapters) > 1:
            raise MismatchError(
                "an adapter on repeated layers cannot be combined with others",
                where="layer_replication",
                hint="Merge it alone; then merge the others into the result.",
            )
        replication = Replication.of(wanted[0] if wanted else None, self.base.tensors)
        if replication.sources:
            self.config_changes.update(configs.replicated(self.base.config, replication.sources))
        return replication

    def _names(self) -> Names:
        kinds = {(w.adapter.config.task_type, w.adapter.config.base_model_class) for w in self.adapters}
        if len(kinds) > 1:
            raise MismatchError(
                "the adapters were trained on different kinds of model",
                where="task_type",
                found=", ".join(sorted(str(task) for task, _ in kinds)),
                hint="Merge adapters of one task type at a time.",
            )
        task, auto_class = next(iter(kinds), (None, None))
        return Names.of(
            self.base.tensors, self.base.config, task=task, auto_class=auto_class, num_labels=self._labels()
        )

    def _on_base(self) -> tuple[Weighted, ...]:
        """The adapters as they read for this base."""
        component = self.options.component
        if component is not None and not any(w.adapter.components for w in self.adapters):
            raise UsageError("no adapter has components", found=f"--component {component}",
                             hint="Leave --component out: it is for adapters of a diffusion pipeline.")  # fmt: skip
        return tuple(w.on(self.names, self.base.config, component) for w in self.adapters)

    def _labels(self) -> int | None:
        """Rows of the classification head that an adapter brings."""
        for weighted in self.adapters:
            for ref in weighted.adapter.tensors.values():
                if ref.name.endswith(_HEADS):
                    return ref.shape[0]
        return None

    def _is_copy(self, item: ResolvedEdit) -> bool:
        """A whole embedding that PEFT saved because it was resized or adapted, not because it was trained itself."""
        config = self.adapters[item.adapter].adapter.config
        return isinstance(item.edit.term, Replace) and not config.saves(item.update.path)

    def _check_expected(self) -> None:
        """Modules that the config says were trained and that have no tensor: PEFT would leave them as they are."""
        for weighted in self.adapters:
            missing = missing_tensors(weighted.adapter, self.names, self.replication)
            if missing and not self.options.accept_missing:
                raise MismatchError(
                    f"the adapter lacks {len(missing)} of the tensors that its config speaks of",
                    where=", ".join(missing[:10]) + (" …" if len(missing) > 10 else ""),
                    hint="The file is incomplete, or the base is another one. If those modules were never trained, "
                    "pass --accept-missing.",
                )

    # -- ops ----------------------------------------------------------------------------------------------------

    def _ops(self, placed: Mapping[str, PlacedTensor], new: Sequence[tuple[str, Op]]) -> dict[str, list[Op]]:
        self.dropped.update({**self._unused(), **self.base.view.set_aside})
        ops: dict[str, list[Op]] = {file: [] for file in self.base.shards}
        for file, sources in self.base.view.shards.items():
            for ref in sources:
                names = [] if ref.name in self.dropped else self.replication.copies(ref.name)
                if not names:
                    self.dropped.setdefault(ref.name, "the adapter's layer_replication does not use this layer")
                ops[file].extend(self._op(name, ref, placed.get(name)) for name in names)
        for file, op in new:
            ops[file].append(op)
        return ops

    def _op(self, name: str, ref: Source, placed: PlacedTensor | None) -> Op:
        dtype, first = self._dtype(ref), tuple(self.trips.get(name, ()))
        if placed is None or not placed.terms:
            numel = math.prod(ref.shape)
            columns = ref.shape[-1] if ref.shape and numel else 1
            return Op(name, dtype, ref.shape, ref, (numel // columns, columns), first)
        if ref.dtype not in MERGEABLE or dtype not in MERGEABLE:
            raise BaseError(
                "an adapter changes a tensor that is not stored as F32, F16 or BF16", where=name, found=ref.dtype,
                hint="Give a base with 16-bit or 32-bit weights, such as the one that the quantized base was made of.",
            )  # fmt: skip
        op = Op(name, dtype, ref.shape, ref, placed.view, self.combining.terms(name, placed))
        check_terms(name, first, op.terms, self.trips)
        if first and not op.from_adapter:
            op = replace(op, terms=(*first, *op.terms))
        if op.from_adapter and math.prod(op.view) != math.prod(ref.shape):  # a resized vocabulary
            return replace(op, shape=(op.view[0], *ref.shape[1:]))
        return op

    def _dtype(self, ref: Source) -> str:
        return self.options.dtype if self.options.dtype and ref.dtype in FLOATING else ref.dtype

    def _unused(self) -> dict[str, str]:
        if not self._is_new_head():
            return {}
        why = f"{self.names.model_class} has no such parameter"
        return dict.fromkeys(self.names.unused, why)

    def _is_new_head(self) -> bool:
        """Whether the adapter makes another kind of model of the base, by a parameter that the base does not have."""
        return bool(self.new_parameters) and self.names.model_class is not None

    def _check_head(self) -> None:
        """A model with a new head must be whole: what neither base nor adapter has, transformers fills with chance."""
        if self._is_new_head() and not self.options.accept_missing:
            random = sorted(set(self.names.absent) - set(self.new_parameters))
            if random:
                raise MismatchError(
                    f"{self.names.model_class} has parameters that neither the base nor the adapter brings",
                    where=", ".join(random[:10]),
                    hint="They were random in training and are lost; give a base with them, or pass --accept-missing.",
                )

    # -- tensors that the base does not have ---------------------------------------------------------------------

    def _new_tensors(self, edits: Sequence[ResolvedEdit], ties: Ties) -> list[tuple[str, Op]]:
        """Untied heads, and whatever the adapter brings that is nowhere on disk; each with the shard that gets it."""
        by_parameter = {alias: list(ties.inherited.get(alias, ())) for alias in ties.untied}
        for item in edits:
            if not item.placements:
                by_parameter.setdefault(item.parameter, []).append(item)
        return [self._new(parameter, items, ties.untied.get(parameter)) for parameter, items in by_parameter.items()]

    def _new(self, parameter: str, items: Sequence[ResolvedEdit], source: str | None) -> tuple[str, Op]:
        name = self.names.new_on_disk_name(parameter)
        first = items[0].edit.term if items else None
        terms = [(item.adapter, whole(item.edit.term, item.beside)) for item in items]
        placed = PlacedTensor(first.shape if first else (1, 1), terms)
        if source is not None:
            ref = self._stored(source)
            return ref.file, self._op(name, ref, placed)
        self.new_parameters.append(parameter)
        if not isinstance(first, Replace):
            raise MismatchError(
                "the adapter changes a parameter that this base does not store", where=parameter,
                hint="Give the base that the adapter was trained on; this one lacks the tensor.",
            )  # fmt: skip
        site = items[0].site
        shape = site.module.parameters.get(items[0].edit.parameter, first.shape)
        if math.prod(shape) != math.prod(first.shape):
            shape = (first.shape[0], *shape[1:])
        all_terms = self.combining.terms(name, placed)
        return list(self.base.shards)[-1], Op(name, self._new_dtype(first.values), shape, None, first.shape, all_terms)

    def _new_dtype(self, values: Factor) -> str:
        """The base's most common floating dtype, by bytes: a new head is stored like the rest of the model."""
        if self.options.dtype:
            return self.options.dtype
        nbytes: dict[str, int] = {}
        for ref in self.base.tensors.values():
            if ref.dtype in MERGEABLE:
                nbytes[ref.dtype] = nbytes.get(ref.dtype, 0) + ref.nbytes
        return max(nbytes, key=lambda dtype: nbytes[dtype]) if nbytes else values.ref.dtype

    def _stored(self, parameter: str) -> Source:
        site, own = self.names.parameter(parameter)
        tensors = {placement.tensor for placement in site.placements[own]}
        if len(tensors) != 1:
            raise MismatchError("a tied parameter stands in several tensors", where=parameter, found=sorted(tensors))
        return self.base.tensors[tensors.pop()]

    def _ops_of(self, edits: Sequence[ResolvedEdit], new: Sequence[tuple[str, Op]]) -> dict[int, tuple[str, ...]]:
        """The output tensors that each edit changes, by the edit's id."""
        new_names = {op.name for _, op in new}
        result = {}
        for item in edits:
            names = {self.replication.renamed(place.tensor, item.layer) for place in item.placements}
            if not names:
                name = self.names.new_on_disk_name(item.parameter)
                source = self.names.tied.get(item.parameter)
                names = {name} if name in new_names else {self._stored(source).name} if source else set()
            result[id(item)] = tuple(sorted(names))
        return result

    # -- files beside the weights --------------------------------------------------------------------------------

    def _change_config(self, edits: Sequence[ResolvedEdit], ties: Ties) -> None:
        changes, config = self.config_changes, self.base.config
        changes.update(dict.fromkeys(self.base.view.config_keys, configs.REMOVED))
        if ties.untied or ties.parted:
            changes.update(configs.untied(config))
        if self._is_new_head() and self.names.model_class:
            changes.update(configs.new_head(config, self.names.model_class, self._labels()))
        if self.options.dtype:
            changes.update(configs.in_dtype(config, _CONFIG_DTYPE[self.options.dtype]))
        rows = resized_vocabulary(edits, ties, self.names)
        if rows is not None:
            changes.update(configs.resized(config, rows))

    def _side_files(self) -> tuple[SideFile, ...]:
        adapter_files = {name: number for number, w in enumerate(self.adapters) for name in w.adapter.side_files}
        if len(set(adapter_files.values())) > 1:  # several tokenizers: none is more right than another
            adapter_files = {}
        untrue = QUANTIZER_FILES if self.base.view.formats else ()
        chosen = choose([name for name in self.base.side_files if name not in untrue], adapter_files)
        files = [SideFile(name, "base" if of == "base" else str(adapter_files[name])) for name, of in chosen.items()]
        config = configs.changed(self.base.config, self.config_changes) if self.config_changes else None
        return (SideFile("config.json", "base", config), *files)


_HEADS = ("score.weight", "classifier.weight", "out_proj.weight", "qa_outputs.weight")
_CONFIG_DTYPE = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
