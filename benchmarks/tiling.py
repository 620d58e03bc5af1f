"""How much a volume that is restored in tiles differs from one that is restored in one piece.

    python benchmarks/tiling.py -m RUN_FOLDER -i raw.tif [-g gt.tif]

1. By how much a voxel changes when the volume ends near it, against its distance from the cut.
2. The difference of tiled and untiled for several overlaps, at seams (8 voxels to either side) and elsewhere, the score
   of the seams that `apply` prints, and the voxels computed over those of the volume; with attention over the whole
   tile and over a window of the training patch's size.
3. PSNR and time for tiles of several sizes with either attention, where a ground truth is named.
4. PSNR where the volume lies in an empty field of up to 16 times its size and all is one tile: the attention over
   the whole tile sees mostly background then.

Differences are in percent of the intensity range, percentile 2 to 99.9 of raw. The untiled volume is restored with
the same attention.
"""

import argparse
import math
import time

import numpy as np

DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
OVERLAPS = (0, 4, 8, 12, 16, 24, 32)
NEAR = 8  # voxels to either side of a seam that count as near it


def restore(engine, raw, tile_shape, overlap):
    """Restored volume, and the seams' score."""
    from rcan.restoration.seams import SeamMeter
    from rcan.restoration.tiled import restore_blocks

    shape, seams = raw.shape[:-1], SeamMeter()
    restored = np.empty((*shape, engine.num_channels[1]), np.float32)
    for region, block in restore_blocks(
        engine, raw.__getitem__, shape, tile_shape=tile_shape, overlap=overlap, seams=seams
    ):
        restored[region] = block
    return restored, seams.score


