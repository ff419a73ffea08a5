"""What llama.cpp itself answers, recorded: `make test` compares with the records, `make reference` makes them again.

llama_cpp   builds llama.cpp from the sdist of llama-cpp-python (once, about 8 CPU minutes), and calls it
plans       the types that its llama_model_quantize gives every tensor of every skeleton, for every file type
bytes       what its ggml_quantize_chunk makes of varied rows, for every type
files       the files that merge, its converter and its llama-quantize make of every small model

Run `python -m tests.quantize.gguf.reference` to write the records anew. The build is kept in `.llama-cpp/`, or where
INGOT_LLAMA_CPP says.
"""
