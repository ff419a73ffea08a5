"""A whole model answers and gives logits as transformers and PEFT do, and sums several adapters exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ingot.demo import assets
from ingot.errors import BaseError, MismatchError, MissingComponent
from ingot.validate.model import Unsupported
from ingot.validate.models.whole import Whole
from tests import tiny_models
from tests.validate.makers import ROWS, copy_tokenizer, ignore, located, save_adapter, save_base

#: Third-party loaders leave descriptors to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def logits_of(spec: object, rows: list[list[int]] = ROWS, **options: Any) -> list[torch.Tensor]:
    model = Whole.open(located(spec), **options)
    try:
        return list(model.logits(rows, ignore))
    finally:
        model.close()


def largest(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def row_by_row(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0] for row in ROWS]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "use_dora": True}),
        ("llama_tied", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5]}}),
        ("gpt2", {"target_modules": ["c_attn", "wte"]}),
        ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}),
        ("llama", {"target_modules": ["q_proj"], "vocabulary": 70}),
        ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
    ],
)
def test_an_adapter_gives_the_logits_of_the_model_that_was_trained(
    tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    save_base(tmp_path / "base", model)
    trained = row_by_row(save_adapter(tmp_path / "adapter", model, **options))
    found = logits_of(f"{tmp_path}/base+{tmp_path}/adapter")
    assert largest(found, trained) < 1e-6
    untouched = row_by_row(tiny_models.MODELS[model]())
    assert max(float((a - b[:, : a.shape[1]]).abs().max()) for a, b in zip(untouched, trained, strict=True)) > 1e-5


def test_several_weighted_adapters_are_the_exact_sum_of_their_updates(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    weights = {"one": 0.7, "two": -1.5, "three": 1.0}
    for seed, name in enumerate(weights):
        save_adapter(tmp_path / name, "llama", seed, target_modules=["q_proj", "down_proj"], r=2 + seed)
    exact = tiny_models.MODELS["llama"]().double()
    parameters = dict(exact.named_parameters())
    for seed, (name, weight) in enumerate(weights.items()):
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        for key in [key for key in tensors if "lora_A" in key]:
            a, b = tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()
            path = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            parameters[path].data += weight * 6 / (2 + seed) * b @ a
    spec = "+".join([f"{tmp_path}/base", *(f"{tmp_path}/{name}={weight}" for name, weight in weights.items())])
    expected = row_by_row(exact)
    assert largest(logits_of(spec), expected) < 2e-6
    assert largest(logits_of(tmp_path / "base"), expected) > 1e-3


def test_a_dora_beside_another_adapter_on_one_module_is_not_answered_by_peft(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "one", "llama", target_modules=["q_proj"], use_dora=True)
    save_adapter(tmp_path / "two", "llama", 1, target_modules=["q_proj"])
    save_adapter(tmp_path / "apart", "llama", 2, target_modules=["v_proj"])
    with pytest.raises(Unsupported, match=r"several adapters change .*q_proj, and one of them is a DoRA"):
        logits_of(f"{tmp_path}/base+{tmp_path}/one+{tmp_path}/two")
    assert logits_of(f"{tmp_path}/base+{tmp_path}/one+{tmp_path}/apart")


def test_the_demo_answers_what_transformers_and_peft_answer() -> None:
    from peft import PeftModel

    task = assets.tasks()[1]
    prompts = [sample.prompt for sample in task.samples[:3]]
    model = Whole.open(located(f"{assets.base()}+{task.adapter}"), dtype="float32")
    found = model.answers(prompts, chat=True, new_tokens=14)
    model.close()
    model.close()
    inner = AutoModelForCausalLM.from_pretrained(assets.base(), dtype=torch.float32)
    peft_model: Any = PeftModel.from_pretrained(inner, str(task.adapter)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(assets.base())
    for prompt, answer in zip(prompts, found, strict=True):
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = peft_model.generate(**chat, do_sample=False, max_new_tokens=14)[0, chat["input_ids"].shape[1] :]
        assert answer == tokenizer.decode(output, skip_special_tokens=True)
    right = sum(sample.expected in answer for sample, answer in zip(task.samples, found, strict=False))
    assert right >= 2


def test_stored_generation_settings_do_not_change_a_greedy_answer(tmp_path: Path) -> None:
    shutil.copytree(assets.base(), tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "num_beams": 3}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(settings))
    prompts = [sample.prompt for sample in assets.tasks()[0].samples[:4]]
    answers = []
    for path in (assets.base(), tmp_path / "base"):
        model = Whole.open(located(path), dtype="float32")
        answers.append(model.answers(prompts, chat=True, new_tokens=8))
        model.close()
    assert answers[0] == answers[1]
    assert any(answers[0])


def test_the_digest_follows_files_and_weights_and_nothing_else(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", "llama", target_modules=["q_proj"])

    def digest(spec: str) -> str | None:
        model = Whole.open(located(spec))
        subject = model.subject
        model.close()
        assert subject.name == spec.replace(f"{tmp_path}/", "")
        return subject.digest

    spec = f"{tmp_path}/base+{tmp_path}/adapter"
    first = digest(spec)
    (tmp_path / "base" / "README.md").write_text("notes")
    assert digest(spec) == first
    assert len({first, digest(f"{spec}=0.5"), digest(f"{tmp_path}/base")}) == 3
    config = tmp_path / "base" / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    assert digest(spec) != first


def test_the_dtype_is_as_stored_or_as_asked(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama", torch.bfloat16)
    for asked, expected in ((None, "bfloat16"), ("float32", "float32")):
        model = Whole.open(located(tmp_path / "base"), dtype=asked)
        assert model.subject.dtype == expected
        model.close()
    wide, narrow = (logits_of(tmp_path / "base", dtype=dtype) for dtype in ("float32", None))
    reference = row_by_row(tiny_models.MODELS["llama"]().bfloat16().float())
    assert largest(wide, reference) < 1e-6 < largest(narrow, reference)


def test_an_adapters_own_chat_template_wins_as_in_a_merge(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", "llama", target_modules=["q_proj"])
    (tmp_path / "adapter" / "chat_template.jinja").write_text("[{{ messages[0]['content'] }}]")
    model = Whole.open(located(f"{tmp_path}/base+{tmp_path}/adapter"))
    assert model.render("hello", chat=True) == "[hello]"
    assert model.render("hello", chat=False) == "hello"
    assert model.decode(model.encode("hello", special=False)[0]) in "hello"
    model.close()


def test_an_encoder_decoder_answers_and_gives_no_logits(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "t5")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "decoder_start_token_id": 0}))
    (tmp_path / "base" / "generation_config.json").write_text(
        json.dumps({"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})
    )
    model = Whole.open(located(tmp_path / "base"))
    model.encode = lambda text, special: [5, 6, 7][: len(text)]  # type: ignore[method-assign]
    found = model.answers(["ab", "abc"], chat=False, new_tokens=4)
    inner: Any = tiny_models.MODELS["t5"]()
    settings = {"do_sample": False, "max_new_tokens": 4, "decoder_start_token_id": 0, "eos_token_id": 1}
    output = inner.generate(torch.tensor([[5, 6, 7]]), pad_token_id=0, **settings)[0]
    assert found[1] == model.tokenizer.plain(output)
    with pytest.raises(Unsupported, match="encoder-decoder"):
        next(model.logits(ROWS, ignore))
    model.close()


def test_a_classifier_is_not_supported_and_says_so(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "bert_classifier")
    with pytest.raises(Unsupported, match="BertForSequenceClassification, which does not generate"):
        Whole.open(located(tmp_path / "base"))


def test_a_parameter_without_a_tensor_is_refused_where_transformers_would_invent_it(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match=r"layers\.1\.mlp\.up_proj"):
        Whole.open(located(tmp_path / "base"))


def test_an_adapter_of_another_model_is_refused_where_peft_would_ignore_it(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "other", "phi3", target_modules=["qkv_proj", "o_proj"])
    with pytest.raises(MismatchError, match="tensors of the adapter"):
        Whole.open(located(f"{tmp_path}/base+{tmp_path}/other"))


def test_a_model_that_brings_code_is_not_run(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= {"model_type": "evil", "architectures": ["Evil"], "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(Unsupported):
        Whole.open(located(tmp_path / "base"))
    assert not (tmp_path / "ran").exists()


def test_a_quantized_checkpoint_names_the_library_that_is_missing(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingComponent, match="not installed"):
        Whole.open(located(tmp_path / "base"))


def test_a_prompt_longer_than_the_context_is_told_of(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "gpt2")
    model = Whole.open(located(tmp_path / "base"))
    assert model.context == 32
    model.encode = lambda text, special: [1] * len(text)  # type: ignore[method-assign]
    assert len(model.answers(["a" * 30], chat=False, new_tokens=8)) == 1
    with pytest.raises(Unsupported, match="40 tokens, and the model reads 32"):
        model.answers(["a" * 40], chat=False, new_tokens=8)
    model.close()


def test_without_peft_the_hint_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", "llama", target_modules=["q_proj"])
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    with pytest.raises(MissingComponent, match="peft") as refusal:
        Whole.open(located(f"{tmp_path}/base+{tmp_path}/adapter"))
    assert "pip install" in (refusal.value.hint or "")


def test_without_a_tokenizer_nothing_can_be_asked(tmp_path: Path) -> None:
    save_base(tmp_path / "base", "llama")
    for path in (tmp_path / "base").glob("*token*"):
        path.unlink()
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(Unsupported, match="no tokenizer"):
        Whole.open(located(tmp_path / "base"))
    copy_tokenizer(tmp_path / "base")
    Whole.open(located(tmp_path / "base")).close()
