"""The demo: a real (small) model, two real adapters, and the main job on them. Needs no network.

assets    the files that come with the package; how they were made stands in training/README.md
run       plan, merge, verify, validate, and the table
gguf      the merged models as GGUF, run by llama.cpp
"""

from ingot.demo.run import run

__all__ = ["run"]
