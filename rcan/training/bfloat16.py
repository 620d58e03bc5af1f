"""How much a trained network changes when it is computed in bfloat16."""

import numpy as np

from rcan.precision import with_precision
from rcan.regions import central_region, count_voxels, scale_region
from rcan.restoration.engine import KerasEngine
from rcan.run_folder.record import PrecisionCheck

__all__ = ["compare_with_bfloat16"]

_NUM_PATCHES = 4
_MOST_VOXELS = 2**14  # of a patch: a second where bfloat16 is fast, some where it is not


def compare_with_bfloat16(model, sampler):
    """Restore the middle of some patches of a sampler in float32 and in bfloat16: a `PrecisionCheck`."""
    engine, lower = (KerasEngine(with_precision(model, name)) for name in ("float32", "mixed_bfloat16"))
    differences, errors, num_voxels = [], [], 0
    for index in range(_NUM_PATCHES):
        raw, gt = sampler.sample(index)
        region = central_region(raw.shape[:-1], _MOST_VOXELS)
        raw, gt = raw[region], gt[scale_region(region, engine.factors)]
        restored = engine(raw)
        differences.append(np.mean((lower(raw) - restored) ** 2, dtype=np.float64))
        missing = np.isnan(gt)
        errors.append(np.mean(np.where(missing, 0, restored - gt) ** 2, dtype=np.float64))
        num_voxels += count_voxels(region)
    error = max(np.sqrt(np.mean(errors)), 1e-6)  # of signal 1; smaller ones are rounding
    return PrecisionCheck(difference=float(np.sqrt(np.mean(differences)) / error), num_voxels=num_voxels)
