"""Controlled sentiment: ``python allocation.py --help`` (the same as ``rain run imdb``)."""

import sys

from rain.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "imdb", *sys.argv[1:]]))
