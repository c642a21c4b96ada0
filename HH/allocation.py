"""Harmlessness on red-teaming prompts: ``python allocation.py --help`` (the same as ``rain run hh``)."""

import sys

from rain.launch import main
from rain.tasks.hh import TASK

if __name__ == "__main__":
    sys.exit(main(TASK))
