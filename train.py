"""Train a 3D RCAN: python train.py -c config.json"""

import sys

import rcan
from rcan.cli import run_command
from rcan.commands.train import TrainOptions
from rcan.config import Config


def train(options: TrainOptions):
    """Train a network on pairs of raw and ground-truth volumes.

    Every key of the config file can also be given as a flag, which counts more than the file. Keys of
    several parts are written as in JSON, lists of numbers as 16,256,256.
    """
    config = options.load_config()  # the config file and the flags, checked
    from rcan.report.finish import finish_training  # these import Keras, which takes seconds
    from rcan.training.run_data import open_data

    data = open_data(config, resume=options.resume)  # pairs of volumes, checked and measured
    # builds the network, and fits it to patches of the pairs, epoch by epoch
    run_dir = rcan.train(config, data, overwrite=options.overwrite, resume=options.resume)
    finish_training(run_dir, data, apply_program="python apply.py")  # scores, picture, report


if __name__ == "__main__":
    sys.exit(run_command(train, prog="train.py", overrides=Config))
