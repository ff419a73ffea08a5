"""README.md, the model card: what the Hub reads (YAML front matter), and what a person does.

Source of the fields: the Hub's model card documentation (`base_model`, `base_model_relation`, `license_link`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ingot.errors import printable
from ingot.kernels.spelling import TORCH
from ingot.plan.model import Options
from ingot.plan.public import is_hub_id, public_name
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.engine.outcome import FileDigest, Outcome
    from ingot.plan.model import AdapterInfo, BaseInfo, GgufOptions, Plan
    from ingot.record.form import Release

CARD_NAME = "README.md"
#: End of a class name in transformers -> the Hub's pipeline tag, and the Auto class that loads it.
_TASKS = {
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "ForImageTextToText": ("image-text-to-text", "AutoModelForImageTextToText"),
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForQuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "ForSpeechSeq2Seq": ("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq"),
}
_FLAGS = ("accept_nonfinite_base", "accept_missing")
_LICENSE = re.compile(r"licen[sc]e[\w.-]*", re.IGNORECASE)
_MARKDOWN = re.compile(r"[\\`*|<>\[\]&]")


def build_card(outcome: Outcome, release: Release | None = None) -> bytes:
    """The card of a run. Depends on the plan, the release and the adapters' digests alone."""
    plan = outcome.plan
    parts = ["---", *_front_matter(plan), "---", "", *_text(outcome, release), ""]
    return "\n".join(parts).encode("utf-8")


def _front_matter(plan: Plan) -> Iterator[str]:
    base = public_name(plan.base.name)
    if is_hub_id(base):  # a directory's name would point at whatever the Hub has under it
        yield f"base_model: {yaml_text(base)}"
        yield f"base_model_relation: {'quantized' if plan.options.gguf else 'finetune'}"
    yield "library_name: " + ("gguf" if plan.options.gguf else "transformers")
    tag, _ = _task(plan.base.model_class)
    if tag:
        yield f"pipeline_tag: {tag}"
    license_file = _license_file(plan)
    if license_file:  # its text is not judged here; "other" makes the Hub show the link
        yield "license: other"
        yield f"license_name: {yaml_text('as-the-base')}"
        yield f"license_link: {yaml_text(license_file)}"
    yield "tags:"
    tags = ["ingot", *(["merged"] if plan.adapters else []), *_methods(plan)]
    yield from (f"- {yaml_text(tag)}" for tag in dict.fromkeys(tags))


def yaml_text(text: str) -> str:
    """`text` as a double-quoted YAML scalar, valid in YAML 1.1 and 1.2 whatever it holds."""
    escaped = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(escaped) + '"'


def _text(outcome: Outcome, release: Release | None) -> Iterator[str]:
    plan = outcome.plan
    names = " and ".join(markdown(public_name(info.name)) for info in plan.adapters)
    title = markdown(public_name(plan.base.name))
    title = f"{title} with {names}" if names else title
    yield f"# {_release_title(release)}: {title}" if release else f"# {title}"
    yield ""
    if plan.options.gguf:
        types = ", ".join(plan.options.gguf.file_types)
        yield f"GGUF files ({types}) by ingot {__version__}, in one pass from the checkpoint. What each tensor became:"
        yield "`ingot.tensors.jsonl`."
        yield ""
    if plan.adapters:
        yield f"The base model with its adapters merged into the weights by ingot {__version__}:"
        yield f"{_formula(plan)}, rounded once. {_untouched(plan)}"
    yield ""
    yield from ("## How it was made", "", "```bash", command(plan), "```", "")
    if plan.adapters:
        yield from _adapter_table(plan.adapters, outcome.adapter_files)
    yield from _training_runs(plan.adapters, release) if release else ()
    yield from ("", "`ingot.json` records every input and output with its digest, `ingot.tensors.jsonl` every tensor.")
    yield from ("", "## How to verify it", "", "```bash", "ingot verify . --read", "```")
    if plan.options.gguf:
        gguf = next(file.name for file in sorted(outcome.files, key=lambda file: file.name) if ".gguf" in file.name)
        yield from ("", "## How to run it", "", "```bash", f"llama-cli -m {shlex.quote(gguf)}", "```")
    else:
        yield from ("", "## How to load it", "", "```python", *_loading(plan.base.model_class), "```")
    license_file = _license_file(plan)
    if license_file:
        yield from ("", "## License", "", f"That of the base: see [{markdown(license_file)}](<{license_file}>).")


def _release_title(release: Release) -> str:
    return markdown(f"{release.name} {release.version}" if release.version else release.name)


def _training_runs(adapters: Sequence[AdapterInfo], release: Release) -> Iterator[str]:
    """Where the adapters were trained, as far as the release says."""
    known = [
        (info, label) for info, label in zip(adapters, release.adapters, strict=False)
        if label.version or label.training_run
    ]  # fmt: skip
    if known:
        yield from ("", "| adapter | version | training run |", "|---|---|---|")
    for info, label in known:
        told = (markdown(text or "") for text in (label.version, label.training_run))
        yield f"| {markdown(public_name(info.name))} | {' | '.join(told)} |"


