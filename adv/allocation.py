"""AdvBench behaviours with adversarial suffixes: ``python allocation.py --help``."""

import sys
from pathlib import Path

from rain.core.config import RainConfig
from rain.data.readers import ADV
from rain.launch import main
from rain.tasks.task import Task

TASK = Task(
    name="adv",
    folder=Path(__file__).parent,
    reader=ADV,
    dataset="demo.json",
    config=RainConfig(min_visits=5, candidate_temperature=2.0, max_draws=19),
    template="../HH/templates/harmless_letters.txt",
    stop_strings=("USER:",),
    presets={
        "smollm2": {
            "max_new_tokens": 96,
            "templates": "../HH/templates/harmless_words.txt",
            "votes": "soft",
            "offset": -1.579,
            "scale": 1.091,
        }
    },
)

if __name__ == "__main__":
    sys.exit(main(TASK))
