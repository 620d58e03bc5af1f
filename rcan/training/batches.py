"""Batches of patches for each device."""

import numpy as np

from rcan.data.patches import make_dataset
from rcan.keras_setup import tf


def distribute_batches(sampler, indices, *, batch_size, strategy):
    """Make a dataset with a batch of `batch_size` patches for each device and step, in the order of their indices."""
    num_devices = strategy.num_replicas_in_sync

    def make_for_machine(context):
        """The batches of one machine."""
        by_step = indices.reshape(-1, batch_size * num_devices)
        parts = np.split(by_step, context.num_input_pipelines, axis=1)
        dataset = make_dataset(sampler, parts[context.input_pipeline_id].ravel(), batch_size=batch_size)
        # of data without end the strategy need not ask all machines before each step whether there are more
        return dataset.repeat() if num_devices > 1 else dataset

    return strategy.distribute_datasets_from_function(make_for_machine)


def iterate_batches(dataset, sampler):
    """Yield the batches of a dataset; if a patch cannot be read, raise the error of its sampler."""
    try:
        yield from dataset
    except tf.errors.OpError as failure:
        if sampler.failure:
            raise sampler.failure from None  # TensorFlow's error would hide its message
        raise failure
