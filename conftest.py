"""Before the first test: TensorFlow as the commands load it."""

from rcan.cli import import_keras

import_keras()
