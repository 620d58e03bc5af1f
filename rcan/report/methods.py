"""Methods paragraphs with the numbers filled in, ready for a paper, and what to cite.

Every sentence follows from what a run has recorded: what was not used is not mentioned, and what is not known is left
out. Papers are cited where they are used, as ``doi:…`` or ``arXiv:…``.
"""

from pathlib import PureWindowsPath

from rcan import __version__
from rcan.config import LOSS_NAMES, parse_loss
from rcan.figures.history import best_epoch
from rcan.report.text import FORMS, count, format_interval, format_sizes, join

__all__ = [
    "CITATIONS",
    "describe_evaluation",
    "describe_limits",
    "describe_samples",
    "describe_scaling",
    "describe_training",
]

_PAPER = "Chen et al., Nat. Methods 18, 678 (2021), doi:10.1038/s41592-021-01155-x"

CITATIONS = (
    "The method: Chen J, Sasaki H, Lai H, Su Y, Liu J, Wu Y, Zhovmer A, Combs CA, Rey-Suarez I, Chang H-Y, Huang CC, "
    "Li X, Guo M, Nizambad S, Upadhyaya A, Lee S-JJ, Lucas LAG, Shroff H. Three-dimensional residual channel attention "
    "networks denoise and sharpen fluorescence microscopy image volumes. Nature Methods 18, 678–687 (2021), "
    "doi:10.1038/s41592-021-01155-x.",
    f"The software: The rcan developers. rcan: three-dimensional residual channel attention networks for fluorescence "
    f"microscopy, version {__version__}.",
)

_SCHEDULES = {"staircase": "halved after every quarter of the epochs", "cosine": "falling to 0 along half a cosine"}


def describe_training(record, config, *, history=(), num_parameters=None):
    """Say how a network was trained.

    `record` is its `TrainingRecord`, `config` the contents of its config.json, `history` the rows of its history.csv.
    """
    ndim = len(record.patch_shape)
    noun = "volume" if ndim == 3 else "image"
    return " ".join(
        [
            _describe_network(record, config, ndim, num_parameters),
            *_describe_pairs(record, noun),
            _describe_patches(record, config, ndim),
            *_describe_steps(record, config, history),
        ]
    )


def _describe_network(record, config, ndim, num_parameters):
    kind = {3: "three", 2: "two"}[ndim]
    own = (record.own_functions or {}).get("network")
    size = (
        f"as {own} builds it"
        if own
        else (
            f"{count(config['num_residual_groups'], 'residual group')} of "
            f"{count(config['num_residual_blocks'], 'residual channel attention block')}, "
            f"{config['num_channels']} feature channels, channel reduction {config['channel_reduction']}"
        )
    )
    if num_parameters:
        size += f", {num_parameters:,} parameters"
    versions = record.versions
    factors = record.upscaling
    larger = f", enlarging {format_sizes(factors)} times ({'ZYX'[-ndim:]})" if max(factors) > 1 else ""
    grid = config.get("downsampling") or [1]
    if max(grid) > 1:
        size += f", one voxel of the feature maps for {format_sizes(grid)} voxels of the image ({'ZYX'[-ndim:]})"
    first = config["initial_model"]
    begun = f", beginning with the weights of {PureWindowsPath(first).name}" if first else ""
    network = f"network ({size})" if own else f"residual channel attention network ({_PAPER}; {size})"
    return (
        f"A {kind}-dimensional {network}{larger} was trained with rcan "
        f"{versions['rcan']} (Keras {versions['keras']}, TensorFlow {versions['tensorflow']}){begun}."
    )


def _describe_pairs(record, noun):
    training, validation = record.training, record.validation
    shapes = {tuple(pair.gt_shape[:-1]) for pair in training}
    sizes = {tuple(pair.voxel_size) for pair in training}
    if len(shapes) == 1:
        shape = next(iter(shapes))
        extent = f" of {format_sizes(shape)} voxels ({'ZYX'[-len(shape) :]})"
        if len(sizes) == 1 and None not in next(iter(sizes))[-len(shape) :]:
            extent += f" of {format_sizes(next(iter(sizes))[-len(shape) :])} µm"
    else:
        extent = ""
    num_frames = sum(pair.num_frames for pair in training)
    frames = f" ({num_frames} frames in all)" if num_frames > len(training) else ""
    learned = f"It learned from {count(len(training), 'pair')} of raw and ground-truth {noun}s{extent}{frames}"
    scaled = describe_scaling(record, noun)
    if not validation:
        return f"{learned}.", scaled
    if {pair.raw for pair in validation} <= {pair.raw for pair in training}:
        held = f"a part of each {noun} that was not trained on was kept for validation"
    else:
        verb = "was" if len(validation) == 1 else "were"
        held = f"{count(len(validation), 'other pair')} {verb} kept for validation"
    return f"{learned}; {held}.", scaled


