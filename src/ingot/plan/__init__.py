"""What a merge will do, as data: made from headers and configs, printed by `plan`, executed by `engine`.

model       the dataclasses: Plan, ShardPlan, Op, PlacedTerm; the digest
build       base + adapters -> Plan
resolve     adapter updates -> edits of parameters -> terms placed in tensors on disk
ties        tied embeddings: kept, or untied with an explicit head
vocabulary  one number of rows for all embeddings
replicate   `layer_replication`: new layers from old ones
layout      ops -> shards, headers
configs     what changes in config.json
budget      bytes, memory, FLOPs, seconds
render      the plan as a table
"""
