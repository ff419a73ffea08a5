"""What was made, of what, how, and what was checked: written beside the weights, and verified from them.

record            `finish`: an outcome -> ingot.json, an in-toto statement; written last
  form            its nouns, as in-toto and SLSA name them
  statement       its two digests, and the strict reader `read_record`
evaluations       `add_evaluation`: what `ingot validate` found, added to the record of a finished artifact
tensor_table      ingot.tensors.jsonl: one line a tensor, with running digests
card              README.md, the model card
verify            `verify`: is the artifact what its record says?
  artifact        the directory, opened by its record: names, sizes, modes
  structure       headers, tensor table, index, config: no tensor is read
  contents        every byte
  against_inputs  every byte, computed once more from base and adapters
  checks          Check, Verification
"""

from __future__ import annotations

from ingot.record.checks import Check, Depth, Verification
from ingot.record.evaluations import add_evaluation
from ingot.record.record import finish
from ingot.record.statement import Record, read_record
from ingot.record.verify import verify

__all__ = ["Check", "Depth", "Record", "Verification", "add_evaluation", "finish", "read_record", "verify"]
