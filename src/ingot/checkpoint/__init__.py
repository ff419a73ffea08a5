"""A base checkpoint as named tensors, from headers alone.

named         ADAPTER=WEIGHT as a user types it
locate        a directory, a Hub id `org/name@revision`  ->  a directory with its origin
checkpoint    the directory  ->  shards, tensors, config, index
quantized/    a quantized checkpoint's weights as dense tensors
reading       elements of a tensor, decoded where it is an encoded one
side_files    which other files belong to a model, and to which part of it
"""
