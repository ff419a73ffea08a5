"""A model as GGUF files, in one pass from merged rows: byte for byte what llama.cpp makes of the merged model.

run, document            from a plan to files that are known to the byte before the first weight is read
architecture(s)          which tensors a family's GGUF has, of which rows; its keys
vocabulary, metadata     the tokenizer's keys; the general ones
types, mixtures          ggml's types; which one each tensor gets in a file of Q4_K_M, …
asked                    from what users type to the plan's options
quantizer, choose        what a quantizer is; who makes a type here
blocks                   quantizers in numpy
native, selftest         ggml's own quantizers from an installed library, and the test that one must pass
imatrix                  importance matrices
layout, assemble, sink   where bytes stand; rows put together; written
"""
