"""Many artifacts: what there is, where it came from, what may go, and how it comes back.

layout       where a registry is, and what lies where in it
store        `Registry`: publish, add, tag, free; the records are the truth
  looking    what it holds at this moment;  index: index.sqlite, a cache that makes itself anew
  founding   where one may be made
  tags       every tag that was ever set
  places     where things were last seen on this machine
entry        the nouns: an artifact in brief
resolve      from what a person types to an artifact
lineage      `trace`: from a file back to the training run, and forward from an adapter
difference   `diff`: what changed between two artifacts
keeping      adapters kept by content, read-only, for ever
finding      where the inputs of a record are now
  sought     what is looked for, and how it is known;  walking: a folder tree, within limits;  on_the_hub
rebuilding   `rebuild`: the same bytes again, or nothing
  returning  a freed artifact comes back into its registry
collect      `gc`: what a policy lets go, and what could be made again now, is freed
"""
