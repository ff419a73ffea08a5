"""The formula, in tiles. No files, no names: tensors in, tensors out, on the CPU or a CUDA device.

tile.merge_tile     float32 scratch <- W; every term adds to it; one rounding into the output dtype
rounding            how: to nearest, by chance without bias, or
feedback            so that the errors cancel inside the update's row space
grid.TileGrid       which rows belong to which tile (needs no torch)
finite              is every element of these bytes a finite number?
dtypes              safetensors spelling <-> torch dtype
spelling            which dtypes a merge can compute (needs no torch)
"""