def _formula(plan: Plan) -> str:
    method = plan.options.method
    return "every term added in float32" if method == "linear" else f"their updates combined by {method} in float32"


def _untouched(plan: Plan) -> str:
    dtype = plan.options.dtype
    if dtype:
        return f"Tensors that no adapter targets are the base's, in {TORCH.get(dtype, dtype)}."
    return "Tensors that no adapter targets are the base's, byte for byte."


def command(plan: Plan) -> str:
    """The recipe as a command line."""
    options = plan.options
    words = ["ingot", "merge" if plan.adapters else "quantize", _spec(plan.base)]
    words += [_weighted(info) for info in plan.adapters]
    words += ["--dtype", TORCH.get(options.dtype, options.dtype)] if options.dtype else []
    words += ["--rounding", options.rounding] if options.rounding != "nearest" else []
    words += ["--seed", str(options.seed)] if options.seed else []
    words += ["--assume-peft-version", options.assume_peft_version] if options.assume_peft_version else []
    words += [f"--{flag.replace('_', '-')}" for flag in _FLAGS if getattr(options, flag)]
    words += ["--component", options.component] if options.component else []
    words += ["--expert-layout", options.expert_layout] if options.expert_layout else []
    words += _combining(options)
    words += _gguf(options.gguf) if options.gguf else []
    return shlex.join([printable(word) for word in [*words, "-o", "OUT"]])


def _gguf(options: GgufOptions) -> Iterator[str]:
    yield from ("--to", ",".join(f"gguf:{name}" for name in options.file_types))
    yield from ("--pre", options.pre) if options.pre else ()
    yield from ("--split-size", str(options.split_nbytes)) if options.split_nbytes else ()
    yield from ("--imatrix", f"sha256:{options.imatrix_sha256[:12]}") if options.imatrix_sha256 else ()
    yield from ("--llama-cpp", f"sha256:{options.llama_cpp_sha256[:12]}") if options.llama_cpp_sha256 else ()


def _combining(options: Options) -> Iterator[str]:
    """How several adapters become one, as far as it is not the default."""
    default = Options()
    for name in ("method", "density", "lambda_", "majority_sign", "gamma", "epsilon"):
        value = getattr(options, name)
        if value != getattr(default, name):
            yield f"--{name.strip('_').replace('_', '-')}"
            yield value if isinstance(value, str) else number(value)
    for taken in options.take:
        yield from ("--take", str(taken))


def _spec(info: BaseInfo | AdapterInfo) -> str:
    """Pinned to the commit where the Hub told it."""
    at = info.commit or info.revision
    return public_name(info.name) + (f"@{at}" if at else "")


def _weighted(info: AdapterInfo) -> str:
    """ADAPTER=WEIGHT; a name with an equals sign needs the weight, lest its end be taken for one."""
    spec = _spec(info)
    return spec if info.weight == 1 and "=" not in spec else f"{spec}={number(info.weight)}"


def _adapter_table(adapters: Sequence[AdapterInfo], files: Sequence[Sequence[FileDigest]]) -> Iterator[str]:
    yield "| adapter | method | rank | alpha | weight | sha256 of its weights |"
    yield "|---|---|---|---|---|---|"
    for info, of_adapter in zip(adapters, files, strict=True):
        weights = max(of_adapter, key=lambda file: (file.name.startswith("adapter_model"), file.nbytes), default=None)
        ranks, alphas = ", ".join(map(str, info.ranks)), ", ".join(map(number, info.alphas))
        digest = f"`{weights.sha256[:12]}…`" if weights else ""
        name = markdown(public_name(info.name))
        yield f"| {name} | {markdown(info.method)} | {ranks} | {alphas} | {number(info.weight)} | {digest} |"


def _loading(model_class: str | None) -> list[str]:
    auto = _task(model_class)[1]
    return [
        f"from transformers import {auto}, AutoTokenizer",
        f'model = {auto}.from_pretrained(".", dtype="auto")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]


def _task(model_class: str | None) -> tuple[str | None, str]:
    for ending, task in _TASKS.items():
        if model_class and model_class.endswith(ending):
            return task
    return None, "AutoModel"


def _methods(plan: Plan) -> list[str]:
    return [info.method.lower() for info in plan.adapters]


def _license_file(plan: Plan) -> str | None:
    return next((side.name for side in plan.side_files if _LICENSE.fullmatch(side.name)), None)


def number(value: float) -> str:
    """The shortest digits that mean this float, without a trailing .0."""
    return str(int(value)) if float(value).is_integer() else repr(value)


def markdown(text: str) -> str:
    """`text` as itself in Markdown, in a table too."""
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", printable(text))
