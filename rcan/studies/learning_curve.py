"""What more training data would bring: networks trained for a short time on parts of the data."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcan.atomic_io import atomic_file, write_json, write_table
from rcan.regions import whole_region

__all__ = ["SHARES", "LearningCurve", "measure_learning_curve"]

SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of the training pairs, each with those of the one before
_SHORTER = 4  # times, than the training of the config: all together take about as long
_WORTH = 0.1  # dB: less is no gain to work for
_MOST_SCORED = 20  # volumes


@dataclass(frozen=True)
class LearningCurve:
    """PSNR (dB) and SSIM on volumes that were not learned from, by share of the training data."""

    shares: tuple
    psnr: tuple
    ssim: tuple
    scored_on: str  # test or validation

    @property
    def expected_gain(self):
        """Gain in dB that twice the data would bring, from that of the last doubling down to that of a fading one."""
        before, last = np.diff(self.psnr)[-2:]
        fading = last * min(1, last / before) if before > 0 and last > 0 else min(last, 0)
        return float(max(fading, 0)), float(max(last, 0))

    def __str__(self):
        rows = [
            f"{_name(share):>8} {psnr:10.2f} {ssim:8.3f}"
            for share, psnr, ssim in zip(self.shares, self.psnr, self.ssim, strict=True)
        ]
        low, high = self.expected_gain
        if high < _WORTH:
            advice = "More pairs of this kind would hardly help: train longer, or a larger network."
        else:
            advice = f"Twice as many pairs would bring about {low:.1f} to {high:.1f} dB more."
        table = "\n".join(["   pairs  PSNR (dB)     SSIM", *rows])
        return f"{table}\nOn the {self.scored_on} volumes, after an affine match to the ground truth. {advice}"


def measure_learning_curve(config, data):
    """Train on an eighth, a quarter, half and all of the training pairs, and score each network.

    Parameters
    ----------
    config : rcan.Config
        Each training takes a quarter of its epochs.
    data : rcan.training.run_data.RunData
        Where a share is no whole number of pairs, the last one is cut along Y or X. The networks are scored on the test
        pairs where there are some, else on the validation pairs.

    Returns
    -------
    curve : LearningCurve
        Kept with a chart in the folder ``OUTPUT_DIR_learning_curve``, where finished trainings are not repeated.

    Raises
    ------
    ValueError
        If there is nothing to score the networks on, or an eighth of the data is less than a patch.
    """
    from rcan.assess.volumes import score_pair
    from rcan.figures.history import draw_learning_curve
    from rcan.run_folder.models import load_model
    from rcan.scores import mean_scores
    from rcan.training.fit import train

    scored_on = "test" if data.test else "validation"
    scored = getattr(data, scored_on)[:_MOST_SCORED]
    if not scored:
        raise ValueError(
            "a learning curve needs volumes that are not learned from: name validation data, or set validation_split "
            "above 0."
        )
    config = config.for_data(len(data.training[0].raw.shape) - 1)
    folder = Path(f"{config.output_dir}_learning_curve")
    means = []
    for share in SHARES:
        update = {"output_dir": folder / _name(share).replace("/", "_"), "epochs": math.ceil(config.epochs / _SHORTER)}
        part = data._replace(training=take_share(data.training, share, config), test=[])
        print(f"\nLearning from {_name(share)} of the data:", flush=True)
        run_dir = train(config.model_copy(update=update), part, resume=True)
        model, _ = load_model(run_dir)
        means.append(mean_scores([score_pair(model, pair)[0] for pair in scored]))
    curve = LearningCurve(
        SHARES,
        tuple(mean["psnr_restored"] for mean in means),
        tuple(mean["ssim_restored"] for mean in means),
        scored_on,
    )
    rows = [
        {"share": share, "psnr": psnr, "ssim": ssim}
        for share, psnr, ssim in zip(curve.shares, curve.psnr, curve.ssim, strict=True)
    ]
    write_table(folder / "learning_curve.csv", rows)
    write_json(folder / "learning_curve.json", {"rows": rows, "expected_gain": curve.expected_gain})
    with atomic_file(folder / "learning_curve.png") as partial:
        draw_learning_curve(partial, curve)
    print(f"\n{curve}\nChart: {folder / 'learning_curve.png'}", flush=True)
    return curve


def take_share(pairs, share, config):
    """As many pairs as make a share of all, in an order of the seed, the last one cut; larger shares hold smaller ones.

    A ValueError says that the share is less than a patch.
    """
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    num_whole, rest = divmod(share * len(pairs), 1)
    taken = [pairs[i] for i in order[: int(num_whole)]]
    if rest:
        pair = pairs[order[int(num_whole)]]
        spatial = pair.raw.shape[:-1]
        axis = len(spatial) - 2 + int(spatial[-1] >= spatial[-2])
        size, least = round(rest * spatial[axis]), min(config.patch_shape[axis], spatial[axis])
        if size >= least:
            region = list(whole_region(spatial))
            region[axis] = slice(0, size)
            taken.append(pair.crop(tuple(region)))
        elif not taken:
            raise ValueError(
                f"{_name(share)} of the training data is less than a patch ({size} of {least} voxels along "
                f"{'ZYX'[axis - len(spatial)]}): a learning curve needs more data, or a smaller patch_shape."
            )
    return taken


def _name(share):
    return "all" if share == 1 else f"1/{round(1 / share)}"
