"""From an image file to a restored one: open and check, compare with the training data, restore, write, report.

A file is looped over in the blocks that the network sees: positions and time points always, channels where the
network has one input channel, planes where it is two-dimensional. One intensity range for each channel serves the
whole series unless another normalisation is asked for, so that nothing flickers.
"""

import math
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rcan.data.despike import despike
from rcan.data.pair_check import check_fit, have_equal_frames
from rcan.data.views import open_network_view
from rcan.intensity import INPUT_CHANNELS
from rcan.io.opening import create_volume, open_volume
from rcan.io.volume import Volume
from rcan.progress import Progress
from rcan.regions import whole_region
from rcan.restoration.blocks import restored_blocks
from rcan.restoration.chain import judge_chain, views_of_chain
from rcan.restoration.examination import examine, open_scratch
from rcan.restoration.output import FileReport, Output
from rcan.restoration.seams import SeamMeter
from rcan.restoration.settings import RestoreSettings
from rcan.restoration.tiled import TiledRestorer

__all__ = ["FileRestorer", "ImageTask"]

VISIBLE_SEAM = 1.15  # score from which the borders of tiles may be seen (docs/tiling.md)


@dataclass(frozen=True)
class FileRestorer:
    """A network, in tiles that the memory holds, and the settings that image files are restored with.

    `cluster`, a `rcan.restoration.dask_cluster.Cluster`, restores the parts of a file; this process does where None.
    `earlier` are the `FileRestorer`s of networks whose output this one restores, in their order; `name` is what
    messages call the network.
    """

    tiled: TiledRestorer
    settings: RestoreSettings = field(default_factory=RestoreSettings)
    cluster: object | None = None
    earlier: tuple = ()
    name: str = "the network"

    @property
    def chain(self):
        """The restorers of all networks, in their order."""
        return (*self.earlier, self)

    @property
    def num_channels(self):
        """Channels of the image that are read and restored; noise and the spread of an ensemble are not counted."""
        num_read, num_written = self.tiled.engine.num_channels
        num_read //= INPUT_CHANNELS[self.settings.normalization]
        return num_read, num_written // (2 if self.settings.with_spread else 1)

    def open(self, raw_path, gt_path=None):
        """Open an image, and its ground truth where there is one: an `ImageTask`.

        An image that is in no file is a `rcan.io.volume.Volume` in place of the path.
        """
        return ImageTask(self, raw_path, gt_path)

    def restore(self, raw_path, output_path, *, gt_path=None, **options):
        """Restore one file; `options` are those of `ImageTask.restore`."""
        with self.open(raw_path, gt_path) as task, task.restore(output_path, **options) as report:
            return report

    def view_raw(self, volume):
        """An open image as the network reads it: a `NetworkView`."""
        settings = self.settings
        return open_network_view(
            volume,
            ndim=len(self.tiled.engine.factors),
            num_channels=self.num_channels[0],
            percentiles=settings.percentiles,
            channels=settings.channels,
            normalize=settings.normalize,
            training_range=settings.training_range,
            normalization=settings.normalization,
            noise=settings.noise,
            noise_range=settings.noise_range,
            allows_gaps=True,
        )

    def view_gt(self, volume):
        """An open ground truth as the network should restore it: a `NetworkView`."""
        return open_network_view(
            volume,
            ndim=len(self.tiled.engine.factors),
            num_channels=self.num_channels[1],
            percentiles=self.settings.percentiles,
        )

    def restore_part(self, raw_file, writers, ranges, noise, part, *, tile_shape, overlap, noise_of_spikes=None):
        """Restore a region of the output of a file, into outputs that other processes write to as well.

        `writers` are the `rcan.io.zarr_writing.ZarrWriter` of the output, and of the spread of an ensemble; `ranges`
        the grey values of 0 and 1 by number of the frame, other frames are left out; `noise` is that of the image, see
        `rcan.data.views.NetworkView`, `noise_of_spikes` that of a `rcan.data.despike.DespikedSource` where spikes are
        removed. Returns a `FileReport` with counts alone, and the `SeamMeter`.
        """
        report, seams = FileReport(), SeamMeter()
        with open_volume(raw_file, axes=self.settings.axes) as volume:
            if noise_of_spikes:
                volume = despike(volume, noise_of_spikes)
            for number, frame_range in ranges.items():
                settings = replace(self.settings, normalize="training", training_range=frame_range, noise=noise)
                raw = replace(self, settings=settings).view_raw(volume)
                blocks = restored_blocks(
                    self.tiled.engine, raw, (tile_shape, overlap), numbers=[number], part=part, seams=seams
                )
                output = Output(settings, self.tiled.engine.factors, self.num_channels, raw)
                output.write(writers, blocks, report)
        for writer in writers:
            writer.flush()
        return report, seams


