"""TruthfulQA: ``python allocation.py --help`` (the same as ``rain run truth``)."""

import sys

from rain.launch import main
from rain.tasks.truth import TASK

if __name__ == "__main__":
    sys.exit(main(TASK))
