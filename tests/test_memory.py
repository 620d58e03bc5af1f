import psutil
import pytest

from rcan.memory import free_memory

UNLIMITED = "9223372036854771712"


def make_group(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def v1(limit, used, reclaimable=0):
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": f"cache 7\ntotal_inactive_file {reclaimable}",
    }


def v2(limit, used, reclaimable=0):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"inactive_file {reclaimable}"}


@pytest.fixture
def root(tmp_path):
    """A system whose process is in the group /job/step of both versions, neither with a limit."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/job/step\n2:cpuacct:/\n0::/job/step\n")
    make_group(tmp_path / "sys/fs/cgroup/memory/job/step", v1(UNLIMITED, 1000))
    make_group(tmp_path / "sys/fs/cgroup/job/step", v2("max", 1000))
    return tmp_path


def test_without_a_limit_it_is_what_the_machine_has(root):
    assert free_memory(root) == pytest.approx(psutil.virtual_memory().available, rel=0.05)


@pytest.mark.parametrize(("files", "top"), [(v1, "sys/fs/cgroup/memory"), (v2, "sys/fs/cgroup")])
@pytest.mark.parametrize("group", ["job/step", "job", ""])
def test_the_limit_of_a_group_counts_less_what_is_used(root, files, top, group):
    make_group(root / top / group, files(5000, 3000, reclaimable=400))
    assert free_memory(root) == 2400


def test_a_group_beyond_its_limit_leaves_nothing(root):
    make_group(root / "sys/fs/cgroup/job", v2(5000, 6000))
    assert free_memory(root) == 0


def test_a_system_without_control_groups_has_no_limit(tmp_path):
    assert free_memory(tmp_path) > 0
