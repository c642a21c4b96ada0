"""AdvBench behaviours with adversarial suffixes: ``python allocation.py --help`` (the same as ``rain run adv``)."""

import sys

from rain.entry import allocate

if __name__ == "__main__":
    sys.exit(allocate("adv"))
