"""The run folder: everything that a training run leaves behind, and how it is read again.

A run folder describes itself::

    best.keras      the network with the lowest validation loss so far
    last.keras      the network after the newest epoch
    history.csv     losses and measures of every epoch (history.png: the same, drawn)
    config.json     every key of the configuration, resolved
    training.json   versions, data, intensity ranges, patch shape, seed
    checkpoints/    the last two states of the training, complete with optimizer and position, to go on from
    measured/       intensity ranges and positions of signal, so that a second run need not look for them
    patches.png     some validation patches as the newest network restores them
    restored.png    a volume that was scored at the end; report.html has all of the run on a page
    train/, validation/   TensorBoard events

A file gets its name only when it is complete. `layout` makes such a folder and guards the files in it, `record` and
`state` are typed `training.json` and `state.json`, `checkpoints` saves what a training goes on from, `models` reads
the network and its record.
"""