class ImageTask:
    """An image that is opened and checked, and waits to be restored; a context manager.

    `raw` and `gt` are `NetworkView`s, gt None without ground truth, and raw what the last network sees where there are
    several; `verdict` says whether what each network sees is like its training data, None where these are not known. A
    ValueError or OSError says that a file cannot be read, or does not fit the network.
    """

    def __init__(self, restorer, raw_path, gt_path=None):
        self._restorer, settings = restorer, restorer.chain[0].settings
        with ExitStack() as stack:
            is_open = isinstance(raw_path, Volume)
            volume = stack.enter_context(raw_path if is_open else open_volume(raw_path, axes=settings.axes))
            if settings.despike:
                volume = despike(volume)
            self._spikes = volume.source if settings.despike else None
            views = views_of_chain(restorer.chain, volume)
            for view in views[1:]:
                stack.callback(view.volume.close)
            self.raw, self.gt = views[-1], None
            if gt_path:
                volume = stack.enter_context(open_volume(gt_path, axes=restorer.settings.gt_axes))
                self.gt = restorer.view_gt(volume)
                check_fit(self.raw, self.gt, restorer.tiled.engine.factors, restorer.num_channels[1])
            self._shown = self._choose_shown(views[0])
            self.verdict = judge_chain(restorer.chain, views)
            self._files = stack.pop_all()

    def _choose_shown(self, first):
        """What counts as raw in scores and in the output: the image before all networks, where frames correspond."""
        if have_equal_frames(first, self.raw):
            return first
        if self.gt or self._restorer.settings.as_channels:
            raise ValueError(
                f"{first.volume.path}: some of the networks restore single planes or channels and others do not: raw "
                "and restored cannot be compared frame by frame. Leave --compare and -g out."
            )
        return self.raw

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._files.close()

    def _restored_shape(self):
        factors = self._restorer.tiled.engine.factors
        return (*map(int.__mul__, self.raw.volume.shape[:-1], factors), self._restorer.num_channels[1])

    @contextmanager
    def restore(self, output_path, *, spread_path=None, file_format="imagej", label="Restoring", create=create_volume):
        """Restore the image; the files get their names when the `with` block ends without an exception.

        Yields a `FileReport` of files that are complete, but still hidden. The spread of an ensemble goes to
        `spread_path`; `file_format` is as in `rcan.io.opening.create_volume`, `label` stands beside the progress.
        ``create`` may make something else than a file, see there.
        Warnings say that memory was too small for the tiles, values were clipped or tiles are visible.
        """
        restorer = self._restorer
        output = Output(
            restorer.settings,
            restorer.tiled.engine.factors,
            restorer.num_channels,
            self.raw,
            self.gt,
            self.verdict,
            shown=self._shown,
        )
        output.warn_of_lost_steps(output_path)

        def restore_in(tile_shape, overlap):
            """Restore the image in tiles of a shape into new files."""
            with ExitStack() as stack:
                files = [stack.enter_context(output.create(output_path, file_format, create=create))]
                if spread_path:
                    files.append(
                        stack.enter_context(output.create(spread_path, file_format, is_spread=True, create=create))
                    )
                num_voxels = len(self.raw.frames) * math.prod(self.raw.volume.shape[:-1])
                with Progress(num_voxels, label, unit="voxel") as progress:
                    report = self._fill(output, files, (tile_shape, overlap), progress)
                report.files = tuple(files)
                report.present_paths = {file.path: file.complete() for file in files}
                return report, stack.pop_all()

        report, files = restorer.tiled.with_fitting_tiles(self.raw.volume.shape[:-1], restore_in)
        with files:
            yield report
        _warn(report, output_path, restorer.settings.bits, num_frames=len(self.raw.frames))

    def _fill(self, output, files, tiles, progress):
        """Restore all frames into files that are open."""
        restorer, seams = self._restorer, SeamMeter()
        report = FileReport(tile_shape=tiles[0], overlap=tiles[1], verdict=self.verdict)
        if restorer.cluster:
            noise = self._spikes.noise if self._spikes else None
            restorer.cluster.restore(restorer, self.raw, files, report, progress, seams, noise_of_spikes=noise)
        else:
            blocks = restored_blocks(restorer.tiled.engine, self.raw, tiles, progress=progress, seams=seams)
            if self.gt or restorer.settings.stretch:
                self._fill_examined(output, files, blocks, report)
            else:
                output.write(files, blocks, report)
        report.seams = seams.score
        report.num_blank = sum(map(self.raw.is_blank, range(len(self.raw.frames))))
        is_read_here = not restorer.cluster or restorer.settings.normalize != "training"  # the whole image
        report.num_spikes = self._spikes.num_spikes if self._spikes and is_read_here else None
        return report

    def _fill_examined(self, output, files, blocks, report):
        """Keep what is restored on disk until it has been scored or its limits are known, then write it."""
        shape = self._restored_shape()
        num_written = self._restorer.tiled.engine.num_channels[1]
        folder = Path(files[0].path).absolute().parent
        with open_scratch(folder, (len(self.raw.frames), *shape[:-1], num_written)) as restored:
            for number, region, block in blocks:
                restored[number][region] = block
            found = examine(restored, self._shown, self.gt, shape[-1], rescale=self._restorer.settings.rescale)
            whole = whole_region(shape[:-1])
            frames = ((number, whole, np.array(block)) for number, block in enumerate(restored))
            output.write(files, frames, report, found.limits if self._restorer.settings.stretch else None)
        report.scores = found.scores


def _warn(report, output_path, bits, *, num_frames):
    if report.num_missing:
        share = 100 * report.num_missing / report.num_values
        warnings.warn(
            f"{output_path}: {share:.2g} % of the voxels are missing in raw (NaN): they are missing here, too"
            f"{' (0)' * (bits < 32)}, and were background to the network.",
            stacklevel=4,
        )
    if report.num_blank:
        warnings.warn(
            f"{output_path}: {report.num_blank} of {num_frames} frames have one grey value only: they are written as "
            "they are, not restored.",
            stacklevel=4,
        )
    if report.num_clipped:
        share = 100 * report.num_clipped / report.num_values
        warnings.warn(
            f"{output_path}: {report.num_clipped} values ({share:.2g} %) lay outside 0 to {2**bits - 1} and "
            "were clipped. `--bpp 32` keeps them.",
            stacklevel=4,
        )
    if report.seams and report.seams > VISIBLE_SEAM:
        warnings.warn(
            f"{output_path}: intensities step {report.seams:.2f} times as far across the borders of tiles as "
            "beside them, look for seams. A larger --block_overlap_shape makes them fainter.",
            stacklevel=4,
        )
