"""What people run today: load the model, wrap it, merge, save. The comparison of `make bench`."""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(base: str, adapter: str, out: str, safe: bool) -> None:
    """Merge with PEFT and save the checkpoint in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=safe)
    merged.save_pretrained(out, max_shard_size="1200MB")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], safe="--safe" in sys.argv)
