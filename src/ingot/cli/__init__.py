"""The command line: verbs, one Output, one boundary between exceptions and exit codes.

    boundary    main: argv -> exit code; nothing but exit codes leaves it
    app         the verbs
      verbs/    one file a verb: what it takes, which function of the library does it, what it shows
      framework click with examples first, options in groups, near matches
      arguments ADAPTER=WEIGHT and the options that several verbs share
    output      Output: human, JSON Lines or quiet; stdout is data, stderr is talk
    progress    a bar on a terminal, a line every ten seconds elsewhere
    signals     the first Ctrl-C asks, the second ends

Importing this imports no torch, numpy, transformers, rich or huggingface_hub; each verb imports what it runs.
"""

from __future__ import annotations

from ingot.cli.boundary import main

__all__ = ["main"]
