"""Harmlessness on red-teaming prompts: ``python allocation.py --help`` (the same as ``rain run hh``)."""

import sys

from rain.entry import allocate

if __name__ == "__main__":
    sys.exit(allocate("hh"))
