"""Train a 3D RCAN: python train.py -c config.json"""

import sys

from rcan.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
