"""llama.cpp in this process, computing as exactly as it can: one thread, keys and values cached in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import xllamacpp


class Running:
    """A GGUF file that llama.cpp has loaded, with LoRA adapters if any."""

    def __init__(self, file: Path, *, context: int = 512, adapters: Sequence[Path] = ()) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = context
        params.n_parallel = params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.n_gpu_layers = 0
        params.warmup = params.fit_params = params.ui = False
        params.swa_full = True
        params.verbosity = -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if adapters:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in adapters]
        self._server = xllamacpp.Server(params)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that it writes after these, or fewer where the text ends."""
        body = {"prompt": list(ids), "n_predict": count, "temperature": 0, "return_tokens": True}
        return [int(token) for token in self._ask("/completion", body)["tokens"]]

    def log_probabilities(self, ids: Sequence[int], columns: int) -> np.ndarray:
        """float32[columns] of the token after these. What is chosen is biased to one that the server can show."""
        body = {"prompt": list(ids), "n_predict": 1, "temperature": 0, "n_probs": columns, "logit_bias": [[69, 1e9]]}
        (position,) = self._ask("/completion", body)["completion_probabilities"]
        found = np.full(columns, np.nan, dtype=np.float32)
        for token in position["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text, those that are put around it among them with `special`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return [int(token) for token in self._ask("/tokenize", body)["tokens"]]

    def chat(self, message: str) -> str:
        """What the template in the file makes of a user's message."""
        return str(self._ask("/apply-template", {"messages": [{"role": "user", "content": message}]})["prompt"])

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        # without `verify=False` every call would read the machine's certificates
        response = httpx.post(
            self._server.listening_address + path, json=body, trust_env=False, timeout=60, verify=False
        )
        assert response.status_code == 200, response.text
        return response.json()
