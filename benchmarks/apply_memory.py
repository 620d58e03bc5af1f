"""Does the memory that `apply.py` takes grow with the volume?

    python benchmarks/apply_memory.py [--small]

Restores a volume of 256 MB and one of 4 GB (uint16, planes of 2048x2048) with a tiny network, as OME-Zarr and as
uncompressed OME-TIFF, each in a process of its own, and prints the peak of its resident memory. `--small` takes 64 MB
and 512 MB instead. Needs 15 GB of disk for a while.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PLANE = 2048


def write_volume(path, num_planes, file_format):
    """Photon noise over a background, written by planes."""
    from rcan.io.opening import create_volume

    rng = np.random.default_rng(0)
    plane = rng.poisson(200, (16, PLANE, PLANE, 1)).astype(np.uint16)
    sizes = {"Z": num_planes, "Y": PLANE, "X": PLANE}
    options = {"axes": "ZYX", "sizes": sizes, "dtype": "uint16", "voxel_size": (0.5, 0.1, 0.1)}
    with create_volume(path, file_format=file_format, **options) as file:
        for start in range(0, num_planes, len(plane)):
            region = (slice(start, min(start + len(plane), num_planes)), slice(None), slice(None))
            file.write({}, region, np.roll(plane, start, axis=1)[: num_planes - start])


def measure(model, raw, output):
    """Peak memory in MiB and seconds of one call."""
    command = [sys.executable, ROOT / "apply.py", "-m", model, "-i", raw, "-o", output]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"apply.py ended with {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main():
    """Print a line for each volume and the ratio for each format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    num_planes = (8, 64) if parser.parse_args().small else (32, 512)
    from rcan.model import build_rcan

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        folder = Path(folder)
        model = folder / "tiny.keras"
        build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1, channel_reduction=2).save(model)
        for file_format, suffix in (("zarr", ".ome.zarr"), ("ome", ".ome.tif")):
            peaks = []
            for number in num_planes:
                raw, output = folder / f"raw_{number}{suffix}", folder / f"restored_{number}{suffix}"
                write_volume(raw, number, file_format)
                peak, seconds = measure(model, raw, output)
                peaks.append(peak)
                megabytes = number * PLANE**2 * 2 / 1e6
                print(
                    f"{file_format}: {number}x{PLANE}x{PLANE} ({megabytes:.0f} MB): {peak:.0f} MiB, {seconds:.0f} s",
                    flush=True,
                )
                for path in (raw, output):
                    subprocess.run(["rm", "-rf", path], check=True)
            print(f"{file_format}: ratio {peaks[1] / peaks[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
