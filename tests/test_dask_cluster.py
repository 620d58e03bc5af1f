import _thread
import os
import platform
import signal
import sys
import threading
from contextlib import contextmanager

import keras
import numpy as np
import pytest

pytest.importorskip("zarr")
dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

from rcan.commands.apply import main  # noqa: E402
from rcan.io.images import ImageFile  # noqa: E402
from rcan.io.opening import create_volume, open_volume  # noqa: E402
from rcan.restoration import dask_cluster as cluster  # noqa: E402
from rcan.restoration import dask_worker as worker  # noqa: E402
from rcan.restoration.dask_parts import group_frames, split_volume  # noqa: E402
from rcan.restoration.file import FileRestorer  # noqa: E402
from rcan.restoration.tiled import TiledRestorer  # noqa: E402
from rcan.restoration.tiles import tile_axis  # noqa: E402

TILES = ("-B", "8,32,32", "-O", "2,8,8")


def start(num_workers):
    """Processes that wait for work; they can be reached from this machine only."""
    return distributed.LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        host="127.0.0.1",
        memory_limit=None,
        dashboard_address=None,
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs="CRITICAL",
    )


@pytest.fixture(scope="module")
def workers():
    with start(2) as started:
        yield started


@pytest.fixture
def run(capfd):
    """Run the command; return what it printed: `out, err = run("-m", …, status=0)`."""

    def run(*flags, status=0):
        assert main([str(flag) for flag in flags]) == status
        return capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Two time points of two channels, of grey values."""
    path = tmp_path_factory.mktemp("image") / "cell.zarr"
    values = np.random.default_rng(0).gamma(2, 500, (2, 9, 40, 110, 2))
    sizes = {"T": 2, "C": 2, "Z": 9, "Y": 40, "X": 110}
    with create_volume(path, axes="TCZYX", sizes=sizes, dtype="uint16", file_format="zarr") as file:
        for number, block in enumerate(values):
            file.write({"T": number}, None, block)
    return path


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """Chunks of the images written here are small: an image of many is still tiny."""
    from rcan.io import zarr_writing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_writing, "CHUNK_BYTES", 2**12)
        patch.setattr(zarr_writing, "CHUNK_PLANES", 4)
        yield


def values_of(path, block_axes="ZYXC"):
    with open_volume(path, block_axes=block_axes) as file:
        return np.stack([file.read(frame, dtype=None) for frame in file.frames])


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def once_begun(folder, act):
    """Do something as soon as the first chunk of a result is written there."""

    def wait():
        while not ended.wait(0.02):
            if any(folder.glob(".*.partial-*/0/c/*/*/*/*/*")):
                act()
                return

    ended = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def whole(tiny_models, image, tmp_path_factory):
    """What one machine makes of the image: flags and values."""
    path = tmp_path_factory.mktemp("whole") / "one.zarr"
    flags = ("-m", str(tiny_models / "3d.keras"), "-i", str(image), *TILES)
    assert main([*flags, "-o", str(path)]) == 0
    return flags, values_of(path)


# Two processes


def test_workers_restore_what_one_machine_does(run, workers, whole, tmp_path):
    flags, expected = whole
    out, _ = run(*flags, "-o", tmp_path / "many.zarr", "--scheduler", workers.scheduler_address)
    assert expected.std() > 0
    np.testing.assert_array_equal(values_of(tmp_path / "many.zarr"), expected)
    assert "100% 158k/158k" in out  # 2 x 2 x 9 x 40 x 110 voxels
    assert left_in(tmp_path) == ["many.zarr"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("3d", (*TILES, "--channels", "1", "-b", "8", "--ensemble", "8", "--uncertainty", "--compare")),
        ("2d", ("-B", "32,32", "--normalize", "frame")),
        ("two_channels", ("--format", "zarr-0.4")),
    ],
)
def test_other_settings_reach_the_workers(run, workers, tiny_models, image, tmp_path, name, flags):
    given = ("-m", tiny_models / f"{name}.keras", "-i", image, *flags)
    run(*given, "-o", tmp_path / "one.zarr")
    run(*given, "-o", tmp_path / "many.zarr", "--scheduler", workers.scheduler_address)
    kinds = ["", "_uncertainty"] if "--uncertainty" in flags else [""]
    for kind in kinds:
        one, many = (values_of(tmp_path / f"{which}{kind}.zarr") for which in ("one", "many"))
        assert one.std() > 0
        np.testing.assert_array_equal(many, one)
    assert left_in(tmp_path) == sorted(f"{which}{kind}.zarr" for which in ("one", "many") for kind in kinds)


def test_workers_replace_spikes(run, workers, tiny_models, tmp_path):
    values = np.random.default_rng(0).gamma(2, 500, (9, 40, 110, 1)).astype(np.uint16)
    values[::2, ::8, 32] = 65_535  # at borders of parts, too
    path = tmp_path / "hot.zarr"
    with create_volume(
        path, axes="ZYX", sizes=dict(zip("ZYX", values.shape, strict=False)), dtype="uint16", file_format="zarr"
    ) as file:
        file.write({}, None, values)
    flags = ("-m", tiny_models / "3d.keras", "-i", path, "--despike", *TILES)
    run(*flags, "-o", tmp_path / "one.zarr")
    run(*flags, "-o", tmp_path / "many.zarr", "--scheduler", workers.scheduler_address)
    one, many = (values_of(tmp_path / f"{name}.zarr") for name in ("one", "many"))
    np.testing.assert_array_equal(many, one)


def test_the_part_of_a_killed_worker_is_done_by_another(run, workers, whole, tmp_path):
    flags, expected = whole
    killed = []

    def kill():
        killed.append(workers.workers[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    with once_begun(tmp_path, kill):
        run(*flags, "-o", tmp_path / "many.zarr", "--scheduler", workers.scheduler_address)
    assert killed
    np.testing.assert_array_equal(values_of(tmp_path / "many.zarr"), expected)


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, whatever the shell has set."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_job_leaves_the_cluster_and_no_output(run, workers, whole, tmp_path):
    flags, _ = whole
    with once_begun(tmp_path, _thread.interrupt_main):
        run(*flags, "-o", tmp_path / "many.zarr", "--scheduler", workers.scheduler_address, status=130)
    with distributed.Client(workers.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=20)
        assert client.submit(sum, [1, 2], pure=False).result(timeout=20) == 3  # after what was in work
    assert left_in(tmp_path) == []


def test_an_error_of_a_worker_names_file_and_machine(run, workers, tiny_models, image, tmp_path):
    model = keras.saving.load_model(tiny_models / "3d.keras")
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    model.save(tmp_path / "broken.keras")
    flags = ("-m", tmp_path / "broken.keras", "-i", image, "-o", tmp_path / "many.zarr")
    _, err = run(*flags, "--scheduler", workers.scheduler_address, status=1)
    (line,) = err.splitlines()
    assert line.startswith(f"error: {image} is restored to NaN")
    assert line.endswith(f"(on {platform.node()})")
    assert left_in(tmp_path) == ["broken.keras"]


def test_no_worker_at_all_ends_the_job(run, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    monkeypatch.setattr(cluster, "_LOOK_INTERVAL", 0.1)
    with start(0) as empty:
        address = empty.scheduler_address
        _, err = run(*whole[0], "-o", tmp_path / "out.zarr", "--scheduler", address, status=1)
    assert f"error: {address}: there has been no worker for 0.3 s." in err
    assert left_in(tmp_path) == []


def test_a_wrong_address_is_told(run, whole, tmp_path):
    with dask.config.set({"distributed.comm.timeouts.connect": "0.3s"}):
        _, err = run(*whole[0], "-o", tmp_path / "out.zarr", "--scheduler", "tcp://127.0.0.1:1", status=1)
    assert err.startswith("error: tcp://127.0.0.1:1: no Dask scheduler answers there")
    assert len(err.splitlines()) == 1


# One worker, without a cluster


@pytest.mark.parametrize("missing", ["input", "folder"])
def test_a_worker_says_what_it_does_not_see(image, tmp_path, missing):
    request = dict.fromkeys(["writers", "ranges", "part", "tile_shape", "overlap"])
    request |= {"raw_file": ImageFile(image), "signs": [str(tmp_path / ".out.partial" / ".in-work")]}
    if missing == "input":
        request["raw_file"] = ImageFile(tmp_path / "absent.zarr")
    kind, message = worker.perform(lambda: None, (), request)
    name = {"input": tmp_path / "absent.zarr", "folder": tmp_path}[missing]
    assert kind == "failed"
    assert message.startswith(f"{name} is not seen")
    assert message.endswith(f"(on {platform.node()})")


def test_a_worker_loads_a_network_once():
    loaded = []

    def load(key):
        loaded.append(key)
        return FileRestorer(TiledRestorer(worker.RemoteEngine((1, 1, 1), (1, 1, 1), (1, 1))))

    for key in (1, 1, 2):
        assert worker.perform(load, (key,))[0] == "done"
    assert loaded == [1, 2]


def test_too_little_memory_of_a_worker_is_told_apart():
    def load():
        raise MemoryError("tile")

    assert worker.perform(load, ("too large",)[:0])[0] == "memory"


def test_a_writer_stops_once_the_job_has_ended(tmp_path):
    with pytest.raises(FileNotFoundError):
        worker._GuardedWriter(None, tmp_path / ".in-work").write({}, None, np.zeros((1, 1, 1, 1)))


# Boxes


@pytest.mark.parametrize("num_workers", [1, 3, 16])
@pytest.mark.parametrize("num_repeats", [1, 40])
def test_boxes_cover_the_output_once_along_borders_of_chunks(num_workers, num_repeats):
    shape, steps = (20, 100, 230), (8, 32, 24)
    cuts = [tile_axis(size, tile=16, overlap=4) for size in shape]
    parts = split_volume(cuts, steps=steps, num_repeats=num_repeats, num_workers=num_workers)
    counts = np.zeros(shape, int)
    for part in parts:
        counts[part] += 1
        assert all(side.start % step == 0 for side, step in zip(part, steps, strict=True))
    assert (counts == 1).all()


def test_a_long_time_lapse_is_not_split():
    cuts = [tile_axis(size, tile=16, overlap=4) for size in (20, 100, 230)]
    parts = split_volume(cuts, steps=(8, 32, 24), num_repeats=1000, num_workers=4)
    assert len(parts) == 1


def test_there_is_work_for_all_and_little_is_done_twice():
    cuts = tile_axis(6400, tile=116, overlap=16)
    assert len(cuts) == 64
    parts = split_volume([cuts], steps=[100], num_repeats=1, num_workers=4)
    num_computed = sum(cut.write.start < part.stop and cut.write.stop > part.start for (part,) in parts for cut in cuts)
    assert len(parts) >= 8
    assert num_computed < 1.2 * len(cuts)


def test_planes_of_one_chunk_stay_together():
    frames = [{"T": t, "Z": z} for t in range(2) for z in range(5)]
    assert group_frames(frames, 3) == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]


# Wrong usage


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["-o", "out.zarr", "-g", "gt.tif"], "--scheduler restores without ground truth"),
        (["-o", "out.zarr", "--normalize_output_range_between_zero_and_one"], "needs the whole result"),
        (["-o", "out.tif"], "out.tif: --scheduler writes OME-Zarr"),
        (["-o", "out.tif", "--format", "ome"], "--scheduler writes OME-Zarr, not ome"),
    ],
)
def test_what_a_cluster_cannot_do_is_wrong_usage(run, tiny_models, image, tmp_path, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    model = tiny_models / "3d.keras"
    _, err = run("-m", model, "-i", image, *flags, "--scheduler", "local", status=2)
    assert reason in err


def test_missing_dask_names_the_extra(run, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    _, err = run(*whole[0], "-o", tmp_path / "out.zarr", "--scheduler", "local", status=1)
    assert 'python -m pip install "rcan-microscopy[dask]"' in err
