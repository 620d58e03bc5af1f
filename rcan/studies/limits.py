"""Find where a network stops helping: measure, write, print, and keep the trusted range with the network."""

import os
import warnings
from contextlib import contextmanager

from rcan.assess.limits.records import LimitsResult, LimitsSettings, Step
from rcan.assess.options import PACKAGES, LimitsOptions
from rcan.atomic_io import atomic_file, file_signature, list_versions, write_json, write_table
from rcan.failures import describe_failure
from rcan.io.paths import is_folder_of_images, list_volumes
from rcan.run_folder.models import add_to_record, digest_model, has_record, load_model, read_record
from rcan.run_folder.record import TrainingRecord
from rcan.simulation.camera import each_warning_once
from rcan.simulation.options import DEFAULT_VOXEL_SIZE

__all__ = ["find_limits", "run_limits"]

_RESULTS = ("limits.csv", "limits.json", "snr.png", "blur.png", "report.html")


def find_limits(model_dir=None, *, output, **options):
    """Find the noise and the blur at which a network stops helping, and write a report, as `rcan limits` does.

    Ground truth, phantoms or sharp images of yours, is degraded step by step. At each step the restored image is
    compared with raw and with the best classical method. Finished steps are kept: the same call goes on after an
    interruption. The tables are printed, too.

    Parameters
    ----------
    model_dir : path, optional
        Run folder of a training, or a ``.keras`` file. Without one, ``train=True, config="config.json"`` trains a
        network for each step. The trusted range is kept in the training.json of a run folder, where `rcan apply` finds
        it.
    output : path
        Folder for the report, the tables and the finished steps.
    **options
        The flags of the command without dashes, such as ``input="gt", volumes=8``; see
        `rcan.assess.options.LimitsOptions`.

    Returns
    -------
    result : rcan.assess.limits.records.LimitsResult

    Raises
    ------
    ValueError, OSError
        If an option is wrong, the network or an image cannot be used, or the folder holds other results.

    Warns
    -----
    UserWarning
        Of images that the network has learned from, of exposures that saturate, and of a range that cannot be kept.

    Examples
    --------
    >>> result = find_limits("runs/sample", output="limits")  # doctest: +SKIP
    >>> print(result.limits["snr_low"].end)  # doctest: +SKIP
    3.9 (between the steps 2 and 4; mean difference 0 at 3.1, 95 % interval 2.4 to 3.9)
    """
    named = {"model_dir": model_dir} if model_dir else {}
    return run_limits(LimitsOptions.checked({"output": output, **named, **options}))


def run_limits(options):
    """Do what `LimitsOptions` ask for; returns a `LimitsResult`."""
    record = _read_network(options)
    learned, tested = _choose_inputs(options)
    _warn_of_learned(record, tested or [])
    settings = _make_settings(options, record, learned, tested)
    _check_output(options)
    from rcan.assess.limits.networks import choose_study_precision  # which imports Keras
    from rcan.assess.limits.tables import format_ladder

    precision = choose_study_precision(options, record)
    settings = settings.model_copy(update={"precision": precision.name})
    print(precision, flush=True)
    with each_warning_once(), _told_how_to_go_on(options):
        result, shown = _measure(options, settings, learned, tested)
    _write_results(options, result, shown)
    for ladder in result.ladders:
        print(f"\n{format_ladder(result, ladder)}")
    print(f"\nReport: {options.output / 'report.html'}", flush=True)
    if not options.train:
        _keep_range(options, record, result, shown[0].voxel_size)
    return result


def _measure(options, settings, learned, tested):
    """Measure all steps: a `LimitsResult`, and a `ShownStep` for each of some steps."""
    from rcan.assess.limits.ends import apply_rules
    from rcan.assess.limits.networks import adapt_network, train_networks
    from rcan.assess.limits.specimens import choose_specimens
    from rcan.assess.limits.steps import choose_shown_steps, measure_steps, open_study, show_step, summarise_steps
    from rcan.precision import with_precision

    ladders = {
        "snr": [Step(photons, options.blur) for photons in sorted(set(options.photon_ladder))],
        "blur": [Step(options.photons, factor) for factor in sorted(set(options.blur_ladder))],
    }
    steps = list(dict.fromkeys([*ladders["snr"], *ladders["blur"]]))
    specimens, notes = choose_specimens(options, settings, tested, options.volumes)
    num_channels = specimens[0].gt.shape[-1]
    if not options.train:  # a network that does not fit is refused before anything is replaced
        model = with_precision(load_model(options.model_dir)[0], settings.precision)
        restorer = adapt_network(model, num_channels, settings.normalization)
        restorer_of = dict.fromkeys(steps, restorer).__getitem__
    open_study(options.steps_folder, settings.as_json(), overwrite=options.overwrite)
    print("\n".join(notes), flush=True)
    if options.train:
        restorer_of = train_networks(steps, options, settings, learned, num_channels)
    measured = measure_steps(
        steps,
        specimens,
        restorer_of,
        folder=options.steps_folder,
        num_exposures=options.volumes,
        microscope=settings.microscope,
        scaling=settings.scaling,
        seed=options.seed,
    )
    ladders = {name: [measured[step] for step in along] for name, along in ladders.items()}
    limits = apply_rules(ladders, seed=options.seed)
    shown = [show_step(restorer_of(step), specimens[0], step, settings) for step in choose_shown_steps(ladders, limits)]
    intervals = summarise_steps(ladders, seed=options.seed)
    return LimitsResult(list_versions(*PACKAGES), settings, limits, ladders, intervals, notes), shown


