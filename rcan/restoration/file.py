"""From an image file to a restored one: frames, intensities, channels and metadata.

A file is looped over in the blocks that the network sees: positions and time points always, channels where the
network has one input channel, planes where it is two-dimensional. One intensity range for each channel serves the
whole series unless another normalisation is asked for, so that nothing flickers.
"""

import math
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rcan.atomic_io import preallocate, report_errors_as
from rcan.data.views import check_fit, open_network_view
from rcan.fingerprint.domain import compare_fingerprint
from rcan.intensity import fit_affine
from rcan.io.volume import open_volume
from rcan.progress import Progress
from rcan.restoration.output import Output, Report
from rcan.restoration.seams import SeamMeter
from rcan.restoration.tiled import TiledRestorer, restore_blocks
from rcan.scores import compare, mean_scores

__all__ = ["FileRestorer"]

VISIBLE_SEAM = 1.15  # score from which the borders of tiles may be seen (docs/tiling.md)


@dataclass
class FileRestorer:
    """A trained network and the settings to restore image files with.

    Attributes
    ----------
    engine : callable
        As `rcan.restoration.engine.KerasEngine`, or an `Ensemble`.
    max_voxels : int
        Most voxels of a tile that is chosen. Halved when memory turns out to be too small.
    tile_shape : tuple of int or None
        Spatial shape of a tile, cut down to the volume; the one that computes the fewest voxels where None.
    overlap : tuple of int or None
        Voxels that neighbouring tiles share; see `rcan.restoration.tiled.plan_tiles` where None.
    percentiles : tuple of float
        Percentiles that become 0 and 1.
    normalize : {"series", "frame", "training"}
        As `rcan.data.views.open_network_view`.
    training_range : ndarray or None
        Grey values that became 0 and 1 in training.
    axes, gt_axes : str or None
        Axes of the input and of the ground truth, where their metadata is wrong.
    channels : tuple of int or None
        Channels of the input to restore; all where None.
    bits : {32, 16, 8}
        Of an output value: float32, uint16 or uint8.
    as_channels : bool
        Write raw, restored and ground truth as channels, normalised.
    rescale : bool
        Match the result to the ground truth, and write it in its unit.
    stretch : bool
        Stretch each channel to [0, 1].
    with_spread : bool
        The engine gives the spread of an ensemble besides, which becomes a second file.
    spread_factor : float
        What the spread is multiplied by.
    file_format : str
        As `rcan.io.create_volume`.
    cluster : rcan.restoration.dask_cluster.Cluster or None
        Its workers restore the parts of a file; this process does where None.
    training_fingerprint : rcan.fingerprint.domain.TrainingFingerprint or None
        What the network was trained on.
    trusted_range : rcan.fingerprint.domain.TrustedRange or None
    """

    engine: object
    max_voxels: int = 2**22
    tile_shape: tuple | None = None
    overlap: tuple | None = None
    percentiles: tuple = (2, 99.9)
    normalize: str = "series"
    training_range: np.ndarray | None = None
    axes: str | None = None
    gt_axes: str | None = None
    channels: tuple | None = None
    bits: int = 32
    as_channels: bool = False
    rescale: bool = False
    stretch: bool = False
    with_spread: bool = False
    spread_factor: float = 1.0
    file_format: str = "imagej"
    cluster: object | None = None
    training_fingerprint: object | None = None
    trusted_range: object | None = None
    num_channels: tuple = field(init=False)  # read and restored

    def __post_init__(self):
        num_read, num_written = self.engine.num_channels
        self.tiled = TiledRestorer(
            self.engine, max_voxels=self.max_voxels, tile_shape=self.tile_shape, overlap=self.overlap
        )
        self.num_channels = num_read, num_written // (2 if self.with_spread else 1)

    def restore(
        self,
        raw_path,
        output_path,
        *,
        gt_path=None,
        spread_path=None,
        label="Restoring",
        when_judged=None,
        when_whole=None,
    ):
        """Restore one file; the output appears when it is whole.

        Parameters
        ----------
        raw_path, output_path : path
        gt_path : path, optional
            Ground truth to score against.
        spread_path : path, optional
            Where the spread of an ensemble goes.
        label : str
            Shown with the progress.
        when_judged : callable, optional
            Called with the verdict on the image before anything is written, where it is known what the network was
            trained on. An exception leaves the image alone.
        when_whole : callable, optional
            Called with the final and the present path of each output right before it gets its name.

        Returns
        -------
        report : Report

        Raises
        ------
        ValueError, OSError
            If a file cannot be read or written, or does not fit the network.

        Warns
        -----
        UserWarning
            If memory was too small for the tiles, values were clipped or tiles can be seen.
        """
        with ExitStack() as stack:
            raw = self._see(stack.enter_context(open_volume(raw_path, axes=self.axes)), self.num_channels[0])
            gt = None
            if gt_path:
                file = stack.enter_context(open_volume(gt_path, axes=self.gt_axes))
                gt = self._see(file, self.num_channels[1], is_gt=True)
                check_fit(raw, gt, self._restored_shape(raw.volume))
            verdict = None
            if self.training_fingerprint:
                verdict = compare_fingerprint(
                    raw.fingerprint(), self.training_fingerprint, self.trusted_range
                )
                if when_judged:
                    when_judged(verdict)
            output = Output(self, raw, gt, verdict)
            output.warn_of_lost_steps(output_path)
            report = self.tiled.with_fitting_tiles(
                raw.volume.shape[:-1],
                lambda *tiles: self._restore(
                    output, raw, gt, tiles, output_path, spread_path, label, when_whole
                ),
            )
        report.verdict = verdict
        self._warn(report, output_path)
        return report

    def _restore(self, output, raw, gt, tiles, output_path, spread_path, label, when_whole):
        shape = raw.volume.shape[:-1]
        tile_shape, overlap = tiles
        report = Report(tile_shape=tile_shape, overlap=overlap)
        seams = SeamMeter()
        with ExitStack() as stack:
            files = [stack.enter_context(output.create(output_path))]
            if spread_path:
                files.append(stack.enter_context(output.create(spread_path, is_spread=True)))
            for file in files:
                file.when_whole = when_whole
            progress = stack.enter_context(Progress(len(raw.frames) * math.prod(shape), label, unit="voxel"))
            blocks = self._restored_blocks(raw, tile_shape, overlap, progress, seams)
            if self.cluster:
                self.cluster.restore(self, raw, files, report, progress, seams)
            elif not (gt or self.stretch):
                output.write(files, blocks, report)
            else:
                self._write_examined(output, files, blocks, raw, gt, report)
        report.seams = seams.score
        return report

    def restore_part(self, raw_path, writers, ranges, part, *, tile_shape, overlap):
        """Restore a part of a file, into outputs that others write to besides.

        Parameters
        ----------
        raw_path : path
        writers : list of rcan.io.zarr_writing.ZarrWriter
            Of the output, and of the spread of an ensemble.
        ranges : dict of ndarray of shape (C, 2)
            Grey values of 0 and 1, by number of the frame; other frames are left out.
        part : tuple of slice
            Region of the output.
        tile_shape, overlap : tuple of int

        Returns
        -------
        report : Report
            Counts of values only.
        seams : rcan.restoration.seams.SeamMeter
        """
        report, seams = Report(), SeamMeter()
        with open_volume(raw_path, axes=self.axes) as file:
            for number, own in ranges.items():
                told = replace(self, normalize="training", training_range=own)
                raw = told._see(file, self.num_channels[0])
                blocks = told._restored_blocks(raw, tile_shape, overlap, None, seams, [number], part)
                Output(told, raw, None).write(writers, blocks, report)
        for writer in writers:
            writer.flush()
        return report, seams

    def _write_examined(self, output, files, blocks, raw, gt, report):
        """Keep what is restored on disk until it has been scored or its limits are known, then write it."""
        shape = (len(raw.frames), *self._restored_shape(raw.volume)[:-1], self.engine.num_channels[1])
        with _scratch(Path(files[0].path).absolute().parent, shape) as restored:
            for number, region, block in blocks:
                restored[number][region] = block
            scores, limits = self._examine(restored, raw, gt)
            whole = tuple(slice(0, size) for size in shape[1:-1])
            frames = ((number, whole, np.array(block)) for number, block in enumerate(restored))
            output.write(files, frames, report, limits if self.stretch else None)
        report.scores = mean_scores(scores) if scores else None

    def _warn(self, report, output_path):
        if report.num_clipped:
            share = 100 * report.num_clipped / report.num_values
            warnings.warn(
                f"{output_path}: {report.num_clipped} values ({share:.2g} %) lay outside 0 to {2**self.bits - 1} and "
                "were clipped. `--bpp 32` keeps them.",
                stacklevel=3,
            )
        if report.seams and report.seams > VISIBLE_SEAM:
            warnings.warn(
                f"{output_path}: intensities step {report.seams:.2f} times as far across the borders of tiles as "
                "beside them, look for seams. A larger --block_overlap_shape makes them fainter.",
                stacklevel=3,
            )

    def _see(self, file, num_channels, *, is_gt=False):
        return open_network_view(
            file,
            ndim=len(self.engine.factors),
            num_channels=num_channels,
            percentiles=self.percentiles,
            channels=None if is_gt else self.channels,
            normalize="series" if is_gt else self.normalize,
            training_range=self.training_range,
        )

    def _restored_shape(self, volume):
        return (*map(int.__mul__, volume.shape[:-1], self.engine.factors), self.num_channels[1])

    def _restored_blocks(self, raw, tile_shape, overlap, progress, seams, numbers=None, part=None):
        """Number of the frame, region and restored block, normalised."""
        for number in range(len(raw.frames)) if numbers is None else numbers:
            blocks = restore_blocks(
                self.engine,
                lambda region, number=number: raw.read(number, region),
                raw.volume.shape[:-1],
                tile_shape=tile_shape,
                overlap=overlap,
                part=part,
                progress=progress,
                seams=seams,
            )
            for region, block in blocks:
                yield number, region, block

    def _examine(self, restored, raw, gt):
        """Score the restored frames and find the limits of each channel; match to the ground truth in place."""
        if self.rescale:
            self._match(restored, raw, gt)
        scores, limits, last = [], {}, self.num_channels[1]
        for number, frame in enumerate(raw.frames):
            images = {"raw": raw.read(number), "restored": np.array(restored[number][..., :last])}
            if gt:
                images["ground truth"] = gt.read(number)
                scores.append(compare(*images.values()))
            for kind, image in images.items():
                space, key = tuple(range(image.ndim - 1)), (kind, frame.get("C"))
                low, high = limits.get(key, (np.inf, -np.inf))
                limits[key] = np.minimum(low, image.min(axis=space)), np.maximum(high, image.max(axis=space))
        return scores, limits

    def _match(self, restored, raw, gt):
        """Bring all frames to the ground truth by one line for each channel, so that a time course stays one."""
        by_channel, last = {}, self.num_channels[1]
        for number, frame in enumerate(raw.frames):
            by_channel.setdefault(frame.get("C"), []).append(number)
        for numbers in by_channel.values():
            line = fit_affine((restored[i][..., :last], gt.read(i)) for i in numbers)
            for i in numbers:
                restored[i][..., :last] = line[:, 0] * restored[i][..., :last] + line[:, 1]
                restored[i][..., last:] *= np.abs(line[:, 0])


@contextmanager
def _scratch(folder, shape):
    """An array of float32 on disk that is gone afterwards."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with report_errors_as(folder):
            preallocate(file, 0, 4 * math.prod(shape))
        array = np.memmap(file, np.float32, "w+", shape=shape)
        yield array
        del array
