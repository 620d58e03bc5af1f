"""Before the first test: TensorFlow as the commands load it."""

import rcan.keras_setup  # noqa: F401
