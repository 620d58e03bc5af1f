"""What a worker of a Dask cluster does. A scheduler imports what its tasks name: this module loads no Keras."""

__all__ = ["work"]


def work(options, model_signature, num_processes, request=None):
    """Restore a part, or tell what the main process has to know, see `rcan.restoration.dask_cluster.perform`.

    The network is loaded once while options, network and the number of processes on this machine stay.
    """
    from rcan.restoration.dask_cluster import perform

    return perform(_load, (options, model_signature, num_processes), request)


def _load(options, model_signature, num_processes):
    from rcan.restoration.setup import load_restorer

    return load_restorer(options, num_processes=num_processes)
