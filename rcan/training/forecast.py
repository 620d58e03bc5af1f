"""What a training will take, before it begins."""

import math

from rcan.keras_setup import tf
from rcan.memory import free_memory
from rcan.training.gradient import has_fast_stock_gradient


def step_memory(config, upscaling):
    """Bytes that a training step takes on each device, measured with `benchmarks/memory.py` on a CPU."""
    groups, blocks = config.num_residual_groups, config.num_residual_blocks
    # maps of all feature channels that are kept for the gradient: four for each block, one for each group
    maps = 4 * groups * blocks + groups + 5
    if not has_fast_stock_gradient() and not tf.config.list_logical_devices("GPU"):
        maps *= 2
    coarser = math.prod(config.downsampling or (1,))
    maps = maps / coarser + 4 * (math.prod(upscaling) - 1)
    num_bytes = 2.25 if config.precision.startswith("mixed") else 4  # the first and the last maps stay float32
    ends = 14 * (coarser > 1)  # bytes of what the convolutions between the two grids hold
    return (num_bytes * maps + ends) * config.num_channels * config.batch_size * math.prod(config.patch_shape)


def forecast(config, data, sampler, learner, own_names=()):
    """Put into words what a training will take; a ValueError if a step on the CPU needs more memory than is free.

    The memory of a network of the caller's own, of which the functions `own_names` tell, is not known.
    """
    first, shape = data.training[0], "x".join(map(str, config.patch_shape))
    num_devices = learner.strategy.num_replicas_in_sync
    needed, free = step_memory(config, first.upscaling), free_memory()
    is_on_cpu = not tf.config.list_logical_devices("GPU")
    if is_on_cpu and "network" not in own_names and needed * num_devices > free:
        raise ValueError(
            f"a training step with patches of {shape}, {config.num_channels} channels and batch_size "
            f"{config.batch_size} needs about {needed * num_devices / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free: choose a smaller patch_shape, num_channels or batch_size."
        )
    voxels = config.steps_per_epoch * config.batch_size * math.prod(config.patch_shape)
    where = f" on each of {num_devices} devices" * (num_devices > 1)
    available = f", {free / 1e9:.1f} GB are free" * is_on_cpu
    memory = f"; a step takes about {needed / 1e9:.2g} GB of memory{where}{available}" * ("network" not in own_names)
    return (
        f"Training on {_count(data.training, 'pair')}, validating on {_count(data.validation, 'pair')}: "
        f"{sampler.num_positions:,} positions with enough signal for patches of {shape}.\n"
        f"{learner.network.count_params():,} parameters; {config.epochs} epochs of {voxels / 1e6:.3g} million voxels"
        f"{memory}."
    )


def _count(items, noun):
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"