# Before anything is computed


def _read_network(options):
    """What is known of the network; of networks that are to be trained, their normalisation."""
    if options.train:
        config = options.config_for("none")
        return TrainingRecord(percentiles=config.percentiles, normalization=config.normalization)
    return read_record(options.model_dir)


def _choose_inputs(options):
    """Images to learn from, for --train, and images to test on; None where phantoms are drawn."""
    if options.input is None:
        return None, None
    if not options.input.exists():
        raise FileNotFoundError(f"{options.input} does not exist: -i takes an image or a folder of them.")
    paths = list_volumes(options.input) if is_folder_of_images(options.input) else [options.input]
    if not options.train:
        return None, paths[: options.volumes]  # one part of each comes first: others would not be used
    if len(paths) < 2:
        raise ValueError(
            f"{options.input} holds one image: --train learns from some and tests on others. Name a folder of two or "
            "more."
        )
    num_tested = max(1, len(paths) // 4)
    learned, tested = paths[num_tested:], paths[:num_tested]
    return learned[: options.training_volumes], tested[: options.volumes]


def _warn_of_learned(record, paths):
    """A network restores what it has learned from better than what is new to it."""
    learned = record.real_paths(["gt"])
    known = [path for path in paths if os.path.realpath(path) in learned]
    if known:
        warnings.warn(
            f"{known[0]} is training data of this network: on new images it may break earlier. Name others with -i.",
            stacklevel=2,
        )


def _make_settings(options, record, learned, tested):
    """All that decides about the results of a step."""
    names = ("axes", "volumes", "shape", "background", "offset", "gain", "read_noise", "seed")
    settings = {name: getattr(options, name) for name in names}
    settings |= {"fwhm": options.choose_widths(), **record.scaling}
    if options.input:
        settings |= {"input": _identify(tested), "voxel_size": options.voxel_size}
    else:
        sizes = [pair.voxel_size for pair in record.training]
        known = sizes[0] if sizes and None not in sizes[0] else DEFAULT_VOXEL_SIZE
        settings |= {"phantoms": options.phantoms, "voxel_size": options.voxel_size or known}
    if not options.train:
        return LimitsSettings(model=digest_model(options.model_dir), **settings)
    config = options.config_for("none").model_dump(mode="json")
    simulated = ("_dir", "_pairs", "_data_format")
    settings["config"] = {key: value for key, value in config.items() if not key.endswith(simulated)}
    settings["training_volumes"] = options.training_volumes
    if learned:
        settings["training_input"] = _identify(learned)
    return LimitsSettings(**settings)


def _identify(paths):
    return [(os.path.realpath(path), file_signature(path)) for path in paths]


def _check_output(options):
    """Refuse to replace results that are not of an earlier call."""
    present = [name for name in _RESULTS if (options.output / name).exists()]
    if present and not options.steps_folder.exists():
        raise FileExistsError(f"{options.output / present[0]} is not of this command: name another folder with -o.")


@contextmanager
def _told_how_to_go_on(options):
    """Say after Ctrl-C or SIGTERM how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped; {options.steps_folder} keeps what is finished: the same call goes on.") from None


# Results


def _write_results(options, result, shown):
    from rcan.assess.limits.tables import make_rows
    from rcan.figures.style import save_png
    from rcan.report.limits import draw_chart, write_limits_report

    write_table(options.output / "limits.csv", make_rows(result))
    write_json(options.output / "limits.json", result.as_json())
    for ladder in result.ladders:
        with atomic_file(options.output / f"{ladder}.png") as partial:
            save_png(draw_chart(result, ladder), partial)
    trained = f"networks trained for each step by {options.config}"
    subject = trained if options.train else str(options.model_dir)
    write_limits_report(options.output / "report.html", result, shown, subject=subject)


def _keep_range(options, record, result, voxel_size):
    """Keep the trusted range with the network, if it was found on images of its kind."""
    from rcan.assess.limits.ends import trusted_range
    from rcan.fingerprint.domain import VOXEL_RATIOS

    if not has_record(options.model_dir):
        print(f"{options.model_dir} has no training.json: its trusted range is in the report alone.")
        return
    fingerprint = record.training_fingerprint
    ratio = VOXEL_RATIOS[-1]  # beyond it `apply` takes images for others than the training data
    known = zip(voxel_size, fingerprint.voxel_size if fingerprint else [None] * 3, strict=True)
    if any(ends and not ends[0] / ratio < size < ends[1] * ratio for size, ends in known):
        warnings.warn(
            "the trusted range is in the report alone: the voxels of these images have another size than those of the "
            "training data.",
            stacklevel=2,
        )
        return
    settings = {**result.settings.as_json(), "photons": options.photons, "blur": options.blur}
    trusted = trusted_range(result.limits, smallest_blur=min(options.blur_ladder), settings=settings)
    try:
        add_to_record(options.model_dir, "trusted_range", trusted)
    except OSError as failure:
        warnings.warn(f"the trusted range is in the report alone: {describe_failure(failure)}", stacklevel=2)
        return
    instead = ", instead of that of an earlier study" * bool(record.trusted_range)
    print(f"Trusted range: kept with the network in {options.model_dir}{instead}")
