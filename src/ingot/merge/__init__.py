"""The main job: base and adapters in, one artifact out. `ingot plan` and `ingot merge` call it; a program may too.

with prepare("base/", [("adapter/", 1.0)], Options(), target=Path("out")) as job:
    print(job.plan.digest)
    job.run()

`prepare_formats` and `run_together` make several artifacts of one base and its adapters, which are read once.

opening    what is named -> what is open, planned: `prepare`, `prepare_formats`
job        `Job`: open, planned; it runs alone
running    jobs -> outputs of the engine's run; `run_together`
"""

from ingot.merge.job import Job
from ingot.merge.opening import Wanted, cores, prepare, prepare_formats
from ingot.merge.running import checked_device, run_together

__all__ = ["Job", "Wanted", "checked_device", "cores", "prepare", "prepare_formats", "run_together"]
