"""Training: from a checked configuration to a run folder.

Adam with a learning rate that falls with the epochs, one patch for each device and step, and after every epoch
the network that restores the validation patches best is kept. One loop of our own serves one device, several, and
several machines: the place where it stands is saved, so that a run goes on where it was interrupted.
"""

from rcan.training.devices import is_chief
from rcan.training.gradient import use_fast_gradient
from rcan.training.loop import learning_rate
from rcan.training.run import Data, open_data, train

__all__ = ["Data", "is_chief", "learning_rate", "open_data", "train", "use_fast_gradient"]
