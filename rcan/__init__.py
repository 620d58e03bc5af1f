"""Restoration of three-dimensional fluorescence microscopy with residual channel attention networks."""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "rcan.config",
    "ReportFile": "rcan.inline",
    "build_rcan": "rcan.model",
    "check_data": "rcan.studies.data_check",
    "create_volume": "rcan.io.opening",
    "denormalise": "rcan.intensity",
    "evaluate": "rcan.studies.evaluation",
    "export_model": "rcan.export.formats",
    "find_limits": "rcan.studies.limits",
    "list_images": "rcan.io.opening",
    "load_config": "rcan.config",
    "load_model": "rcan.run_folder.models",
    "normalise": "rcan.intensity",
    "open_volume": "rcan.io.opening",
    "percentile_range": "rcan.ranges",
    "restore": "rcan.restoration.tiled",
    "restore_folder": "rcan.restoration.folder",
    "simulate_pairs": "rcan.simulation.pairs",
    "train": "rcan.training.fit",
    "view_image": "rcan.data.views",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    """Import a public name when it is first used: `import rcan` itself stays quick."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rcan' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
