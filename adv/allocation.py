"""AdvBench behaviours with adversarial suffixes: ``python allocation.py --help`` (the same as ``rain run adv``)."""

import sys

from rain.launch import main
from rain.tasks.adv import TASK

if __name__ == "__main__":
    sys.exit(main(TASK))
