"""Which dtypes a merge can compute, by their safetensors spelling. Apart from `dtypes`, so that a plan needs no torch."""

#: What a changed tensor may be stored as: one float32 accumulation, one rounding into these.
MERGEABLE = frozenset({"F32", "F16", "BF16"})
#: What `--dtype` converts.
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
