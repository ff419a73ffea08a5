"""What all methods share: layers on embeddings whose whole weight PEFT saved with the adapter."""

from __future__ import annotations

import peft

from tests.adapters.methods.judge import Judge, jitter
from tests.oracle.reference import assert_close, changed, merged, on_disk, unheard


def test_layers_on_a_resized_vocabulary_are_pefts(judge: Judge) -> None:
    base, adapter = judge.base("llama"), judge.root / "resized"
    config = peft.OFTConfig(oft_block_size=4, target_modules=["embed_tokens", "lm_head"])
    with unheard():
        model = judge.load("llama")
        model.resize_token_embeddings(70, mean_resizing=False)
        wrapped = peft.get_peft_model(model, config)
        jitter(wrapped)
        wrapped.save_pretrained(adapter, save_embedding_layers=True)
        again = judge.load("llama")
        again.resize_token_embeddings(70, mean_resizing=False)
        peft.PeftModel.from_pretrained(again, adapter).merge_and_unload().save_pretrained(adapter / "by-peft")
    merged(base, adapter, adapter / "ours")
    ours, theirs = on_disk(adapter / "ours"), on_disk(adapter / "by-peft")
    assert_close(ours, theirs)
    assert changed(on_disk(base), ours) == {"model.embed_tokens.weight", "lm_head.weight"}
