"""`ingot registry ui`: the registry as pages in a browser, on this machine, to look at.

server       the HTTP server: who may ask, and what goes with every answer
routes       from an address to its page
site         what pages are made from: the registry as it is now
frame        the frame around every page; links between pages
listing      all artifacts in a table, sorted and filtered
artifact     one artifact
  making     what it was made of, and by which recipe
  scores     what evaluations found of it
origin       an adapter or a base: all that was made of it
lineage      the whole graph
compare      two artifacts
graph        who was made of what
  layout     where its nodes stand
  drawing    the graph as SVG
ui.css       how it looks, upon the style of the page of an evaluation

Laws. It reads and never writes, and no part of an address becomes a path: identities and digests are looked up among
the known ones. All text of records is escaped where it becomes markup (`markup.tag`). Nothing comes from elsewhere.
"""
