"""Controlled sentiment: ``python allocation.py --help`` (the same as ``rain run imdb``)."""

import sys

from rain.entry import allocate

if __name__ == "__main__":
    sys.exit(allocate("imdb"))
