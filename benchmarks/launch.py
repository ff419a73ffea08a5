"""Runs a command and prints what it cost as JSON. Small on purpose: a child's peak memory begins with its parent's.

python -I -S launch.py OUTPUT_OF_COMMAND COMMAND...
"""

import json
import os
import sys
import time


def main() -> None:
    """Fork, exec, wait; the child's standard streams go to the named file."""
    log, command = sys.argv[1], sys.argv[2:]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execvp(command[0], command)
    _, status, usage = os.wait4(child, 0)
    os.sync()
    cost = {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_nbytes": usage.ru_maxrss * 1024,
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
