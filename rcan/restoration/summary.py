"""What came of the images of a call."""

from dataclasses import dataclass, field

from rcan.inline import as_table
from rcan.scores import format_scores, score_rows

__all__ = ["RestoreSummary"]

_MOST_NAMES = 3  # of images that were not restored for the same reason


@dataclass
class RestoreSummary:
    """What came of the images of a call."""

    found: set = field(default_factory=set)  # raw images of the call: paths, or `ImageFile` where a file holds several
    restored: set = field(default_factory=set)  # by this call
    skipped: set = field(default_factory=set)  # restored before
    failed: dict = field(default_factory=dict)  # reason by raw image
    scores: dict = field(default_factory=dict)  # of `rcan.scores.compare`, by name of the output

    @property
    def num_images(self):
        """Number of images of the call."""
        return len(self.found | self.failed.keys())

    def restore(self, image):
        """Count an `ImageFile` as restored; the file as a whole, which could not be read before, fails no more."""
        self.restored.add(image.key)
        if image.key != image.path:
            self.failed.pop(image.path, None)
            self.found.discard(image.path)

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
        for line in _list_failures(self.failed):
            print(f"not restored: {line}", flush=True)

    def _repr_html_(self):
        """As a notebook shows it: what is restored, and the scores."""
        done = len((self.restored | self.skipped) - self.failed.keys())
        parts = [f"<p>{done} of {self.num_images} images restored</p>"]
        if self.failed:
            rows = [[path.name, reason] for path, reason in self.failed.items()]
            parts.append(as_table(["not restored", "reason"], rows))
        if self.scores:
            parts.append(as_table(*score_rows(self.scores), caption="after an affine match to the ground truth"))
        return "".join(parts)


def _list_failures(failed):
    """A line for each reason, with the first images that it holds for."""
    images = {}  # by reason without the path that it begins with
    for path, reason in failed.items():
        images.setdefault(reason.removeprefix(str(path)), []).append(path)
    for reason, paths in images.items():
        if len(paths) == 1:
            yield f"{paths[0].name}: {failed[paths[0]]}"
            continue
        names = ", ".join(path.name for path in paths[:_MOST_NAMES])
        more = f" and {len(paths) - _MOST_NAMES} more" * (len(paths) > _MOST_NAMES)
        yield f"{len(paths)} images ({names}{more}): {reason.lstrip(': ')}"
