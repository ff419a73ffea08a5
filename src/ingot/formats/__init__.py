"""Bytes to headers and back, strictly: what lies where in a file, learned without reading, or running, what lies there.

    safetensors header -> Header of TensorRefs     safetensors.py (safetensors_grammar.py reads its JSON)
    *.index.json       -> ShardIndex               index.py, also which names may stand for a file
    torch.save .bin    -> TensorRefs               torch_pickle.py (stored_zip.py, pickle_machine.py, torch_globals.py)
    any JSON           -> a value                  strict_json.py

Two kinds of refusal. An honest file that cannot be used, because its download was cut off or its dtype is unknown to
ingot, raises the class that the caller passes as `incomplete` (BaseError, AdapterError). What no honest writer
produces raises UnsafeInputError. Nothing here reads a tensor's bytes, and nothing imports numpy or torch.
"""

from __future__ import annotations

from ingot.formats.index import ShardIndex, build_index, check_agreement, check_file_name, parse_index
from ingot.formats.safetensors import Header, build_header, header_nbytes, parse_header, read_header
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.formats.torch_pickle import read_torch_zip

__all__ = [
    "DTYPE_NBYTES",
    "Header",
    "ShardIndex",
    "TensorRef",
    "build_header",
    "build_index",
    "check_agreement",
    "check_file_name",
    "header_nbytes",
    "parse_header",
    "parse_index",
    "read_header",
    "read_torch_zip",
]
