"""What an image looks like to a network (noise, blur, structure), and whether it is like the training data.

A network restores images like its training data, and invents where an image differs. So training records the
*fingerprint* of every raw volume (`measure`), and before an image is restored its own is compared with them (`domain`):
it is `inside` the range of the training data, on its `edge`, or `outside`, with the reason.

A fingerprint (`records`) holds the voxel size, and for each channel

noise, snr
    `estimate_noise`, which needs to know nothing of the camera. The signal-to-noise ratio is the range from background
    to signal (percentiles 2 and 99.9 of the image without its noise) over the standard deviation of the noise at its
    bright end, as `rcan.simulation.camera.expose` states it in photons.
range, saturated, histogram
    Background and signal in grey values, share of saturated voxels, and the intensities between the two.
spectrum
    Radially averaged power, lateral and axial, without that of the noise.
features, errors
    The few numbers that are compared, and how much they would scatter if the image had other content of the same kind,
    which its blocks tell.

Only some blocks of a large image are read, always the same ones. docs/trained_range.md describes the method, and how
often it is right.
"""
