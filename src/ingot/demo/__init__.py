"""The demo: a real (small) model, two real adapters, and the main job on them. Needs no network.

assets    the files that come with the package; how they were made stands in training/README.md
recipes   a recipe for each adapter
run       both released, and the table
"""

from ingot.demo.run import run

__all__ = ["run"]
