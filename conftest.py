"""Before the first test: TensorFlow as the commands load it."""

import rcan.keras_setup  # noqa: F401

# The plug-in of napari is not imported beside TensorFlow, see `rcan/napari/worker.py`.
collect_ignore_glob = ["rcan/napari/*", "tests/gui_napari.py"]
