"""A model that answers by a rule, for tests of what asks it; and the demo's model, asked through transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ingot.demo import assets
from ingot.validate.model import Progress, Unsupported
from ingot.validate.result import Subject


class StandIn:
    """Reads bytes as tokens; `rule` answers, and `likes` is the text that it finds likely after anything."""

    prefix = 0
    context: int | None = None

    def __init__(self, rule: Callable[[str], str], *, digest: str | None = "m", likes: str = "") -> None:
        self.subject = Subject("stand-in", "checkpoint", digest, "float32")
        self.rule, self.likes = rule, likes
        self.batches: list[int] = []
        self.fails: Callable[[Sequence[str]], Exception | None] = lambda prompts: None

    def render(self, prompt: str, *, chat: bool) -> str:
        return f"<user>{prompt}<assistant>" if chat else prompt

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [0] * special + list(text.encode())

    def decode(self, token: int) -> str:
        return chr(token)

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """Every byte of `likes` has logit 1, the others 0."""
        if not self.likes:
            raise Unsupported("it gives no logits")
        row_logits = torch.zeros(256)
        row_logits[list(self.likes.encode())] = 1.0
        for row in rows:
            yield row_logits.repeat(len(row), 1)
            progress(1)

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        fault = self.fails(prompts)
        if fault is not None:
            raise fault
        self.batches.append(len(prompts))
        return [f" {self.rule(prompt)}\n" for prompt in prompts]

    def close(self) -> None:
        pass


class Demo:
    """The demo's base in float32, or with one of its adapters, through transformers and PEFT alone."""

    context = 512

    def __init__(self, adapter: str | None = None, *, damage: float = 0.0) -> None:
        """`damage`: standard deviation of noise that is added to the output embedding."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.subject = Subject("demo", "checkpoint", "d", "float32")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(assets.base())
        self.model: Any = AutoModelForCausalLM.from_pretrained(assets.base(), dtype=torch.float32)
        if adapter is not None:
            self.model = PeftModel.from_pretrained(self.model, str(assets.DATA / "adapters" / adapter))
            self.model = self.model.merge_and_unload()
        self.model.eval()
        weight = self.model.get_output_embeddings().weight.data
        weight += damage * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        self.prefix = int(self.tokenizer.bos_token_id)

    def render(self, prompt: str, *, chat: bool) -> str:
        messages = [{"role": "user", "content": prompt}]
        template = self.tokenizer.apply_chat_template
        return str(template(messages, tokenize=False, add_generation_prompt=True)) if chat else prompt

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def decode(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        for row in rows:
            with torch.inference_mode():
                yield self.model(torch.tensor([list(row)])).logits[0].float()
            progress(1)

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        texts = [self.render(prompt, chat=chat) for prompt in prompts]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False,
                max_new_tokens=new_tokens,
            )  # fmt: skip
        width = inputs["input_ids"].shape[1]
        return [str(text) for text in self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]

    def close(self) -> None:
        pass
