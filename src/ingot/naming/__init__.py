"""Which module an adapter's path means, and where that module's parameters stand in the checkpoint's files.

Names                    module path -> Site; parameter name -> Site; names for new tensors; tied aliases
├── fast                 families with the same names in memory and on disk: answered from a table, without imports
├── transformers_map     every other model that transformers knows: asked of its class on the meta device
│   ├── classes          which class: the checkpoint's own, or one with the head of the adapter's task
│   ├── kinds            what each module of it is
│   └── layout           transformers' converters, run on descriptions instead of tensors, give the blocks
├── names_only           models that transformers does not know: names on disk are taken as they are
├── table                what each of these three finds out
└── resolve              names of another era, style or prefix
Site, Placement          the answer
"""

from ingot.naming.names import Names
from ingot.naming.placement import Placement, Site

__all__ = ["Names", "Placement", "Site"]
