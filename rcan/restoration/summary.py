"""What came of the images of a call."""

from dataclasses import dataclass, field

from rcan.scores import format_scores

__all__ = ["RestoreSummary"]


@dataclass
class RestoreSummary:
    """What came of the images of a call.

    Attributes
    ----------
    found, restored, skipped : set of Path
        Raw images: all of the call, those that it has restored, and those that were restored before.
    failed : dict of Path to str
        Reason by raw image.
    scores : dict of str to dict
        As `rcan.scores.compare`, by name of the output; where a ground truth was given.
    """

    found: set = field(default_factory=set)
    restored: set = field(default_factory=set)
    skipped: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)

    @property
    def num_images(self):
        """Number of images of the call."""
        return len(self.found | self.failed.keys())

    def check(self):
        """Raise a ValueError if an image was not restored."""
        if self.failed:
            raise ValueError(f"{len(self.failed)} of {self.num_images} images were not restored, see above.")

    def print(self, output):
        """Print the scores, how many images are in the output now, and why others are not."""
        if self.scores:
            print(f"\nAfter an affine match to the ground truth:\n{format_scores(self.scores)}")
        skipped = self.skipped - self.restored
        before = f", {len(skipped)} of them before" * bool(skipped)
        num_done = len((self.restored | skipped) - self.failed.keys())
        print(f"{num_done} of {self.num_images} restored{before}: {output}", flush=True)
        for path, reason in self.failed.items():
            print(f"not restored: {path.name}: {reason}", flush=True)
