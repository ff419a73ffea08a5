"""Which model class an adapter was made for: the checkpoint's own, unless the adapter's task needs another head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

#: PEFT's task types that add a head of their own, and the transformers mappings that hold the classes with it.
HEADS = {
    "SEQ_CLS": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
    "TOKEN_CLS": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",),
    "QUESTION_ANS": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",),
}
CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
SEQ2SEQ = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
#: Heads that generate: an adapter made for CAUSAL_LM or SEQ_2_SEQ_LM fits any of them.
GENERATORS = (
    CAUSAL,
    SEQ2SEQ,
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)
BARE = "MODEL_MAPPING_NAMES"


def class_name(
    config: Mapping[str, object],
    *,
    task: str | None,
    auto_class: str | None,
    auto_names: Callable[[str, str], tuple[str, ...]],
    exists: Callable[[str], bool],
) -> str | None:
    """The model class, or None where transformers knows none.

    Args:
        config: parsed config.json.
        task: PEFT's `task_type`.
        auto_class: PEFT's `auto_mapping.base_model_class`.
        auto_names: class names in an auto mapping for a model type.
        exists: whether transformers has this model class.
    """
    model_type = str(config.get("model_type", ""))
    architectures = config.get("architectures")
    listed = architectures if isinstance(architectures, list) else []
    own = next((str(name) for name in listed if exists(str(name))), None)

    def first(*mappings: str) -> str | None:
        return next((name for mapping in mappings for name in auto_names(mapping, model_type) if exists(name)), None)

    if task in HEADS:
        fitting = {name for mapping in HEADS[task] for name in auto_names(mapping, model_type)}
        return own if own in fitting else first(*HEADS[task]) or own
    if task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        fitting = {name for mapping in GENERATORS for name in auto_names(mapping, model_type)}
        wanted = (CAUSAL, SEQ2SEQ) if task == "CAUSAL_LM" else (SEQ2SEQ, CAUSAL)
        return own if own in fitting else first(*wanted) or own or first(*GENERATORS)
    bare = auto_names(BARE, model_type)
    # An adapter of the bare model leaves the head alone: the checkpoint keeps its own.
    if auto_class is not None and auto_class not in bare and exists(auto_class):
        return auto_class
    return own or first(*GENERATORS, BARE)
