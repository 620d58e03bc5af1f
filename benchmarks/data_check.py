"""How many planted faults `rcan check` finds, and how often it blames clean pairs.

Clean pairs are phantoms and real volumes with simulated blur and noise (`--volumes`), and real pairs (`--pairs`, a
folder with `raw` and `gt`, where `raw/NAME_1.tif` belongs to `gt/NAME.tif`). Each fault is planted in each pair, which
is then checked by itself; a fault counts as found where its own topic is a problem.

    python benchmarks/data_check.py --volumes nuclei.tif,cell.tif --pairs fmd_pairs
"""

import itertools
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import fire
import numpy as np
import tifffile
from scipy import ndimage

from rcan.data.facts import measure_pair
from rcan.data.findings import judge_pairs
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import open_pair
from rcan.io.opening import open_volume
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import degrade, density_from_image, simulate_pair
from rcan.simulation.phantoms import make_phantom

VOXEL_SIZE = (0.3, 0.1, 0.1)
PHANTOM = (24, 96, 96)
PHOTONS, BLURS = (5, 20, 200), (1, 2, 4)


def shifted(*steps):
    """Move raw by whole voxels, and cut off what only one of the images shows."""

    def plant(raw, gt):
        """Cut opposite ends off."""
        of_axes = steps[-raw.ndim :]
        ends = [
            tuple(
                slice(max(sign * step, 0), size + min(sign * step, 0))
                for step, size in zip(of_axes, raw.shape, strict=True)
            )
            for sign in (1, -1)
        ]
        return raw[ends[1]], gt[ends[0]]

    return plant


def moved(entries):
    """Move raw by a matrix (rows and columns Z, Y, X) about its middle."""

    def plant(raw, gt):
        """Interpolate raw with straight lines."""
        matrix = np.eye(3)
        for place, value in entries.items():
            matrix[place] += value
        matrix = np.linalg.inv(matrix)[-raw.ndim :, -raw.ndim :]
        middle = (np.array(raw.shape) - 1) / 2
        return ndimage.affine_transform(raw, matrix, middle - matrix @ middle, order=1, mode="nearest"), gt

    return plant


def saturated(raw, gt):
    """Cut the brightest twentieth of gt off."""
    return raw, np.minimum(gt, np.percentile(gt, 95)).astype(gt.dtype)


def of_noise(raw, gt):
    """A ground truth that shows nothing."""
    return raw, np.random.default_rng(0).poisson(100, gt.shape).astype(np.uint16)


FAULTS = {  # its topic, whether it needs Z, and what plants it
    "clean": (None, False, lambda raw, gt: (raw, gt)),
    "shift of 1 plane": ("register", True, shifted(1, 0, 0)),
    "shift of 1 voxel along X": ("register", False, shifted(0, 0, 1)),
    "shift of 3 voxels along Y, X": ("register", False, shifted(0, 3, -3)),
    "turned by 2 degrees": ("register", False, moved({(1, 2): 0.035, (2, 1): -0.035})),
    "scaled by 1.03": ("register", False, moved({(1, 1): 0.03, (2, 2): 0.03})),
    "drift of 6 voxels along Z": ("register", True, None),
    "reversed Z": ("orientation", True, lambda raw, gt: (raw, gt[::-1])),
    "mirrored": ("orientation", False, lambda raw, gt: (raw, gt[..., ::-1])),
    "Y and X exchanged": ("orientation", False, lambda raw, gt: (raw, np.swapaxes(gt, -1, -2))),
    "raw and gt swapped": ("raw and gt", False, lambda raw, gt: (gt, raw)),
    "copy of raw as gt": ("images", False, lambda raw, _: (raw, (2.5 * raw).astype(np.float32))),
    "gt saturated": ("saturation", False, saturated),
    "gt of noise": ("signal", False, of_noise),
}


def clean_pairs(volumes, pairs):
    """Yield kind, raw and gt of all clean pairs."""
    for photons, blur, seed in itertools.product(PHOTONS, BLURS, range(3)):
        rng = np.random.default_rng(seed)
        density = make_phantom("mixture", PHANTOM, voxel_size=VOXEL_SIZE, rng=rng)
        optics = {"voxel_size": VOXEL_SIZE, "fwhm": gaussian_widths(), "photons": photons, "blur_factor": blur}
        raw, gt = simulate_pair(density, rng=rng, **optics)
        yield "phantom", raw[..., 0], gt[..., 0].astype(np.uint16)
    for path, photons, blur in itertools.product(volumes, (10, 100), (1, 2)):
        gt = open_volume(path).read(dtype=None)
        optics = {"voxel_size": VOXEL_SIZE, "fwhm": gaussian_widths(), "photons": photons, "blur_factor": blur}
        raw = degrade(density_from_image(gt), rng=np.random.default_rng(0), source_blur=1, **optics)
        yield "volume", raw[..., 0], gt[..., 0]
    for path in sorted(Path(pairs).glob("raw/*_[14].tif")) if pairs else ():
        gt = Path(pairs) / "gt" / f"{path.stem[:-2]}.tif"
        if gt.exists():
            yield "real pair", tifffile.imread(path), tifffile.imread(gt)


def problems_of(folder, raw, gt):
    """Topics that are a problem in a pair."""
    for kind, image in (("raw", raw), ("gt", gt)):
        tifffile.imwrite(folder / f"{kind}.tif", image, metadata={"axes": "ZYX"[-image.ndim :]}, imagej=True)
    cache = MeasurementCache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pair = open_pair(folder / "raw.tif", folder / "gt.tif", ndim=raw.ndim, cache=cache)
        facts = measure_pair(pair, cache, is_thorough=True)
    return {finding.topic for finding in judge_pairs({"training": [facts]}) if finding.level == "problem"}


def main(volumes="", pairs=""):
    """Plant the faults and count what is found."""
    volumes = volumes.split(",") if isinstance(volumes, str) else volumes
    found, total, blamed = Counter(), Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind, raw, gt in clean_pairs([path for path in volumes if path], pairs):
            for fault, (topic, needs_z, plant) in FAULTS.items():
                if (needs_z and raw.ndim == 2) or ("exchanged" in fault and raw.shape[-1] != raw.shape[-2]):
                    continue
                if fault.startswith("drift"):
                    plant = moved({(2, 0): 6 / len(raw)})
                problems = problems_of(Path(folder), *plant(raw, gt))
                total[fault, kind] += 1
                found[fault, kind] += topic in problems if topic else bool(problems)
                if not topic:
                    blamed.update(problems)
    kinds = sorted({kind for _, kind in total})
    print(f"{'found of':32}" + "".join(f"{kind:>14}" for kind in kinds) + f"{'all':>14}")
    for fault in FAULTS:
        counts = [(found[fault, kind], total[fault, kind]) for kind in kinds]
        counts.append(tuple(map(sum, zip(*counts, strict=True))))
        print(f"{fault:32}" + "".join(f"{f'{one} of {all_}':>14}" for one, all_ in counts))
    print("False alarms on clean pairs:", dict(blamed) or "none")


if __name__ == "__main__":
    fire.Fire(main)
