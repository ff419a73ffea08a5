"""The weights of a candidate against base + adapters, element by element. Needs no model, and a few tiles of memory.

compare     all tensors, on a few threads
pairing     which tensor of the candidate stands for which of the plan's
fidelity    one changed tensor in float64, by the terms of the merge itself
subspace    what of an error the adapter's own input directions see
ulps        rounding once, and distances
diagnosis   what is wrong, in plain words
"""
