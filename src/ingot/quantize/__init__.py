"""Formats beside safetensors that a merge or a checkpoint is written to.

gguf/   for llama.cpp: keys, names, types and bytes as its own tools make them
"""
