"""Which dtypes a merge can compute, by their safetensors spelling. A plan needs no torch for that."""

#: What a changed tensor may be stored as: one float32 accumulation, one rounding into these.
MERGEABLE = frozenset({"F32", "F16", "BF16"})
#: What `--dtype` converts.
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
#: What users call them, and how a safetensors header spells them.
DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32",
    "bf16": "BF16", "fp16": "F16", "fp32": "F32",
}  # fmt: skip
#: How torch and the libraries on it call them.
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
