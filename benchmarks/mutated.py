"""Read many damaged files: each must be read, or be refused by lines that name it, soon and in little memory.

    python benchmarks/mutated.py tiff [--number 10000] [--seed 0] [--keep FOLDER]
    python benchmarks/mutated.py zarr [--number 5000]
    python benchmarks/mutated.py run [--number 500]

Small valid images of many layouts are written, and changed at random: bits, numbers of the structure (sizes, offsets,
counts, types), ends cut off, parts twice or missing; for Zarr also metadata that are of another kind, nested, huge or
gone, and chunks that are other files. Each is opened and read as `apply.py` reads it (range, noise, every voxel), in a
process that is ended after 20 seconds. Of run folders one of the files is changed in this way: the records, the
network, the state of the training, or the list of restored images; then an image, or a folder, is restored with it, or
the training goes on. Counted are: read; refused; and what must not be: slow, more than 2 GB of
memory, an error that is not foreseen, an error that does not name the file. Those are kept in FOLDER, and the exit
status is 1.
"""

import argparse
import collections
import contextlib
import json
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

MOST_SECONDS, MOST_BYTES = 20, 2e9
SHAPE = (6, 24, 32)
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
JSON_EXTREMES = (
    0,
    1,
    -1,
    3,
    1e6,
    10**6,
    10**9,
    2**31,
    2**62,
    2**64,
    1e400,
    0.5,
    "",
    "a",
    "<u2",
    None,
    True,
    [],
    {},
    [1],
)


# Valid images


def write_tiffs(folder):
    """Small TIFF files of many layouts; their paths."""
    import tifffile

    rng = np.random.default_rng(0)
    image = rng.integers(100, 4000, (2, *SHAPE)).astype(np.uint16)
    layouts = {
        "plain": {},
        "hyperstack": {"imagej": True, "metadata": {"axes": "TZYX", "spacing": 0.3}, "resolution": (10, 10)},
        "ome": {"ome": True, "metadata": {"axes": "CZYX", "PhysicalSizeZ": 0.3}},
        "ome_tiles": {"ome": True, "metadata": {"axes": "CZYX"}, "tile": (16, 16), "compression": "zlib"},
        "big": {"bigtiff": True, "compression": "lzw", "predictor": True},
        "strips": {"rowsperstrip": 5, "compression": "packbits"},
        "big_endian": {"byteorder": ">", "metadata": None},
    }
    for name, options in layouts.items():
        dtype = np.uint8 if name == "strips" else np.float32 if name == "ome_tiles" else np.uint16
        tifffile.imwrite(folder / f"{name}.tif", image.astype(dtype), **options)
    with tifffile.TiffWriter(folder / "series.tif", ome=True) as file:
        for _ in range(2):
            file.write(image[0], metadata={"axes": "ZYX"}, subifds=1)
            file.write(image[0, :, ::2, ::2], subfiletype=1)
    return sorted(folder.glob("*.tif"))


