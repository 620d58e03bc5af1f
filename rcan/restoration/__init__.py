"""Restoring: any Keras model (`engine`) over any volume (`tiles`, `blocks`), and over image files (`files`)."""

from rcan.restoration.attention import with_local_attention
from rcan.restoration.blocks import is_computing, plan_tiles, restore, restore_blocks
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, upscaling_of, voxels_within_memory
from rcan.restoration.files import FileRestorer
from rcan.restoration.output import Report

__all__ = [
    "Ensemble",
    "FileRestorer",
    "KerasEngine",
    "Report",
    "find_devices",
    "is_computing",
    "plan_tiles",
    "restore",
    "restore_blocks",
    "upscaling_of",
    "voxels_within_memory",
    "with_local_attention",
]
