"""Harmlessness on red-teaming prompts: ``python allocation.py --help`` (the same as ``rain run hh``)."""

import sys

from rain.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "hh", *sys.argv[1:]]))
