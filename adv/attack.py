"""Write GCG suffixes: ``python attack.py --dataset advbench.csv --out yourdata.json`` (the same as ``rain attack``)."""

import sys

from rain.cli import main

if __name__ == "__main__":
    sys.exit(main(["attack", *sys.argv[1:]]))
