"""A model's tokenizer as the keys of a GGUF.

add          the door: which kind of tokenizer the files hold, its tokens, special ids, chat template
byte_level   byte-level BPE of a tokenizer.json ("gpt2" in GGUF)
pieces       SentencePiece: a tokenizer.model, or a tokenizer.json that was converted from one ("llama" in GGUF)
splits       which of llama.cpp's pre-tokenizers splits text as this tokenizer.json does
tokens       a vocabulary as data, and what every kind of it shares
"""
