"""Which parts of an image different machines restore, so that no two write to one chunk of the file."""

import itertools
import math
from typing import NamedTuple

from rcan.regions import do_meet

__all__ = ["group_frames", "split_volume"]

_MOST_PARTS = 16  # for each worker


def group_frames(frames, num_planes):
    """Numbers of the frames that lie in the same chunks of `num_planes`: planes, where a 2D network restores them one
    by one.
    """
    groups = {}
    for number, frame in enumerate(frames):
        chunk = {**frame, "Z": frame.get("Z", 0) // num_planes}
        groups.setdefault(tuple(chunk.items()), []).append(number)
    return [*groups.values()]


def split_volume(cuts, *, steps, num_repeats, num_workers):
    """Split an output into boxes, so that workers finish it as early as can be expected.

    A border between boxes makes the tiles it runs through be computed twice; too few boxes leave workers idle.
    Minimised is the time until the end: each worker's share of all tiles, or the largest box if that is more, and
    half the largest box once more, for which the others wait in the end. One volume of 64 tiles in a row becomes 9
    boxes for 4 workers, and 14 % of the tiles are computed twice; a long time-lapse is not split.

    `cuts` are the tiles along each axis; boxes begin at multiples of `steps` voxels of the output; `num_repeats`
    volumes are split in the same way. The boxes cover the output once.

    >>> from rcan.restoration.tiles import tile_axis
    >>> cuts = tile_axis(1000, tile=100, overlap=0)
    >>> split_volume([cuts], steps=[250], num_repeats=1, num_workers=2)
    [(slice(0, 500, None),), (slice(500, 1000, None),)]
    """
    most = max(1, _MOST_PARTS * num_workers // num_repeats)

    def time_of(splits):
        """Time that a way to split takes: of the busiest worker, or of the largest part."""
        largest = math.prod(split.largest for split in splits)
        share = num_repeats * math.prod(split.num_tiles for split in splits) / num_workers
        return max(share, largest) + largest / 2

    choices = (_splits(*axis, most) for axis in zip(cuts, steps, strict=True))
    possible = (
        splits for splits in itertools.product(*choices) if math.prod(len(split.stretches) for split in splits) <= most
    )
    return [*itertools.product(*(split.stretches for split in min(possible, key=time_of)))]


class _Split(NamedTuple):
    """Stretches of an axis, the tiles that all of them need, and the largest one."""

    stretches: list
    num_tiles: int
    largest: int


def _splits(cuts, step, most):
    """The best way to split an axis into one stretch, two, …, as many as there are tiles or chunks, or `most`."""
    size = cuts[-1].write.stop
    for count in range(1, min(len(cuts), -(-size // step), most) + 1):
        found = []
        for half in (0, step // 2, step - 1):  # down, to the nearest and up
            borders = {(i * size // count + half) // step * step for i in range(1, count)}
            borders = (0, *sorted(border for border in borders if 0 < border < size), size)
            stretches = [*itertools.starmap(slice, itertools.pairwise(borders))]
            tiles = [sum(do_meet(cut.write, part) for cut in cuts) for part in stretches]
            found.append(_Split(stretches, sum(tiles), max(tiles)))
        yield min(found, key=lambda split: split.largest * split.num_tiles)
