"""What can be asked, as `Model` says.

whole       a checkpoint in memory, with adapters that PEFT applies unmerged (`unmerged`)
layers      the same, one decoder layer at a time from the files: `filling` brings weights, `march` runs the layers
stored      what both have in common
endpoint    an OpenAI-compatible URL; `transport` bounds the requests
llama_cpp   a GGUF file as llama.cpp runs it, in a `llama_process` of its own (`llama_child` is what runs there)
sources     the open files of a checkpoint and its adapters; tokenizer: how it reads and writes text
libraries   transformers and PEFT, their absence and their failures in a line of ours
"""