def write_zarrs(folder):
    """Small Zarr folders of many layouts; their paths."""
    import zarr

    from rcan.io.opening import create_volume

    image = np.random.default_rng(0).integers(100, 4000, SHAPE).astype(np.uint16)
    for file_format in ("zarr", "zarr-0.4"):
        path = folder / f"{file_format}.zarr"
        facts = {"axes": "ZYX", "sizes": dict(zip("ZYX", SHAPE, strict=True)), "dtype": np.uint16}
        with create_volume(path, **facts, voxel_size=(0.3, 0.1, 0.1), file_format=file_format) as sink:
            sink.write({}, None, image[..., np.newaxis])
    for name, options in {
        "v2": {"zarr_format": 2},
        "v3": {"zarr_format": 3},
        "gzip": {"zarr_format": 3, "compressors": zarr.codecs.GzipCodec()},
        "sharded": {"zarr_format": 3, "shards": SHAPE},
    }.items():
        array = zarr.create_array(folder / f"{name}.zarr", shape=SHAPE, chunks=(3, 12, 16), dtype="uint16", **options)
        array[:] = image
    collection = folder / "positions.zarr"
    for number in range(2):
        shutil.copytree(folder / "zarr-0.4.zarr", collection / str(number))
    (collection / ".zgroup").write_text('{"zarr_format": 2}')
    (collection / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    return sorted(folder.glob("*.zarr"))


def write_runs(folder):
    """The run folder of a small training, with its data and a folder of restored images in it; its path."""
    import rcan

    run_dir = folder / "run"
    rcan.simulate_pairs(folder / "data", pairs=2, shape=(8, 24, 24), seed=0)
    values = {
        "training_data_dir": {kind: str(folder / "data" / kind) for kind in ("raw", "gt")},
        "output_dir": str(run_dir),
        **{"num_channels": 8, "num_residual_groups": 1, "num_residual_blocks": 1, "patch_shape": [8, 16, 16]},
        **{"epochs": 2, "steps_per_epoch": 2, "intensity_threshold": 0, "precision": "float32"},
    }
    rcan.train(rcan.Config.checked(values))
    shutil.copytree(folder / "data", run_dir / "data")
    rcan.restore_folder(run_dir, run_dir / "data/raw", run_dir / "restored")
    return [run_dir]


# Changes


def change_tiff(source, target, rng):
    """Write a damaged copy of a TIFF file."""
    data = bytearray(source.read_bytes())
    fields = find_fields(data)
    for _ in range(rng.integers(1, 5)):
        kind = rng.choice(["bit", "number", "field", "field", "field", "cut", "twice", "gone"])
        place = int(rng.integers(len(data)))
        if kind == "bit":
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == "number":
            put_number(data, place, int(rng.choice([1, 2, 4, 8])), rng)
        elif kind == "field":
            put_number(data, *fields[int(rng.integers(len(fields)))], rng)
        elif kind == "cut" and rng.random() < 0.3:
            del data[max(place, 16) :]
        elif kind == "twice":
            data[place:place] = data[place : place + int(rng.integers(1, 400))]
        elif kind == "gone":
            del data[place : place + int(rng.integers(1, 40))]
    target.write_bytes(data)


def find_fields(data):
    """Place and size of the numbers of a TIFF file's structure: header, tags, counts, values, next pages."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    size, tag_size = (8, 20) if is_big else (4, 12)
    number = {2: "H", 4: "I", 8: "Q"}
    fields, place = [(2, 2), (8 if is_big else 4, size)], 8 if is_big else 4
    while page := struct.unpack_from(order + number[size], data, place)[0]:
        count_size = 8 if is_big else 2
        num_tags = struct.unpack_from(order + number[count_size], data, page)[0]
        fields.append((page, count_size))
        for tag in range(num_tags):
            start = page + count_size + tag * tag_size
            fields += [(start, 2), (start + 2, 2), (start + 4, size), (start + 4 + size, size)]
        place = page + count_size + num_tags * tag_size
        fields.append((place, size))
    return fields


def put_number(data, place, size, rng):
    """Overwrite a number by an extreme one, a near one or any other."""
    old = int.from_bytes(data[place : place + size], "little")
    choices = [int(rng.choice(np.array(EXTREMES, object))), old + 1, old - 1, old * 2, int(rng.integers(2**31))]
    new = choices[int(rng.integers(len(choices)))] % 2 ** (8 * size)
    data[place : place + size] = new.to_bytes(size, "little")


def change_zarr(source, target, rng):
    """Make a damaged copy of a Zarr folder."""
    shutil.copytree(source, target)
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    files = sorted(path for path in target.rglob("*") if path.is_file())
    metadata = [path for path in files if path.name in names]
    chunks = [path for path in files if path.name not in names]
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.7:
            change_json(metadata[int(rng.integers(len(metadata)))], rng)
        elif chunks:
            change_chunk(chunks[int(rng.integers(len(chunks)))], rng)


def change_run(source, target, rng):
    """Make a damaged copy of a run folder; `changed` in it names the file."""
    shutil.copytree(source, target)
    state = sorted(target.glob("checkpoints/*/state.json"))[-1]
    measured = sorted(target.glob("measured/*.json"))[0]
    records = [target / "training.json"] * 3 + [target / "config.json", state, measured]
    choices = [*records, target / "best.keras", target / "restored/manifest.jsonl"]
    file = choices[int(rng.integers(len(choices)))]
    (target / "changed").write_text(file.name)
    if file.name == "best.keras":
        change_model(file, rng)
    elif file.name == "manifest.jsonl":
        lines = file.read_text().splitlines()
        file.write_text(lines[0])
        change_json(file, rng)
        file.write_text("\n".join([file.read_text(errors="replace"), *lines[1:], ""]))
    else:
        for _ in range(rng.integers(1, 3)):
            change_json(file, rng)


def change_model(file, rng):
    """Change the architecture of a network, or bytes of its file."""
    if rng.random() < 0.3:
        data = bytearray(file.read_bytes())
        for _ in range(rng.integers(1, 5)):
            put_number(data, int(rng.integers(len(data))), int(rng.choice([1, 2, 4, 8])), rng)
        file.write_bytes(data)
        return
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = file.with_name("changed.json")
    changed.write_bytes(members["config.json"])
    change_json(changed, rng)
    members["config.json"] = changed.read_bytes()
    changed.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def change_json(file, rng):
    """Change a value of metadata, its kind, or the text itself."""
    if not file.is_file():
        return
    if rng.random() < 0.1:
        data = bytearray(file.read_bytes())
        if data:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data[: int(rng.integers(len(data) + 1))] if rng.random() < 0.3 else data)
        return
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return
    places = list(walk(content))
    if not places:
        return
    parent, key = places[int(rng.integers(len(places)))]
    kind = rng.integers(5)
    if kind == 0 and isinstance(parent, dict):
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.append(parent[key])
    elif kind == 2:
        parent[key] = [parent[key]]
    elif kind == 3 and isinstance(parent[key], list):
        parent[key] = [JSON_EXTREMES[int(rng.integers(len(JSON_EXTREMES)))]] * len(parent[key])
    else:
        parent[key] = JSON_EXTREMES[int(rng.integers(len(JSON_EXTREMES)))]
    file.write_text(json.dumps(content))


def walk(content):
    """Container and key of every value of some JSON."""
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from walk(content[key])


def change_chunk(file, rng):
    """Damage a stored chunk, or put another thing in its place."""
    if not file.is_file():
        return
    data = file.read_bytes()
    kind = rng.integers(6)
    if kind == 0:
        file.write_bytes(data[: int(rng.integers(len(data) + 1))])
    elif kind == 1:
        file.write_bytes(np.random.default_rng(int(rng.integers(2**32))).bytes(int(rng.integers(4000))))
    elif kind == 2:
        changed = bytearray(data)
        put_number(changed, int(rng.integers(min(24, len(data)))), 4, rng)
        file.write_bytes(changed)
    else:
        file.unlink()
        if kind == 3:
            file.symlink_to("/dev/zero")
        elif kind == 4:
            file.mkdir()


# Reading


def read(path):
    """Read an image as `apply.py` does."""
    from rcan.data.views import open_network_view
    from rcan.io.opening import open_volume

    with open_volume(path) as volume:
        ndim = 3 if "Z" in volume.axes else 2
        view = open_network_view(volume, ndim=ndim, num_channels=1, percentiles=(2, 99.9), normalization="anscombe")
        _ = view.noise
        for number in range(len(view.frames)):
            view.read_input(number)


def use_run(run_dir):
    """Do what reads the file of a run folder that was changed."""
    import rcan

    changed = (run_dir / "changed").read_text() if (run_dir / "changed").exists() else "training.json"
    if changed == "manifest.jsonl":
        rcan.restore_folder(run_dir, run_dir / "data/raw", run_dir / "restored")
    elif changed in ("training.json", "best.keras"):
        raw = sorted((run_dir / "data/raw").iterdir())[0]
        rcan.restore_folder(run_dir, raw, run_dir / "out.tif", overwrite=True)
    else:
        config = rcan.load_config(run_dir / "config.json")
        short = {"epochs": min(config.epochs, 3), "steps_per_epoch": min(config.steps_per_epoch, 3)}
        rcan.train(config.model_copy(update={"output_dir": run_dir, **short}), resume=True)


def judge(path):
    """Read an image, or use a run folder; what became of it, and what was said."""
    from rcan.failures import describe_failure

    try:
        (use_run if (Path(path) / "best.keras").exists() else read)(Path(path))
    except Exception as failure:
        said = describe_failure(failure)
        if not (isinstance(failure, (ValueError, OSError, ImportError)) and str(failure)):
            return "unexpected", said
        names = [str(path), *find_keys(Path(path))]
        are_named = all(any(name in line for name in names) for line in said.splitlines())
        return ("refused" if are_named else "unnamed"), said
    return "read", ""


def find_keys(run_dir):
    """Keys by which a message may name what is wrong with the changed config of a run; none of other files."""
    from rcan.config import Config

    changed = run_dir / "changed"
    return [*Config.model_fields] if changed.exists() and changed.read_text() == "config.json" else []


def peak():
    """Largest resident memory of this process since it was last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def work():
    """Judge the images whose paths are read, a line each, and write a line of JSON for each."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        with contextlib.redirect_stdout(sys.stderr):
            outcome, said = judge(line.strip())
        if peak() - before > MOST_BYTES:
            outcome, said = "memory", f"{(peak() - before) / 1e9:.1f} GB; {said}"
        print(json.dumps([outcome, said]), flush=True)


class Worker:
    """A process that reads images, and is begun again where one takes too long; a context manager."""

    def __init__(self):
        self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stop()

    def judge(self, path):
        """What became of an image, and what was said."""
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            self._process = subprocess.Popen([sys.executable, __file__, "--work"], **pipes)
        print(path, file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], MOST_SECONDS)[0]:
            outcome = "slow", f"more than {MOST_SECONDS} seconds"
        elif line := self._process.stdout.readline():
            return tuple(json.loads(line))
        else:
            outcome = "unexpected", "the process has died"
        self._stop()
        return outcome

    def _stop(self):
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None


def run(kind, number, seed, keep=None):
    """Judge so many damaged files: numbers by what was changed and what became of it, and those that must not be.

    These are (path, outcome, said).
    """
    write, change = {
        "tiff": (write_tiffs, change_tiff),
        "zarr": (write_zarrs, change_zarr),
        "run": (write_runs, change_run),
    }[kind]
    found, wrong = collections.Counter(), []
    with tempfile.TemporaryDirectory() as scratch, Worker() as worker:
        folder = Path(scratch)
        (folder / "valid").mkdir()
        sources = write(folder / "valid")
        for source in sources:
            if (outcome := worker.judge(source))[0] != "read":
                raise SystemExit(f"{source}, which is valid: {outcome}")
        for index in range(number):
            rng = np.random.default_rng((seed, index))
            target = folder / f"{index}_{sources[index % len(sources)].name}"
            change(sources[index % len(sources)], target, rng)
            outcome, said = worker.judge(target)
            changed = target / "changed"
            found[changed.read_text() if changed.exists() else kind, outcome] += 1
            if outcome not in ("read", "refused"):
                wrong.append((target.name, outcome, said))
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.move(target, keep / target.name)
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    return found, wrong


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("tiff", "zarr", "run"))
    parser.add_argument("--number", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    number = options.number or {"tiff": 10_000, "zarr": 5_000, "run": 500}[options.kind]
    counts, wrong = run(options.kind, number, options.seed, options.keep)
    for line in wrong:
        print(*line)
    for changed in sorted({changed for changed, _ in counts}):
        found = {outcome: count for (name, outcome), count in counts.most_common() if name == changed}
        words = ", ".join(f"{count} {outcome}" for outcome, count in found.items())
        print(f"{changed}: of {sum(found.values())} damaged ones {words}")
    sys.exit(bool(wrong))
