"""Judge a network on raw images and their ground truth: measure, write, print, and keep what `apply` needs."""

import os
import warnings

from rcan.assess.options import EvaluateOptions
from rcan.atomic_io import printable_name, write_json, write_table
from rcan.data.facts import measure_image
from rcan.data.findings import is_swapped
from rcan.data.measurements import MeasurementCache
from rcan.failures import describe_failure
from rcan.io.cache import limit_cache
from rcan.run_folder.models import add_to_record, find_model, has_record
from rcan.run_folder.record import SpreadRecord

__all__ = ["evaluate", "run_evaluation"]

_CACHE_BYTES = 2**27  # of decoded parts of compressed files


def evaluate(model_dir, input, ground_truth, output, **options):
    """Judge a trained network on raw images and their ground truth, and write a report, as `rcan evaluate` does.

    Raw and restored images and the best classical filters are scored against the ground truth; resolution, linearity,
    what the network makes of images without structure, and the spread of its ensemble are measured besides. The tables
    are printed, too.

    Parameters
    ----------
    model_dir : path
        Run folder of a training, or a ``.keras`` file. The factor of the ensemble's spread is kept in the
        training.json of a run folder; ``calibrate=False`` leaves it alone.
    input, ground_truth : path
        Two images, or two folders of images that are paired by name.
    output : path
        Folder for report.html, scores.csv and scores.json.
    **options
        The flags of the command without dashes, such as ``ensemble=8``; see `rcan.assess.options.EvaluateOptions`.

    Returns
    -------
    evaluation : rcan.assess.records.Evaluation

    Raises
    ------
    ValueError, OSError
        If an option is wrong, the network or an image cannot be used, or the folder holds files.

    Warns
    -----
    UserWarning
        Of images that the network has learned from, raw images that look better than their ground truth, frames that
        are left out, and a factor that cannot be kept.

    Examples
    --------
    >>> evaluation = evaluate("runs/sample", "raw", "gt", "judged")  # doctest: +SKIP
    >>> evaluation.total.methods["restored"]["psnr"].mean  # doctest: +SKIP
    23.34
    """
    values = {"model_dir": model_dir, "input": input, "ground_truth": ground_truth, "output": output, **options}
    return run_evaluation(EvaluateOptions.checked(values))


def run_evaluation(options):
    """Do what `EvaluateOptions` ask for; returns an `Evaluation`."""
    find_model(options.model_dir)
    _check_output(options.output, options.overwrite)
    # which import Keras
    from rcan.assess.network import evaluate_network, load_network, open_subjects
    from rcan.assess.subjects import pair_images
    from rcan.report.evaluation import write_evaluation_report
    from rcan.report.text import format_evaluation

    limit_cache(_CACHE_BYTES)
    paths = pair_images(options.input, options.ground_truth, options.repeat)
    network = load_network(
        options.model_dir, ensemble=options.ensemble, devices=options.devices, precision=options.precision
    )
    print(network.precision, flush=True)
    subjects = open_subjects(network, paths, axes=options.axes, gt_axes=options.gt_axes, fwhm=options.fwhm)
    evaluation, images = evaluate_network(
        network,
        subjects,
        fwhm=options.fwhm,
        with_calibration=options.calibrate,
        seed=options.seed,
        settings=options.model_dump(mode="json"),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    write_table(options.output / "scores.csv", _make_rows(evaluation))
    write_json(options.output / "scores.json", evaluation.as_json())
    write_evaluation_report(options.output / "report.html", evaluation, images)
    print(f"\n{format_evaluation(evaluation)}")
    _warn_if_swapped(evaluation, subjects)
    if evaluation.calibration:
        _keep_factor(options.model_dir, evaluation)
    print(f"\nReport: {options.output / 'report.html'}", flush=True)
    return evaluation


def _check_output(folder, overwrite):
    """Refuse a folder that cannot be written, or holds files."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder with -o.")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} is no folder that may be written to: name another with -o.")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if held and not overwrite:
        raise FileExistsError(
            f"{folder} already holds files ({held[0]}): name another folder with -o, or write to it with --overwrite."
        )


def _make_rows(evaluation):
    """One line of scores.csv for each volume and method."""
    return [
        {"volume": name, "method": method, **scores.as_row(), "evaluated": volume.evaluated_part}
        for name, volume in evaluation.volumes.items()
        for method, scores in volume.methods.items()
    ]


def _warn_if_swapped(evaluation, subjects):
    """Warn where the network makes images worse, and the first raw image looks better than its ground truth."""
    gain = evaluation.total.gains.get("raw", {}).get("psnr")
    if not gain or gain.mean >= 0:
        return
    subject, cache = subjects[0], MeasurementCache(None)
    raw, gt = (measure_image(view, cache) for view in (subject.raw, subject.gt))
    if is_swapped(raw, gt, subject.upscaling):
        warnings.warn(
            f"raw looks better than the ground truth in {printable_name(subject.name)} (SNR {raw.snr:.1f} and "
            f"{gt.snr:.1f}): exchange -i and -g if they are swapped.",
            stacklevel=2,
        )


def _keep_factor(model_dir, evaluation):
    """Keep with the network what its spread must be multiplied by, if it was found now and on new images."""
    calibration = evaluation.calibration
    if calibration.factor is None:
        return
    if not has_record(model_dir):
        print(f"{model_dir} has no training.json: the factor is in the report alone.")
        return
    coverage = calibration.coverage.get(calibration.found_on)
    if not coverage:  # the factor of an earlier call was checked
        return
    learned = [name for name, volume in evaluation.volumes.items() if volume.learned_from]
    if learned and calibration.found_on == "evaluated":  # where errors are smaller than elsewhere
        print(f"{learned[0]} is training or validation data: the factor is in the report alone.")
        return
    shares = {name: value for name, value in coverage._asdict().items() if name != "curve"}
    spread = SpreadRecord(
        factor=calibration.factor, ensemble=calibration.ensemble, found_on=calibration.found_on, **shares
    )
    try:
        add_to_record(model_dir, "spread", spread)
    except OSError as failure:
        warnings.warn(f"the factor is in the report alone: {describe_failure(failure)}", stacklevel=2)
        return
    print("The factor is kept with the network: rcan apply --uncertainty multiplies by it.")
