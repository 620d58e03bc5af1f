"""Images on disk as lazy, axis-aware blocks.

A file has *axes*, a string in storage order such as ``"TZCYX"``, read from its metadata or named by the user.
Inside the package an array is one *block* that ends in its channels: ``(Z, Y, X, C)``, or ``(Y, X, C)`` for a
two-dimensional network. What a block leaves out (time points; channels or planes where the network does not
see them) is looped over as *frames*. `Volume.read` and `Sink.write` take a frame and a region, and hide
format, byte order, compression and laziness: no call loads a whole file, and an open file costs nothing.

Conventions: voxel sizes are (z, y, x) in µm, times in seconds, None stands for unknown. A file that cannot be
read ends in one ValueError that starts with its path; what can be read but looks wrong, in a warning.
"""
