"""What both models make of the same samples before a word is answered.

tokens      do both tokenizers and chat templates make the same tokens?
rows        prompt and expected answer as rows of token ids
logits      KL divergence, top-1 agreement, perplexity, by a file of the reference's logits
"""