def describe_scaling(record, noun):
    """Say how grey values become the input of a network; `noun` is what its images are called."""
    low, high = record.percentiles
    scaled = f"The grey values at percentiles {low:g} and {high:g} of each {noun} and channel were mapped to 0 and 1."
    if record.normalization == "anscombe":
        scaled += (
            " In raw these were percentiles of means of 4 × 4 voxels; its noise was measured from each image, made the "
            "same at every intensity by the generalised Anscombe transform (doi:10.1109/TIP.2012.2202675), and its "
            "strength was a second input channel."
        )
        if record.noise_range:
            scaled += (
                " An image with less noise than any that was learned from was taken for one of the least noise, one "
                "with more was said to have the most."
            )
    return scaled


def _describe_patches(record, config, ndim):
    words = f"Patches of {format_sizes(record.patch_shape)} voxels ({'ZYX'[-ndim:]}) were drawn at random"
    threshold, share = config["intensity_threshold"], config["area_ratio_threshold"]
    if threshold > 0 and share > 0:
        signal = f"at least {100 * share:g} % of the voxels exceed {threshold:g} in the ground truth"
        words += f", among those of which {signal}"
    if config["data_augmentation"]:
        flips = "y and z" if ndim == 3 else "y"
        words += f", and augmented by random quarter turns in the XY plane and flips along {flips}"
    if own := (record.own_functions or {}).get("augment"):
        words += f", and augmented by {own}"
    if config.get("photon_range"):
        low, high = config["photon_range"]
        words += (
            f"; each was given {low:g} to {high:g} times the light of the raw image (half of them log-uniform, half "
            "by an arcsine distribution of the logarithm), less by thinning its photons and adding noise of the readout"
        )
        words += ", more by mixing it with the ground truth" * (high > 1)
        if record.normalization == "anscombe":
            words += "; its loss was weighed by the cube root of its range in units of its noise"
    if config.get("late_patches") and record.patch_shape:
        words += (
            f". In the last {100 * config['late_patches']:g} % of the epochs they were up to twice as large along Y "
            "and X, and a quarter as many in a step"
        )
    return f"{words}."


def _describe_steps(record, config, history):
    own = (record.own_functions or {}).get("loss")
    losses = own or " + ".join(
        LOSS_NAMES[name] if weight == 1 else f"{weight:g} × ({LOSS_NAMES[name]})"
        for name, weight in parse_loss(config["loss"]).items()
    )
    num_epochs = len(history) or config["epochs"]
    patches = count(config["batch_size"], "patch", "patches")
    rate = f"initial learning rate {config['initial_learning_rate']:g}"
    if config["warmup_epochs"]:
        rate += f" after a warm-up of {count(config['warmup_epochs'], 'epoch')}"
    if config.get("clipnorm"):
        rate += f", gradients scaled down to a norm of {config['clipnorm']:g}"
    steps = (
        f"The loss, {losses}, was minimised by Adam (arXiv:1412.6980) for {count(num_epochs, 'epoch')} of "
        f"{count(config['steps_per_epoch'], 'step')} with batches of {patches}; "
        f"{rate}, {_SCHEDULES[config['schedule']]} (of {config['epochs']})"
    )
    if config["precision"] != "float32":
        steps += f"; computed in {config['precision']}"
    yield f"{steps}."
    if num_epochs < config["epochs"]:
        yield f"It was stopped there, as no later epoch was better for {count(config['early_stopping'], 'epoch')}."
    kind = "validation" if record.validation else "training"
    average = f"moving average of the weights (decay {config['ema']:g}) with the" if config["ema"] else "network of the"
    best = best_epoch(history) if history else None
    of_epoch = f" (epoch {best:.0f})" if best else ""
    yield f"The {average} lowest {kind} loss{of_epoch} was kept. The seed was {config['seed']}."


