"""The calibration of an ensemble: on which images its factor is found, and on which it is checked."""

from dataclasses import dataclass

from rcan.assess.uncertainty import choose_blocks, find_factor, measure_blocks, measure_coverage, open_validation
from rcan.regions import count_voxels
from rcan.restoration.tiled import TiledRestorer
from rcan.run_folder.record import SpreadRecord

__all__ = ["Calibration", "CalibrationPlan", "calibrate", "plan_calibration"]


@dataclass(frozen=True)
class Calibration:
    """What the spread of an ensemble must be multiplied by, and how well it then fits."""

    factor: float | None  # None where the members hardly differ
    ensemble: int  # members
    found_on: str  # "validation", images that the network was validated on, or "evaluated"
    num_lost: int  # validation images that are gone
    coverage: dict  # `Coverage` by the kind of images


@dataclass(frozen=True)
class CalibrationPlan:
    """The blocks to restore, by the kind of images, and what an earlier calibration has found."""

    restorer: TiledRestorer
    ensemble: int
    blocks: dict
    num_lost: int
    known: SpreadRecord | None

    @property
    def num_voxels(self):
        """Raw voxels that are restored, by all members."""
        regions = [region for blocks in self.blocks.values() for _, _, region in blocks]
        return self.ensemble * sum(map(count_voxels, regions))


def plan_calibration(model_dir, record, restorer, subjects, *, size):
    """Choose what an ensemble of `size` members, the engine of `restorer`, is calibrated on and checked on."""
    pairs, num_lost = open_validation(model_dir, record, ndim=len(restorer.engine.factors))
    frames = {
        "validation": [(pair, number) for pair in pairs for number in range(pair.num_frames)],
        "evaluated": [(subject, number) for subject in subjects for number in subject.numbers],
    }
    blocks = {name: choose_blocks(each) for name, each in frames.items() if each}
    return CalibrationPlan(restorer, size, blocks, num_lost, record.spread)


def calibrate(plan, progress):
    """Restore the blocks of a plan, find the factor, and see how well it fits: a `Calibration`."""
    ratios = {
        name: measure_blocks(blocks, plan.restorer, size=plan.ensemble, progress=progress)
        for name, blocks in plan.blocks.items()
    }
    found_on = "validation" if "validation" in ratios else "evaluated"
    factor = find_factor(ratios[found_on])
    known = plan.known
    is_better_known = known and known.found_on == "validation" and known.ensemble == plan.ensemble
    if found_on == "evaluated" and is_better_known:  # by an earlier call, when the images were there
        found_on, factor = "validation", known.factor
    coverage = {name: measure_coverage(each, factor or 1) for name, each in ratios.items()}
    return Calibration(factor, plan.ensemble, found_on, plan.num_lost, coverage)
