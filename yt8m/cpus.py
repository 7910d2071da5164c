"""The processors that this process may use."""

import os


def available_cpus() -> int:
    """Processors available to this process; all of them on systems without CPU affinity, such as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
