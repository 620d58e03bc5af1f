"""Memory that this process may still take."""

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
    """Bytes that the machine has available and the control groups of this process (containers, Slurm jobs) allow."""
    return max(0, min([psutil.virtual_memory().available, *_free_in_groups(Path(root))]))


def _free_in_groups(root):
    """Bytes that each control group of this process allows, its parents included; none where there is no limit."""
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
            yield from _free_in_group(place, *_GROUP_FILES[version])
            if place == root / top:
                break


def _free_in_group(folder, limit_file, used_file, reclaimable):
    try:
        limit, used = ((folder / name).read_text().strip() for name in (limit_file, used_file))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # a group without such a limit
        return
    if limit != "max":
        yield int(limit) - int(used) + int(statistics.get(reclaimable, 0))