def show_distances(name, engine, raw, whole):
    """Change against the distance from a cut, along each axis."""
    for axis, letter in enumerate("ZYX"):
        size, found = raw.shape[axis], []
        for cut in (part - part % engine.grid[axis] for part in (size * 2 // 5, size // 2, size * 3 // 5)):
            for part in (slice(0, cut), slice(cut, None)):
                region = (slice(None),) * axis + (part,)
                change = np.moveaxis(engine(raw[region]) - whole[region], axis, 0)
                found.append((change if part.start == cut else change[::-1])[: size * 2 // 5])
        print(f"{name}, change against the distance from a cut along {letter}:")
        for distance in [d for d in DISTANCES if d < size * 2 // 5]:
            values = np.concatenate([change[distance].ravel() for change in found])
            print(f"  {distance:3} voxels: RMS {rms(values):.3f} %, largest {100 * np.abs(values).max():.2f} %")


def rms(values):
    """Root mean square in percent."""
    return 100 * math.sqrt(np.mean(np.square(values, dtype=np.float64))) if values.size else 0


def show_overlaps(name, engine, raw, whole, counts):
    """Difference of tiled and untiled against the overlap, for so many tiles along each axis."""
    from rcan.restoration.tiles import tile_axis

    print(f"{name}, {'x'.join(map(str, counts))} tiles:")
    print("  overlap  tile          RMS: seams elsewhere  largest: seams elsewhere  score  computed")
    for shared in OVERLAPS:
        overlap = tuple(shared if count > 1 else 0 for count in counts)
        tile = [math.ceil((size + (n - 1) * o) / n) for size, n, o in zip(raw.shape, counts, overlap, strict=False)]
        if any(o >= t for t, o in zip(tile, overlap, strict=True)):
            continue
        restored, score = restore(engine, raw, tile, overlap)
        near = np.zeros(whole.shape, bool)
        for axis, (size, t, o) in enumerate(zip(raw.shape, tile, overlap, strict=False)):
            for cut in tile_axis(size, t, o)[1:]:
                middle = cut.write.start + (o // 4 + 1) // 2
                near[(slice(None),) * axis + (slice(max(0, middle - NEAR), middle + NEAR),)] = True
        change = restored - whole
        print(
            f"  {shared:7}  {'x'.join(map(str, tile)):13} {rms(change[near]):10.4f} {rms(change[~near]):9.4f} "
            f"{100 * np.abs(change[near]).max():15.2f} {100 * np.abs(change[~near]).max(initial=0):9.2f} "
            f"{score or 1:7.3f} {math.prod(tile) * math.prod(counts) / math.prod(raw.shape[:-1]):9.2f}",
            flush=True,
        )


def show_sizes(engines, raw, gt, patch):
    """PSNR and time for tiles of several sizes."""
    from rcan.scores import score

    print("tile           PSNR (dB), seconds: " + "   ".join(engines))
    for factor in (0.5, 1, 2, 4, None):
        tile = [min(size, int(side * factor)) if factor else size for side, size in zip(patch, raw.shape, strict=False)]
        overlap = tuple(min(16, side // 4) for side in tile)
        cells = []
        for engine in engines.values():
            started = time.perf_counter()
            restored, _ = restore(engine, raw, tile, overlap)
            seconds = time.perf_counter() - started
            cells.append(f"{score(restored, gt)['psnr']:.3f} {seconds:6.1f}")
        print(f"{'x'.join(map(str, tile)):14} " + "   ".join(cells), flush=True)


def show_fields(engines, raw, gt):
    """PSNR of the volume in the middle of larger and larger empty fields."""
    from rcan.scores import score

    image, told = raw[..., :1], raw[..., 1:]  # noise that the network is told of is the same everywhere
    rng, dark = np.random.default_rng(0), np.percentile(image, 20)
    noise = dark - image[image < dark]
    print("field, times the volume   PSNR (dB): " + "  ".join(engines))
    for factor in (1, 2, 4):
        shape = (raw.shape[0], *(factor * side for side in raw.shape[1:3]), 1)
        field = (dark + rng.choice([-1, 1], shape) * rng.choice(noise, shape)).astype(np.float32)
        inside = (slice(None), *(slice((factor - 1) * s // 2, (factor + 1) * s // 2) for s in raw.shape[1:3]))
        field[inside] = image
        field = np.concatenate([field, np.broadcast_to(told[:1, :1, :1], (*shape[:3], told.shape[-1]))], axis=-1)
        cells = [f"{score(engine(field)[inside], gt)['psnr']:.3f}" for engine in engines.values()]
        print(f"{factor**2:4} {'x'.join(map(str, shape[:3])):34} " + "  ".join(cells), flush=True)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", required=True)
    parser.add_argument("-i", required=True)
    parser.add_argument("-g")
    parser.add_argument("--crop", type=int, default=10**6, help="pixels along y and x to look at")
    parser.add_argument("--ramp", type=int, help="fade over this part of the overlap: 1 for all of it, 4 for a quarter")
    parser.add_argument("--tiles", default="2,3,3", help="along each axis, for the table of overlaps")
    arguments = parser.parse_args()
    import rcan
    import rcan.keras_setup
    from rcan.restoration import tiles
    from rcan.restoration.attention import with_local_attention
    from rcan.restoration.engine import KerasEngine

    tiles.RAMP_SHARE = arguments.ramp or tiles.RAMP_SHARE

    model, record = rcan.load_model(arguments.m)
    patch = record.patch_shape

    def read(path, **scaling):
        """A volume as the input of a network, or as its ground truth."""
        view = rcan.view_image(rcan.open_volume(path).read(), **scaling)
        return np.ascontiguousarray(view.read_input(0)[:, : arguments.crop, : arguments.crop])

    raw = read(arguments.i, **record.scaling)
    print(f"{arguments.m}, {model.count_params():,} parameters, patch {patch}; {arguments.i}, {raw.shape[:-1]}")
    engines = {"global": KerasEngine(model), "local": KerasEngine(with_local_attention(model, patch))}
    wholes = {name: engine(raw) for name, engine in engines.items()}
    print(f"local and global attention, untiled: RMS {rms(wholes['local'] - wholes['global']):.4f} %")
    show_distances("global", engines["global"], raw, wholes["global"])
    counts = tuple(map(int, arguments.tiles.split(",")))
    for name, engine in engines.items():
        show_overlaps(name, engine, raw, wholes[name], counts)
        show_overlaps(name, engine, raw, wholes[name], (1, *counts[1:]))
    if arguments.g:
        gt = read(arguments.g, percentiles=record.percentiles)
        show_sizes(engines, raw, gt, patch)
        show_fields(engines, raw, gt)


if __name__ == "__main__":
    main()
