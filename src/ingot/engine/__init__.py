"""The pump: moves the bytes of a plan. What a model is for, it does not know.

run        `execute(outputs, ...)`: stage, have a sink write the large files, records, publish
outcome    what a run is, what it makes, and what it did
shards     the safetensors sink: a pump, side files
pump       one shard's chunks through a few workers
chunk      one chunk: which bytes feed it, what is copied and checked, what is computed
patch      the computed bytes, tile by tile
changes    terms made ready when a tile first needs them
factors    adapter tensors as float32 matrices
recompute  the same once more, compared with an artifact instead of written
digests    sha256 in the order of the bytes, from many workers
"""
