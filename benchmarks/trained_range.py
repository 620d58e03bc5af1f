"""How often `inside`, `edge` and `outside` are right, on simulated images.

    python benchmarks/trained_range.py [--volume nuclei.tif [--other vesicles.tif]]

Training sets are drawn from images of one simulation: the phantoms of sample/ (mixture, 20 photons, blurred twice), and
crops of a real volume, degraded in the same way. The rest of these images is held out: whatever is outside there is a
false alarm, but for images in which nothing but noise is found; nobody trains on those. The other images differ in one
thing, and should not be inside. Metadata give the same voxel size throughout, so that voxels of another size have to be
told by the image alone; by the metadata they are told always.

Prints the share of the images that are inside, on the edge and outside, in percent, for training sets of several sizes,
and the weightiest reason. No network is needed.
"""

import argparse
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rcan.fingerprint.domain import DOMAIN_STATUSES, compare_fingerprint, summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.io.opening import open_volume
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import degrade, density_from_image
from rcan.simulation.phantoms import PHANTOMS, make_phantom

SHAPE = (24, 96, 96)
VOXEL_SIZE = (0.3, 0.1, 0.1)  # µm
SETTINGS = {"photons": 20, "blur_factor": 2}
CROP = (24, 64, 64)  # of a real volume
NUM_HELD_OUT, NUM_CHANGED, NUM_TRAININGS = 160, 32, 60
FIRST_SEED = 10_000  # far from those with which the method's constants were chosen
SIZES = (1, 3, 8)  # volumes of a training
CHANGES = {
    "4 times fewer photons": {"photons": 5},
    "2 times fewer photons": {"photons": 10},
    "4 times more photons": {"photons": 80},
    "2 times more blur": {"blur_factor": 4},
    "half as much blur": {"blur_factor": 1},
    "voxels half the size": {"voxels": 0.5},
    "voxels twice the size": {"voxels": 2.0},
}


class Image(NamedTuple):
    """A volume in memory, as `measure_fingerprint` takes it."""

    data: np.ndarray
    voxel_size: tuple = VOXEL_SIZE
    path: str = "simulation"
    frames: tuple = ({},)

    @property
    def shape(self):
        return self.data.shape

    def read(self, frame, region, dtype):
        return self.data[region]


def simulate_phantom(seed, kind="mixture", voxels=1.0, **settings):
    """Fingerprint of a phantom as those of sample/, `voxels` times as large ones."""
    rng = np.random.default_rng(seed)
    size = tuple(voxels * side for side in VOXEL_SIZE)
    density = make_phantom(kind, SHAPE, voxel_size=size, rng=rng)
    raw = degrade(density, voxel_size=size, fwhm=gaussian_widths(), rng=rng, **{**SETTINGS, **settings})
    return measure_fingerprint(Image(raw))


@lru_cache
def read_density(path, voxels):
    """A real volume as density of a specimen, with voxels `voxels` times as large."""
    density = density_from_image(open_volume(path).read(dtype=None))
    if voxels == 1:
        return density
    return ndimage.zoom(density, (*[1 / voxels] * 3, 1), order=1, grid_mode=True, mode="nearest")


