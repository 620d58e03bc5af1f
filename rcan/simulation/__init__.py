"""Simulated microscopy, in the order of the physics: phantom, optics, camera; and pairs of images made of them.

A phantom is the density of fluorophores, background 0 and signal up to 1. The optics blur it, the blurred density sets
the photons expected at each voxel, and the camera counts them with noise. Arrays are (Z, Y, X, C), lengths are in µm,
and all random numbers come from the NumPy generator that a function is given.

Pairs are made of phantoms, as in the blur study of Chen et al. (solid and hollow spheres, blurred two, three and four
times as wide as the sharp image), or of a real volume, which then is the ground truth itself::

    raw, gt = simulate_pair(make_phantom("mixture", (32, 256, 256), voxel_size=voxel_size, rng=rng), ...)
    raw, gt = degrade(density_from_image(image), source_blur=1, ...), image

References: Chen et al., Nat. Methods 18, 678 (2021), doi:10.1038/s41592-021-01155-x
"""
