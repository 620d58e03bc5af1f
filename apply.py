"""Restore volumes with a trained network: python apply.py -m model_dir -i raw/ -o out/"""

import sys

from rcan.commands.apply import main

if __name__ == "__main__":
    sys.exit(main())
