"""Evidence: is the candidate the model that was trained? Everything is held against one reference, base + adapter.

model        `Model`: what can be asked for logits and answers; `open_model` makes one of a spec
  whole      a checkpoint, with or without adapters that PEFT applies unmerged, in memory
  layers     the same, one decoder layer at a time from the files, in bounded memory
  endpoint   an OpenAI-compatible URL; `transport` bounds the requests
samples      JSON Lines of prompts and expected answers, read strictly
tokens       do both tokenizers and chat templates make the same tokens of the samples?
weights      element by element against float64 rounded once; what survived of the adapter (needs no model)
logits       KL divergence, top-1 agreement, perplexity
tasks        greedy answers (`asking`) or likely choices (`likelihood`), kept for a resume, scored by `metrics`
harness      tasks of lm-evaluation-harness by name; `lm_adapter` is what it sees of our models
statistics   paired: McNemar's exact test, bootstrap interval, what so many samples can show
gates        the limits, and which one failed
result       the nouns of an evaluation, as plain data; nothing else crosses between these files
run          all of it, in order, one model in memory at a time
words        the verdict in a sentence, figures as text
comparison   every figure of every candidate, as rows
text         a result as lines for a terminal
page         one self-contained HTML page of a result
"""
