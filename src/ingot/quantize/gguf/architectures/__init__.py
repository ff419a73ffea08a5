"""One file for each family of models that GGUF knows."""
