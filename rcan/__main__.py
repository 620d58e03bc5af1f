"""`rcan COMMAND` and `python -m rcan COMMAND`."""

import importlib
import sys

from rcan.options import nearest

COMMANDS = {
    "demo": "train a first network on simulated pairs, in a few minutes",
    "train": "train a network on pairs of raw and ground-truth volumes",
    "apply": "restore volumes with a trained network",
    "simulate": "make pairs of raw and ground-truth volumes",
    "check": "find out what is wrong with training data, before a training",
    "evaluate": "judge a trained network on pairs of raw and ground-truth volumes",
    "convert": "write a model of the published program as a file of Keras 3",
    "export": "write a trained network for bioimage.io, Hugging Face, ONNX or TensorFlow, or its card",
    "doctor": "say what this machine has: GPU, memory, versions, optional parts",
    "limits": "find out from which noise and blur on a trained network stops helping",
}


def main(argv=None):
    """Run the command that the first argument names; return its exit status."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        lines = (f"  {name:10}{purpose}" for name, purpose in COMMANDS.items())
        closing = "\nrcan COMMAND --help lists its flags, rcan --version shows the version."
        print("usage: rcan COMMAND [flags]\n", *lines, closing, sep="\n")
        return 0
    if command == "--version":
        from rcan.studies.machine import describe_devices, describe_versions

        print(f"{describe_versions()}\n{describe_devices()}")
        return 0
    if command not in COMMANDS:
        meant = nearest(command, [*COMMANDS, "--version", "--help"])
        print(f"error: {command} is not a command.{meant} (rcan --help lists them.)", file=sys.stderr)
        return 2
    return importlib.import_module(f"rcan.commands.{command}").main(rest, prog=f"rcan {command}")


if __name__ == "__main__":
    sys.exit(main())
