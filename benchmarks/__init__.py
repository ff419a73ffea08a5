"""Speed, memory and rounding of a merge, as ratios within one run on checkpoints that it makes itself."""
