"""Which type each tensor gets in a GGUF of some file type: the rules of llama.cpp, as tables.

plan     tensors of a model -> their types, and the order in which they stand in the file
model    what of a model the rules look at, and the part that a tensor plays
rules    the tables: (file types, conditions) -> type
kept     tensors that are never quantized, and what type they keep

The rules are facts of llama.cpp 0c1e57098 (src/llama-quant.cpp), told in our own words; the tests hold them against
the llama-quantize that is built from it.
"""

from ingot.quantize.gguf.mixtures.kept import is_kept, unquantized_type
from ingot.quantize.gguf.mixtures.model import Model
from ingot.quantize.gguf.mixtures.plan import output_order, plan_types

__all__ = ["Model", "is_kept", "output_order", "plan_types", "unquantized_type"]
