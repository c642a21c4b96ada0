"""TruthfulQA: ``python allocation.py --help`` (the same as ``rain run truth``)."""

import sys

from rain.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "truth", *sys.argv[1:]]))
