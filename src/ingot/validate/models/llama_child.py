"""The process that llama.cpp runs in: started by `llama_process`, which it does not outlive.

It reads one line of settings, starts the server, writes one line (where it listens), and ends when its input does: the
parent closes it, or is no more. What is run here may end the process by itself (an assertion of ggml), which is why it
is one of its own. Imports nothing of ingot, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # the library's own words go where its errors go
    settings = json.loads(sys.stdin.readline())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["alias"]}
    params.api_keys = [settings["key"]]
    params.hostnames = ["127.0.0.1"]
    params.n_ctx = settings["context"]
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = -1 if settings["gpu"] else 0
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.swa_full = True  # so that a row that grows by a token is not read again from its beginning
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.verbosity = 1  # errors alone
    server = xllamacpp.Server(params)
    os.write(answer, f"{server.listening_address}\n".encode())
    sys.stdin.read()
    os._exit(0)  # nothing is left to save, and a request may be under way


if __name__ == "__main__":
    main()
