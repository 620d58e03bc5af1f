"""How much memory there is to use."""

from pathlib import Path

import psutil

__all__ = ["free_memory"]

# Control groups, by which queues and containers limit memory: the file that holds the limit, the one that
# holds what is used, and the key of memory.stat whose pages the system gives back when asked.
_GROUP_FILES = {
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "v2": ("memory.max", "memory.current", "inactive_file"),
}


def free_memory(root="/"):
    """Memory that this process may still take.

    Parameters
    ----------
    root : path
        Where ``proc`` and ``sys`` are looked for.

    Returns
    -------
    num_bytes : int
        The smaller of what the machine has available and what the limits of the process's control groups
        (Linux: containers, Slurm jobs) leave.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(Path(root))]))


def _left_by_groups(root):
    """What each control group of this process that has a limit leaves, its parents included."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, top = ("v1", "sys/fs/cgroup/memory") if controllers else ("v2", "sys/fs/cgroup")
        folder = root / top / group.strip("/")
        # a container sees its own group as the topmost
        for place in (folder, *folder.parents):
            yield from _left_by_group(place, *_GROUP_FILES[version])
            if place == root / top:
                break


def _left_by_group(folder, limit_file, used_file, reclaimable):
    try:
        limit, used = ((folder / name).read_text().strip() for name in (limit_file, used_file))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # a group without such a limit
        return
    if limit != "max":
        yield int(limit) - int(used) + int(statistics.get(reclaimable, 0))
