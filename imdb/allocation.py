"""Controlled sentiment: ``python allocation.py --help`` (the same as ``rain run imdb``)."""

import sys

from rain.launch import main
from rain.tasks.imdb import TASK

if __name__ == "__main__":
    sys.exit(main(TASK))