def describe_evaluation(evaluation):
    """Say how a network was evaluated, and what came out, from an `Evaluation`."""
    volumes, total = evaluation.volumes, evaluation.total
    low, high = evaluation.model.percentiles
    learned = sum(volume.learned_from for volume in volumes.values())
    of_them = f", {learned} of which the network had been trained or validated on" if learned else ""
    ensemble = evaluation.settings.get("ensemble")
    restored = f" (mean of an ensemble of {ensemble} turned and flipped copies)" if ensemble else ""
    is_part = any(volume.part for volume in volumes.values())
    parts = " Of large images the central part was evaluated." * is_part
    psnrs, ssims = (
        join(
            [
                f"{format_interval(intervals[measure], FORMS[measure])}{unit} for {method}"
                for method, intervals in total.methods.items()
            ]
        )
        for measure, unit in (("psnr", " dB"), ("ssim", ""))
    )
    over = {"volumes": "images", "blocks": "blocks of the images"}[total.over]
    sentences = [
        f"The network (rcan {evaluation.versions['rcan']}; {_PAPER}) was evaluated on "
        f"{count(len(volumes), 'pair')} of raw and ground-truth images{of_them}.{parts}",
        *_describe_precision(evaluation.model.precision),
        f"Images{restored} were compared with the ground truth, in which percentiles {low:g} and {high:g} are 0 and 1, "
        "after a least-squares affine match of intensities, by the peak signal-to-noise ratio (PSNR, data range 1), "
        "the structural similarity of volumes (SSIM, Gaussian window, doi:10.1109/TIP.2003.819861), the root mean "
        "square error relative to the ground truth (NRMSE) and Pearson's correlation.",
        *_describe_references(total),
        f"PSNR was {psnrs}, and SSIM {ssims} (mean, 95 % bootstrap interval over {over}).",
        "Resolution was measured by image decorrelation analysis (doi:10.1038/s41592-019-0515-7) and by Fourier ring "
        "correlation with the ground truth (doi:10.1038/nmeth.2448).",
        "What the network makes of images without structure was tested on noise alone, on a flat field and on raw "
        "images with shuffled Fourier phases (doi:10.1016/0167-2789(92)90102-S).",
    ]
    calibration = evaluation.calibration
    if calibration and calibration.factor is not None:
        sentences.append(
            f"The standard deviation over an ensemble of {calibration.ensemble} turned and flipped copies was "
            f"multiplied by {calibration.factor:.3g}, so that it held the error that is left after the affine "
            f"match in 68.3 % of the voxels of the {calibration.found_on} images (after arXiv:1807.00263)."
        )
    return " ".join(sentences)


_REFERENCES = {
    "Gaussian": "Gaussian filter",
    "median": "median filter",
    "Richardson-Lucy": "Richardson–Lucy deconvolution (doi:10.1364/JOSA.62.000055, doi:10.1086/111605)",
    "non-local means": "non-local means (doi:10.1109/CVPR.2005.38) after a variance-stabilising transform "
    "(doi:10.1093/biomet/35.3-4.246)",
}


def _describe_references(total):
    names = [words for name, words in _REFERENCES.items() if any(name in method for method in total.methods)]
    if names:
        yield (
            f"Classical references were {join(names)}, each with that of several settings whose PSNR was highest, for "
            "each image."
        )


def _describe_precision(name):
    """What a network was computed in, where that is not float32."""
    if name != "float32":
        yield f"The network was computed in {name.removeprefix('mixed_')}, with a float32 first and last layer."


def describe_limits(result):
    """Say how the limits of a network were found, and what they are, from a `LimitsResult`."""
    settings, snr, blur = result.settings, result.ladders["snr"], result.ladders["blur"]
    which = "One network was trained for each step" if settings.config else "A trained network was tested"
    widths = format_sizes(round(width, 3) for width in settings.fwhm)
    sentences = [
        f"{which} (rcan {__version__}; {_PAPER}) on {describe_samples(settings)}, degraded in steps: "
        f"{snr[0].photons:g} to {snr[-1].photons:g} detected photons at full signal (signal-to-noise ratio "
        f"{snr[0].snr:.3g} to {snr[-1].snr:.3g}) with points {snr[0].blur:g} times as wide as in the ground "
        f"truth, and points {blur[0].blur:g} to {blur[-1].blur:g} times as wide at {blur[0].photons:g} "
        "photons.",
        f"A point in the ground truth had a full width at half maximum of {widths} µm (ZYX). Noise was that of photons "
        f"(Poisson) over a background of {settings.background:g} photons, and of readout "
        f"({settings.read_noise:g} electrons). {settings.volumes} exposures were made at each step.",
        *_describe_precision(settings.precision),
        "Restored images were compared with raw ones and with the best classical method for each exposure (Gaussian or "
        "median filter, Richardson–Lucy deconvolution, non-local means; setting of highest PSNR) after an affine match "
        "of intensities; a limit is where the lower end of the 95 % bootstrap interval of the mean paired difference "
        "is no longer above 0.",
        "Resolution was measured by Fourier ring correlation with the ground truth (doi:10.1038/nmeth.2448).",
    ]
    found = [f"{limit.title}: {limit.end}" for limit in result.limits.values()]
    return " ".join([*sentences, f"Found were: {'; '.join(found)}."])


def describe_samples(settings):
    """What limits were found on, from `LimitsSettings`."""
    if settings.phantoms:
        return f"simulated {settings.phantoms} phantoms"
    return count(len(settings.input or []), "image") + " taken as the ground truth"
