"""A base checkpoint as named tensors, from headers alone.

named         ADAPTER=WEIGHT as a user types it
locate        a directory, a Hub id `org/name@revision`  ->  a directory with its origin
checkpoint    the directory  ->  shards, tensors, config, index
side_files    which other files belong to a model, and to which part of it
"""
