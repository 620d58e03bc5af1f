"""Restoring: any Keras model over any volume (`tiles`), and over image files (`files`)."""

from rcan.restoration.files import FileRestorer
from rcan.restoration.tiles import restore, restore_slabs, tile_axis, upscaling_of

__all__ = ["FileRestorer", "restore", "restore_slabs", "tile_axis", "upscaling_of"]
