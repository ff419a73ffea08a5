"""The long suite: each item injects one kind of trouble many times, and states the figure that it reached.

    python -m tests.battery [--only NAME ...] [--quick] [--json]        or `make battery`

    __main__     the list of items, progress, the table
    figure       what an item reports;  workshop: inputs, merges, comparisons;  processes: ingot in processes of its own
    release_shop a recipe, and what its release must be

    crash_points, failing_writes, full_disk, kills, signals       a run that dies
    resume_state, concurrency                                     what it leaves, and who else is there
    truncation, header_bits, evil, nonfinite                      inputs that are broken or hostile
    rot, permissions, determinism, memory                         the artifact and the run themselves
    registry_gc, registry_index                                   many artifacts, and what is known of them
    release_kills, rebuild_after_gc                               a release that dies; artifacts made again

Each item is a module with `run(scale, report) -> Figure`; `scale` 1 is the whole item, less is a sample of it.
`test_sample` runs a sample of each in `make test`.
"""
