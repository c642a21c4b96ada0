"""AdvBench behaviours with adversarial suffixes: ``python allocation.py --help`` (the same as ``rain run adv``)."""

import sys

from rain.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "adv", *sys.argv[1:]]))
