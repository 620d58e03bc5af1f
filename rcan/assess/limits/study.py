"""What a study of limits exposes at each step of its ladders, and what restores it."""

import warnings

from rcan.atomic_io import printable_name

__all__ = ["Study", "config_for", "folder_of"]

_TEST, _TRAINING = 0, 1  # phantoms with random numbers of their own


def folder_of(options):
    """Where finished steps, and with --train networks and their data, are kept.

    Parameters
    ----------
    options : LimitsOptions

    Returns
    -------
    folder : Path
    """
    return options.output / "steps"


def config_for(options, name):
    """The configuration of the network for one step: that of the file, with simulated data in place of its own.

    Parameters
    ----------
    options : LimitsOptions
    name : str
        Of the step.

    Returns
    -------
    config : rcan.Config

    Raises
    ------
    ValueError, OSError
        As `rcan.load_config`.
    """
    from rcan.config import load_config

    folder = folder_of(options).absolute()
    data = {"raw": str(folder / "training" / name), "gt": str(folder / "training" / "gt")}
    nothing = dict.fromkeys(("validation_data_dir", "test_data_dir", "raw_data_format", "gt_data_format"))
    none = {f"{kind}_image_pairs": [] for kind in ("training", "validation", "test")}
    own = {"training_data_dir": data, "output_dir": str(folder / "networks" / name)}
    return load_config(options.config, {**nothing, **none, **own})


class Study:
    """Specimens and networks of one call.

    Parameters
    ----------
    options : LimitsOptions
    settings : dict
        All that decides about the results.
    percentiles : tuple of float
        That become 0 and 1.

    Attributes
    ----------
    microscope : rcan.assess.limits.exposures.Microscope
    """

    def __init__(self, options, settings, percentiles):
        from rcan.assess.limits.exposures import Microscope

        camera = {name: settings[name] for name in ("background", "offset", "gain", "read_noise")}
        self.microscope = Microscope(fwhm=tuple(settings["fwhm"]), **camera)
        self._options, self._settings, self._percentiles = options, settings, percentiles

    def specimens(self, paths, count, series=_TEST):
        """Draw phantoms, or cut parts from images.

        Parameters
        ----------
        paths : list of Path or None
            Phantoms where None.
        count : int
        series : int
            Of random numbers, so that phantoms to learn from and to test on differ.

        Returns
        -------
        specimens : list of rcan.assess.limits.specimens.Specimen
        notes : list of str
            What they are, in words.
        """
        from rcan.assess.limits.specimens import cut_specimens, draw_specimens

        options, size = self._options, "x".join(map(str, self._options.shape))
        shared = {"shape": options.shape, "percentiles": self._percentiles}
        if paths is None:
            voxel_size = tuple(self._settings["voxel_size"])
            specimens = draw_specimens(
                count,
                kind=options.phantoms,
                voxel_size=voxel_size,
                fwhm=self.microscope.fwhm,
                seed=(options.seed, series),
                **shared,
            )
            microns = "x".join(f"{length:g}" for length in voxel_size)
            kind = f"{options.phantoms} phantoms of {size} voxels (Z, Y, X) of {microns} µm"
            return specimens, [f"{count} {kind} are exposed at each step."]
        specimens = cut_specimens(paths, count, axes=options.axes, voxel_size=options.voxel_size, **shared)
        point, voxel = self.microscope.fwhm[-1], max(specimen.voxel_size[-1] for specimen in specimens)
        if point < voxel:
            warnings.warn(
                f"a point of {point:.2g} µm is narrower than a voxel of {voxel:.2g} µm, and its blur hardly shows: say "
                "with --fwhm how wide a point is in the images.",
                stacklevel=2,
            )
        of = f"{len(paths)} images" if len(paths) > 1 else printable_name(paths[0])
        parts = f"{len(specimens)} part{'s' * (len(specimens) > 1)}"
        notes = [
            f"{count} exposures at each step, of {parts} of {of} of at most {size} voxels (Z, Y, X), "
            f"of time-lapses the frame in the middle: {', '.join(specimen.name for specimen in specimens)}."
        ]
        if len(specimens) < count:
            notes.append("Exposures of one part differ in noise alone, and the intervals with them.")
        return specimens, notes

    def train(self, steps, learned, num_channels):
        """Train a network for each step.

        Parameters
        ----------
        steps : list of rcan.assess.limits.exposures.Step
        learned : list of Path or None
            Images to learn from; phantoms where None.
        num_channels : int

        Returns
        -------
        restorer_of : callable
            From a step to the restorer of its images.
        """
        from rcan.assess.limits.exposures import adapt_network
        from rcan.assess.limits.training import train_steps
        from rcan.run_folder.models import load_model

        options = self._options
        specimens, _ = self.specimens(learned, options.training_volumes, _TRAINING)
        run_dirs = train_steps(
            steps,
            specimens,
            lambda step: config_for(options, step.name),
            folder=folder_of(options) / "training",
            microscope=self.microscope,
            seed=options.seed + 1,  # other noise than that of the test
        )
        return lambda step: adapt_network(load_model(run_dirs[step])[0], num_channels)

    def draw_steps(self, steps, specimen, restorer_of):
        """Images of the first exposure of each step, for people.

        Parameters
        ----------
        steps : list of rcan.assess.limits.exposures.Step
        specimen : rcan.assess.limits.specimens.Specimen
        restorer_of : callable

        Returns
        -------
        pictures : dict
            By what is to be said of them: images by name, matched to the ground truth, and their voxel size.
        """
        import numpy as np

        from rcan.assess.limits.exposures import compare_exposure, noise_seed
        from rcan.intensity import match_affine

        pictures = {}
        for step in steps:
            rng = np.random.default_rng(noise_seed(self._options.seed, 0, step))
            found = compare_exposure(
                restorer_of(step),
                specimen,
                step,
                microscope=self.microscope,
                percentiles=self._percentiles,
                rng=rng,
            )
            images = {"raw": found.raw, found.name: found.reference.image, "restored": found.restored}
            matched = {name: match_affine(image, specimen.gt) for name, image in images.items()}
            words = f"{specimen.name}: {step.photons:g} photons, blur {step.blur:g}, SNR {found.snr:.3g}"
            pictures[words] = {**matched, "ground truth": specimen.gt}, specimen.voxel_size
        return pictures
