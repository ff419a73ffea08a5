"""Adapters on a model, applied by PEFT and not merged: the model that was trained.

Several adapters are active together, each with its own `scaling` times its weight, so that every layer computes
W x + Σ wᵢ sᵢ Bᵢ Aᵢ x. PEFT's own `add_weighted_adapter` combines the factors, (Σ √wᵢ Bᵢ)(Σ √wᵢ Aᵢ), which has cross
terms and is another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from ingot.adapters import LoraConfig
from ingot.adapters.adapter import Adapter
from ingot.adapters.dialects.dialect import DialectConfig
from ingot.adapters.saved import is_embedding_of
from ingot.adapters.versions import expert_layout, release_of
from ingot.errors import MismatchError
from ingot.plan.resolve import Weighted
from ingot.validate.model import Unsupported
from ingot.validate.models.libraries import first_line, loading, need


def apply(model: Any, adapters: Sequence[Weighted], *, from_meta: bool = False) -> Any:
    """Put the adapters' layers into `model`, which is changed and returned.

    Args:
        from_meta: the model is on the meta device; the adapters' own tensors are loaded all the same.

    Raises:
        MismatchError: PEFT leaves a tensor of an adapter out, or a shape does not fit.
        MissingComponent: PEFT is not installed.
        Unsupported: PEFT applies such an adapter in another way than it was trained.
    """
    if not adapters:
        return model
    need("peft", "accelerate")
    with loading("PEFT"):
        from peft import PeftConfig, PeftModel

    for weighted in adapters:
        _refuse(weighted, several=len(adapters) > 1, from_meta=from_meta)
    _resize(model, adapters)
    names = [f"adapter{number}" for number in range(len(adapters))]
    wrapped: Any = None
    for name, weighted in zip(names, adapters, strict=True):
        path = str(weighted.adapter.root)
        with loading(f"the adapter {weighted.location.name}"):
            config = PeftConfig.from_pretrained(path)
            config.inference_mode = True
            if wrapped is None:
                wrapped = PeftModel(model, config, adapter_name=name, low_cpu_mem_usage=from_meta)
            else:
                wrapped.add_adapter(name, config, low_cpu_mem_usage=from_meta)
            result = _load(wrapped, path, name, from_meta)
        _check_loaded(weighted, [*result.missing_keys, *result.unexpected_keys])
    _activate(model, dict(zip(names, (w.weight for w in adapters), strict=True)))
    return model


def _load(wrapped: Any, path: str, name: str, from_meta: bool) -> Any:
    dtypes = {key: parameter.dtype for key, parameter in wrapped.named_parameters()}
    try:
        with _where_they_are() if from_meta else nullcontext():
            result = wrapped.load_adapter(path, name, torch_device="cpu", low_cpu_mem_usage=from_meta)
    except RuntimeError as error:  # load_state_dict: sizes differ
        raise MismatchError("PEFT cannot put the adapter on this model", where=path, found=first_line(error)) from error
    # What is put in the place of a meta tensor keeps the dtype of its file; what is copied takes that of the model.
    for key, parameter in wrapped.named_parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(dtypes[key])
    return result


@contextmanager
def _where_they_are() -> Iterator[None]:
    """PEFT moves what it has loaded to the device and dtype of the base layer: values sent to meta would be lost."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer

    method = "_move_adapter_to_device_of_base_layer"
    own = {cls: cls.__dict__[method] for cls in (BaseTunerLayer, ParamWrapper)}
    try:
        for cls in own:
            setattr(cls, method, lambda *_, **__: None)
        yield
    finally:
        for cls, function in own.items():
            setattr(cls, method, function)


def _check_loaded(weighted: Weighted, left: Sequence[str]) -> None:
    if left:
        listed = ", ".join(sorted(left)[:5]) + (", ..." if len(left) > 5 else "")
        raise MismatchError(
            f"PEFT does not apply {len(left)} tensors of the adapter to this model",
            where=weighted.location.name,
            found=listed,
            hint="Is this the right base? `ingot plan BASE ADAPTER` shows how the names are matched.",
        )


def _refuse(weighted: Weighted, *, several: bool, from_meta: bool) -> None:
    config, name = weighted.adapter.config, weighted.location.name
    if isinstance(config, DialectConfig):
        raise Unsupported(f"{name} is in the format of {config.title}, which PEFT does not load")
    lora = config if isinstance(config, LoraConfig) else None
    initialization = lora.init_lora_weights if lora else None
    if from_meta and isinstance(initialization, str) and initialization.lower() in ("pissa", "olora"):
        raise Unsupported(
            f"{name}: {initialization} changes the base weights when it is loaded, which takes them whole"
        )
    if lora is None and (from_meta or several or weighted.weight != 1.0):
        raise Unsupported(f"{name} is no LoRA ({config.title}): PEFT applies it to a whole model, alone, with weight 1")
    if from_meta and config.layer_replication:
        raise Unsupported(f"{name} repeats layers of the base, which are not streamed")
    if config.target_parameters and _other_experts(weighted.adapter):
        raise Unsupported(f"{name} was saved by PEFT {config.peft_version}, which lays experts out in another way than "
                          "the PEFT that is installed")  # fmt: skip
    replaces = (
        (lora and lora.use_dora) or config.bias != "none" or config.modules_to_save or config.trainable_token_indices
    )
    if weighted.weight != 1.0 and replaces:
        raise Unsupported(
            f"{name} replaces parameters or rescales them (DoRA), for which PEFT has no weight other than 1"
        )
    if several and config.bias != "none":
        raise Unsupported(f"{name} brings trained biases, which PEFT does not apply beside other adapters")


def _other_experts(adapter: Adapter) -> bool:
    """Whether the installed PEFT reads an expert's factors with other axes than the release that saved them."""
    from importlib.metadata import version

    installed, saved = release_of(version("peft")), adapter.config.release
    if saved is None or installed is None:
        return False
    return any(expert_layout(saved, transposed=t) != expert_layout(installed, transposed=t) for t in (True, False))


def _resize(model: Any, adapters: Sequence[Weighted]) -> None:
    """Give the embeddings the number of rows that an adapter's whole embeddings have; PEFT then fills them."""
    rows = {
        ref.shape[0]
        for weighted in adapters
        for ref in weighted.adapter.tensors.values()
        if len(ref.shape) == 2 and ref.name.endswith(".weight") and ".lora_" not in ref.name and is_embedding_of(ref)
    }
    if not rows or rows == {model.get_input_embeddings().weight.shape[0]}:
        return
    if len(rows) > 1:
        raise MismatchError("the adapters bring embeddings of different sizes", found=sorted(rows))
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _activate(model: Any, weights: dict[str, float]) -> None:
    """Make all adapters active, their updates multiplied by their weights.

    Raises Unsupported: two adapters replace the same module, or one of several on it is a DoRA.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for path, module in model.named_modules():
        if not isinstance(module, AuxiliaryTrainingWrapper | BaseTunerLayer):
            continue
        held = [name for name in weights if name in module._get_available_adapters()]
        if len(held) > 1 and isinstance(module, AuxiliaryTrainingWrapper):
            raise Unsupported(f"several adapters replace {path}")
        if len(held) > 1 and any(getattr(module, "use_dora", {}).get(name) for name in held):
            raise Unsupported(
                f"several adapters change {path}, and one of them is a DoRA: PEFT takes its norm from the base and "
                "applies it to what the others left, which is neither their sum nor one after the other"
            )
        module.set_adapter(held, inference_mode=True)
        if isinstance(module, LoraLayer):
            for name in held:
                module.scaling[name] *= weights[name]
