"""Out of a merged model again: the difference of two checkpoints as a PEFT adapter.

run          `extract`: open both, compare, choose forms, decompose, write
  source       a checkpoint's parameters, block by block, wherever they lie on disk
  pairing      every parameter of both, side by side
  forms        what becomes of each that differs: factors, a whole tensor, a bias
    layers       how PEFT stores factors, for each kind of layer
    selectors    names that PEFT matches with exactly these modules
  decompose    the best product of two thin matrices, and exactly how much it holds
  fit          one parameter: decomposed, and measured as stored
  write        adapter_model.safetensors;  config, side_files, record: what stands beside it
  result       how well it fits, in groups; warnings;  render: the same as text
verify       is an extracted adapter what its record says?
  statement    the record's form, and its strict reader
"""
