"""How far hot pixels change what a network makes of the other voxels, with and without --despike.

    python benchmarks/hot_pixels.py -m RUN [-i RAW] [-g GT]

Hot pixels are put into a raw volume, one in the middle or a share at random. Printed are the PSNR of the whole
restored volume after an affine match, and how far voxels change that are more than 8 or 16 voxels away from the one
hot pixel: root mean square, in % of the range of grey values.
"""

import argparse
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
VALUES = (4_000, 65_535)
SHARES = (1e-4, 1e-3)
DISTANCES = (8, 16)


def main():
    """Restore with and without hot pixels, and print a table."""
    import rcan
    from rcan.data.despike import despike
    from rcan.io.array import volume_of_array
    from rcan.scores import score

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model_dir", required=True)
    parser.add_argument("-i", "--input", default=ROOT / "sample/test/raw/mixture_001.tif")
    parser.add_argument("-g", "--ground_truth", default=ROOT / "sample/test/gt/mixture_001.tif")
    options = parser.parse_args()
    model, record = rcan.load_model(options.model_dir)
    raw, gt = (rcan.open_volume(path).read(dtype=None) for path in (options.input, options.ground_truth))
    gt = rcan.view_image(gt, percentiles=record.percentiles).read(0)

    def restore(image):
        view = rcan.view_image(image, **record.scaling)
        return rcan.denormalise(rcan.restore(model, view.read_input(0)), view.ranges), view.ranges

    clean, ranges = restore(raw)
    middle = tuple(size // 2 for size in raw.shape[:3])
    steps = [abs(np.arange(size) - at) for size, at in zip(raw.shape[:3], middle, strict=True)]
    distance = np.maximum.reduce(np.meshgrid(*steps, indexing="ij"))
    rng = np.random.default_rng(0)
    print(f"without hot pixels: {score(clean, gt)['psnr']:.2f} dB")
    far = " | ".join(f"beyond {each} voxels" for each in DISTANCES)
    print(f"| hot pixels | grey value | despiked | PSNR | {far} |\n|---|---|---|---|{'---|' * len(DISTANCES)}")
    for share in (None, *SHARES):
        number = 1 if share is None else round(share * raw[..., 0].size)
        for value in VALUES:
            hot = raw.copy()
            if share is None:
                hot[(*middle, 0)] = value
            else:
                hot.reshape(-1)[rng.choice(hot.size, number, replace=False)] = value
            for image in (hot, despike(volume_of_array(hot)).read(dtype=None)):
                restored, _ = restore(image)
                change = 100 * np.abs(restored - clean)[..., 0] / np.ptp(ranges)
                cells = [f"{np.sqrt(np.mean(change[distance > far] ** 2)):.2f} %" for far in DISTANCES]
                cells = cells if share is None else [""] * len(DISTANCES)
                way = "no" if image is hot else "yes"
                psnr = score(restored, gt)["psnr"]
                print(f"| {number} | {value} | {way} | {psnr:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