def simulate_crop(seed, place, path, voxels=1.0, **settings):
    """Fingerprint of a crop from the middle planes of a real volume, degraded; crops of other places do not overlap."""
    rng = np.random.default_rng(seed)
    density = read_density(path, voxels)
    counts = [max(1, size // side) for size, side in zip(density.shape[1:3], CROP[1:], strict=True)]
    start = (
        (len(density) - CROP[0]) // 2,
        *np.multiply(np.unravel_index(place % np.prod(counts), counts), CROP[1:]),
    )
    crop = density[tuple(slice(first, first + side) for first, side in zip(start, CROP, strict=True))]
    # such that two voxels sample the width of a point, as they should
    optics = {"voxel_size": (voxels,) * 3, "fwhm": (2, 2, 2), "source_blur": 1}
    return measure_fingerprint(Image(degrade(crop, **optics, rng=rng, **{**SETTINGS, **settings})))


def count_places(path):
    """Crops of a volume that do not overlap."""
    return int(np.prod(np.floor_divide(open_volume(path).shape[1:3], CROP[1:])))


def measure_phantoms(pool):
    """Fingerprints of the same simulation, with the specimen each is of, and of others by name."""
    same = list(pool.map(simulate_phantom, range(FIRST_SEED, FIRST_SEED + NUM_HELD_OUT), chunksize=8))
    changes = CHANGES | {f"{kind} only": {"kind": kind} for kind in PHANTOMS[:-1]}
    seeds = range(FIRST_SEED + NUM_HELD_OUT, FIRST_SEED + NUM_HELD_OUT + NUM_CHANGED)
    return list(enumerate(same)), {
        name: list(pool.map(partial(simulate_phantom, **change), seeds, chunksize=8))
        for name, change in changes.items()
    }


def measure_crops(pool, path, other):
    """The same for crops of a real volume; a place is a specimen, and exposed several times."""

    def measure(number, source, first=0, **change):
        places = [i % count_places(source) for i in range(number)]
        simulate = partial(simulate_crop, path=source, **change)
        return list(zip(places, pool.map(simulate, range(first, first + number), places, chunksize=8), strict=True))

    changes = {name: (path, change) for name, change in CHANGES.items()}
    changes |= {"another specimen": (other, {})} if other else {}
    changed = {
        name: [fingerprint for _, fingerprint in measure(NUM_CHANGED, source, NUM_HELD_OUT, **change)]
        for name, (source, change) in changes.items()
    }
    changed["mixture of phantoms"] = list(pool.map(simulate_phantom, range(NUM_CHANGED), chunksize=8))
    return measure(5 * count_places(path), path), changed


def judge(same, changed, num_volumes):
    """Verdicts by name of the images, over many draws of a training set."""
    rng = np.random.default_rng(0)
    without = {specimen for specimen, fingerprint in same if not fingerprint.channels[0].shows_signal}
    specimens = sorted({specimen for specimen, _ in same} - without)
    verdicts = {}
    for _ in range(NUM_TRAININGS):
        learned = set(rng.choice(specimens, num_volumes, replace=False).tolist())
        training = {specimen: fingerprint for specimen, fingerprint in same if specimen in learned}
        seen = summarise_fingerprints([*training.values()])
        held_out = {"held out": [], "held out, without signal": []}
        for specimen, fingerprint in same:
            if specimen not in learned:
                has_signal = fingerprint.channels[0].shows_signal
                held_out["held out" if has_signal else "held out, without signal"].append(fingerprint)
        for name, images in {**held_out, **changed}.items():
            verdicts.setdefault(name, []).extend(compare_fingerprint(image, seen) for image in images)
    return verdicts


def show(title, same, changed):
    """Print a table."""
    judged = {size: judge(same, changed, size) for size in SIZES}
    print(f"\n{title}: {len(same)} images of {len({each for each, _ in same})} specimens; inside / edge / outside, %\n")
    print("| images | n | " + " | ".join(f"{size} volume{'s' * (size > 1)}" for size in SIZES) + " | reason |")
    print("|---|--:|" + "--:|" * len(SIZES) + "---|")
    for name in (name for name, verdicts in judged[SIZES[0]].items() if verdicts):
        cells = []
        for size in SIZES:
            counts = Counter(verdict.domain_status for verdict in judged[size][name])
            cells.append(" / ".join(f"{100 * counts[word] / counts.total():.1f}" for word in DOMAIN_STATUSES))
        reasons = Counter(
            re.match("[A-Za-z ]+", verdict.reasons[0])[0].strip()
            for verdict in judged[SIZES[-1]][name]
            if verdict.domain_status != "inside"
        )
        number = len(changed.get(name, ())) or sum(
            fingerprint.channels[0].shows_signal == (name == "held out") for _, fingerprint in same
        )
        print(f"| {name} | {number} | {' | '.join(cells)} | {', '.join(each for each, _ in reasons.most_common(2))} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", help="real volume of high quality")
    parser.add_argument("--other", help="real volume of another specimen")
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        show("Phantoms", *measure_phantoms(pool))
        if options.volume:
            show("Crops of a real volume", *measure_crops(pool, options.volume, options.other))


if __name__ == "__main__":
    main()
