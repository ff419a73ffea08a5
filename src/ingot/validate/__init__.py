"""Evidence: is the candidate the model that was trained? Everything is held against one reference, base + adapter.

spec, request   what the user asked for, taken apart and looked at
gguf_files      the files of a GGUF model, found and opened
run             all of it, in order, one model in memory at a time; `from_files` is what needs no model at all
models/         what can be asked for logits and answers: whole, layer by layer, a GGUF by llama.cpp, or behind a URL
weights/        element by element against float64 rounded once; what survived of the adapter
predictions/    the same tokens? KL divergence, top-1 agreement, perplexity
answers/        samples, greedy answers, metrics, paired statistics, lm-evaluation-harness
gates           the limits, and which one failed
report/         the result as lines, as a page, as JSON
result, model   the nouns: plain data, and what a model must answer; nothing else crosses between these folders
"""
