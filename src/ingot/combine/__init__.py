"""Several adapters -> one change of each tensor. Everything works on full deltas Δ = f(W) - W, never on factors.

parameters   the methods by name, and what each takes; a request becomes a Combination, every number resolved
combined     the Term of a whole tensor that several adapters change
  deltas     one adapter's delta of a tensor, tile by tile
  selection  the k largest of a matrix that is only seen as tiles: exactly k
  keeping    what of a delta is kept: by magnitude, by chance
  consensus  how several become one: their sum, or the mean of those that agree
  sce        the method that finds the weights itself
  running    a Combined at work
apart        whose is which term of a tensor
"""
