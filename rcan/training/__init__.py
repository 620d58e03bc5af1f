"""Training: from a checked configuration to a run folder.

Adam with a learning rate that falls with the epochs, `batch_size` patches for each device and step; after every epoch
the network that restores the validation patches best is kept. One loop of our own serves one device, several, and
several machines: the place where it stands is saved, so that a run goes on where it was interrupted.
"""
